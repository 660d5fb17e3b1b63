#include "load/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "load/jinja/value.h"
#include "load/utf8.h"

namespace lowkey::jinja {

namespace {

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<uint8_t>(c) >= 0x80;
}
bool is_name_part(char c) {
  return is_name_start(c) || is_digit(c);
}

int hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) text_then_tag();
    add(TokenType::kEnd, "", source_.size());
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void error(size_t offset, std::string_view what) const {
    template_error(fmt::format("{}: {}", position(source_, offset), what));
  }

  void add(TokenType type, std::string text, size_t offset) {
    tokens_.push_back({type, std::move(text), offset});
  }

  bool looking_at(std::string_view wanted) const { return source_.substr(at_).starts_with(wanted); }

  // ---- between tags

  void text_then_tag() {
    const size_t begin = at_;
    size_t tag = begin;
    while (tag + 1 < source_.size() && !opens_tag(tag)) ++tag;
    if (tag + 1 >= source_.size()) {
      add_text(begin, source_.size());
      at_ = source_.size();
      return;
    }
    const char kind = source_[tag + 1];
    at_ = tag + 2;
    size_t end = tag;
    if (at_ < source_.size() && source_[at_] == '-') {
      end = begin + stripped(source_.substr(begin, tag - begin), nullptr, false, true).second;
      ++at_;
    } else if (kind != '{' && at_ < source_.size() && source_[at_] == '+') {
      ++at_;
    } else if (kind != '{') {
      end = without_indentation(begin, tag);
    }
    add_text(begin, end);
    if (kind == '#') {
      comment(tag);
    } else if (kind == '{') {
      add(TokenType::kOutputBegin, "{{", tag);
      expression(tag, "}}", TokenType::kOutputEnd);
    } else if (!raw(tag)) {
      add(TokenType::kBlockBegin, "{%", tag);
      expression(tag, "%}", TokenType::kBlockEnd);
    }
  }

  bool opens_tag(size_t at) const {
    const char next = source_[at + 1];
    return source_[at] == '{' && (next == '{' || next == '%' || next == '#');
  }

  void add_text(size_t begin, size_t end) {
    if (end > begin) add(TokenType::kText, std::string(source_.substr(begin, end - begin)), begin);
  }

  // lstrip_blocks: where the text ends if only white space stands between the line's start and the
  // tag.
  size_t without_indentation(size_t begin, size_t tag) const {
    const size_t line = source_.substr(begin, tag - begin).rfind('\n');
    if (line == std::string_view::npos && !line_start_) return tag;
    const size_t start = line == std::string_view::npos ? begin : begin + line + 1;
    const std::string_view indentation = source_.substr(start, tag - start);
    const bool blank = stripped(indentation, nullptr, true, false).first == indentation.size();
    return blank ? start : tag;
  }

  // After "-%}": all white space goes. After "%}" and "#}": one line break goes (trim_blocks).
  void after_tag(bool strip, bool trim) {
    if (strip) {
      while (at_ < source_.size()) {
        const size_t n = utf8_length(source_.substr(at_));
        if (n == 0 || !is_python_space(utf8_decode(source_.substr(at_, n)))) break;
        at_ += n;
      }
    } else if (trim && looking_at("\n")) {
      ++at_;
    }
    line_start_ = source_[at_ - 1] == '\n';
  }

  void comment(size_t tag) {
    const size_t end = source_.find("#}", at_);
    if (end == std::string_view::npos) error(tag, "a comment has no end");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    at_ = end + 2;
    after_tag(sign == '-', sign != '+');
  }

  // {% raw %} ... {% endraw %}; false if this is another tag.
  bool raw(size_t tag) {
    size_t at = at_;
    const auto skip_space = [&] {
      while (at < source_.size() && is_space(source_[at])) ++at;
    };
    const auto word = [&](std::string_view wanted) {
      skip_space();
      if (!source_.substr(at).starts_with(wanted)) return false;
      at += wanted.size();
      return at >= source_.size() || !is_name_part(source_[at]);
    };
    if (!word("raw")) return false;
    skip_space();
    const bool strip_inside = at < source_.size() && source_[at] == '-';
    if (strip_inside) ++at;
    if (!source_.substr(at).starts_with("%}")) return false;
    at_ = at + 2;
    after_tag(strip_inside, false);
    const size_t begin = at_;
    for (size_t open = source_.find("{%", begin); open != std::string_view::npos;
         open = source_.find("{%", open + 2)) {
      at = open + 2;
      const char sign = at < source_.size() ? source_[at] : '\0';
      if (sign == '-' || sign == '+') ++at;
      if (!word("endraw")) continue;
      skip_space();
      const char closing = at < source_.size() ? source_[at] : '\0';
      if (closing == '-' || closing == '+') ++at;
      if (!source_.substr(at).starts_with("%}")) continue;
      size_t end = open;
      if (sign == '-') {
        end = begin + stripped(source_.substr(begin, open - begin), nullptr, false, true).second;
      } else if (sign != '+') {
        end = without_indentation(begin, open);
      }
      add_text(begin, end);
      at_ = at + 2;
      after_tag(closing == '-', closing != '+');
      return true;
    }
    error(tag, "{% raw %} has no {% endraw %}");
  }

  // ---- inside a tag

  void expression(size_t tag, std::string_view closing, TokenType end_type) {
    std::string open;  // brackets: "}}" inside a dict does not end the tag
    for (;;) {
      while (at_ < source_.size() && is_space(source_[at_])) ++at_;
      if (at_ >= source_.size()) error(tag, fmt::format("a tag is not closed by '{}'", closing));
      if (open.empty() && close(closing, end_type)) return;
      const char c = source_[at_];
      if (is_name_start(c)) {
        name();
      } else if (is_digit(c)) {
        number();
      } else if (c == '"' || c == '\'') {
        string();
      } else {
        punctuation(open);
      }
    }
  }

  bool close(std::string_view closing, TokenType type) {
    const bool block = type == TokenType::kBlockEnd;
    const char sign = source_[at_];
    const bool has_sign = sign == '-' || (block && sign == '+');
    if (!source_.substr(at_ + (has_sign ? 1 : 0)).starts_with(closing)) return false;
    add(type, std::string(closing), at_);
    at_ += closing.size() + (has_sign ? 1 : 0);
    after_tag(has_sign && sign == '-', block && !has_sign);
    return true;
  }

  void name() {
    const size_t begin = at_;
    while (at_ < source_.size() && is_name_part(source_[at_])) ++at_;
    add(TokenType::kName, std::string(source_.substr(begin, at_ - begin)), begin);
  }

  void digits(std::string& out) {
    while (at_ < source_.size() && (is_digit(source_[at_]) || source_[at_] == '_')) {
      if (source_[at_] != '_') out += source_[at_];
      ++at_;
    }
  }

  void number() {
    const size_t begin = at_;
    std::string text;
    digits(text);
    const auto digit_at = [&](size_t i) { return i < source_.size() && is_digit(source_[i]); };
    // After a dot it is a subscript: x.0.1 has no floats in it.
    const bool subscript = begin > 0 && source_[begin - 1] == '.';
    bool is_float = false;
    if (!subscript && looking_at(".") && digit_at(at_ + 1)) {
      is_float = true;
      text += source_[at_++];
      digits(text);
    }
    if (!subscript && (looking_at("e") || looking_at("E"))) {
      const size_t sign = at_ + 1;
      const bool has_sign = sign < source_.size() && (source_[sign] == '+' || source_[sign] == '-');
      if (digit_at(sign + (has_sign ? 1 : 0))) {
        is_float = true;
        text += 'e';
        ++at_;
        if (has_sign) text += source_[at_++];
        digits(text);
      }
    }
    if (at_ < source_.size() && is_name_start(source_[at_])) {
      error(begin, "a number runs into a name");
    }
    add(is_float ? TokenType::kFloat : TokenType::kInteger, std::move(text), begin);
  }

  void string() {
    const size_t begin = at_;
    const char quote = source_[at_++];
    std::string out;
    for (;;) {
      if (at_ >= source_.size()) error(begin, "a string is not closed");
      const char c = source_[at_++];
      if (c == quote) break;
      if (c == '\\') {
        escape(begin, out);
      } else {
        out += c;
      }
    }
    add(TokenType::kString, std::move(out), begin);
  }

  // Python's escapes; an unknown one stands for itself, backslash included.
  void escape(size_t begin, std::string& out) {
    if (at_ >= source_.size()) error(begin, "a string is not closed");
    const char c = source_[at_++];
    switch (c) {
      case '\n': return;
      case '\\':
      case '\'':
      case '"': out += c; return;
      case 'a': out += '\a'; return;
      case 'b': out += '\b'; return;
      case 'f': out += '\f'; return;
      case 'n': out += '\n'; return;
      case 'r': out += '\r'; return;
      case 't': out += '\t'; return;
      case 'v': out += '\v'; return;
      case 'x': return code_point(begin, 2, out);
      case 'u': return code_point(begin, 4, out);
      case 'U': return code_point(begin, 8, out);
      case 'N': error(at_ - 2, "\\N{...} is not supported");
      default: break;
    }
    if (c >= '0' && c <= '7') {
      char32_t value = static_cast<char32_t>(c - '0');
      for (int i = 0; i < 2 && at_ < source_.size() && source_[at_] >= '0' && source_[at_] <= '7';
           ++i) {
        value = value * 8 + static_cast<char32_t>(source_[at_++] - '0');
      }
      utf8_append(out, value);
      return;
    }
    out += '\\';
    out += c;
  }

  void code_point(size_t begin, int length, std::string& out) {
    char32_t value = 0;
    for (int i = 0; i < length; ++i) {
      const int digit = at_ < source_.size() ? hex_digit(source_[at_]) : -1;
      if (digit < 0) error(begin, fmt::format("an escape needs {} hexadecimal digits", length));
      value = value * 16 + static_cast<char32_t>(digit);
      ++at_;
    }
    if (value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) {
      error(begin, "an escape is not a character");
    }
    utf8_append(out, value);
  }

  void punctuation(std::string& open) {
    constexpr std::array<std::string_view, 6> kPairs = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kSingles = "+-*/%~[](){}<>=.:|,";
    for (const std::string_view pair : kPairs) {
      if (!looking_at(pair)) continue;
      add(TokenType::kOperator, std::string(pair), at_);
      at_ += 2;
      return;
    }
    const char c = source_[at_];
    if (kSingles.find(c) == std::string_view::npos) {
      const size_t n = std::max<size_t>(1, utf8_length(source_.substr(at_)));
      error(at_,
            fmt::format("unexpected character '{}'", utf8_replace_invalid(source_.substr(at_, n))));
    }
    if (c == '(' || c == '[' || c == '{') open += c;
    if (c == ')' || c == ']' || c == '}') {
      const char wanted = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open.empty() || open.back() != wanted) error(at_, fmt::format("unexpected '{}'", c));
      open.pop_back();
    }
    add(TokenType::kOperator, std::string(1, c), at_);
    ++at_;
  }

  std::string_view source_;
  size_t at_ = 0;
  bool line_start_ = true;  // the last tag ended a line
  std::vector<Token> tokens_;
};

}  // namespace

std::string normalize_source(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

std::vector<Token> tokenize(std::string_view normalized_source) {
  return Lexer(normalized_source).run();
}

std::string position(std::string_view source, size_t offset) {
  const std::string_view before = source.substr(0, std::min(offset, source.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t start = before.rfind('\n');
  const size_t column = start == std::string_view::npos ? before.size() : before.size() - start - 1;
  return fmt::format("line {}, column {}", line, column + 1);
}

}  // namespace lowkey::jinja
