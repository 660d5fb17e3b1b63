#include "load/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "load/search.h"
#include "load/unicode.h"
#include "load/utf8.h"

namespace lowkey::jinja {

namespace {

uint32_t deeper(uint32_t depth, const Value& element) {
  if (!element.storable()) {
    template_error(fmt::format("{} cannot be put inside another value", element.type_name()));
  }
  return std::max(depth, element.depth() + 1);
}

void check_depth(uint32_t depth) {
  if (depth > Value::kMaxDepth) {
    template_error(fmt::format("values nest more than {} deep", Value::kMaxDepth));
  }
}

// repr(float): the shortest digits that read back the same.
std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

// repr(str), close enough for people: what is inside lists and dicts when they are printed.
void append_repr(const Text& text, Text& out) {
  const bool single = text.view().find('\'') == std::string_view::npos ||
                      text.view().find('"') != std::string_view::npos;
  const char quote = single ? '\'' : '"';
  out.append(std::string_view(&quote, 1));
  text.for_each_run([&](std::string_view bytes, bool trusted) {
    for (const char c : bytes) {
      if (c == quote || c == '\\') {
        out.append(std::string{'\\', c}, trusted);
      } else if (c == '\n') {
        out.append("\\n", trusted);
      } else if (c == '\r') {
        out.append("\\r", trusted);
      } else if (c == '\t') {
        out.append("\\t", trusted);
      } else if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f) {
        out.append(fmt::format("\\x{:02x}", static_cast<uint8_t>(c)), trusted);
      } else {
        out.append(std::string_view(&c, 1), trusted);
      }
    }
  });
  out.append(std::string_view(&quote, 1));
}

void append_printed(const Value& value, bool nested, Text& out, Budget& budget) {
  budget.spend();
  switch (value.type()) {
    case ValueType::kUndefined: return;
    case ValueType::kNone: return out.append("None");
    case ValueType::kBool: return out.append(value.as_bool() ? "True" : "False");
    case ValueType::kInt: return out.append(fmt::format("{}", value.as_int()));
    case ValueType::kFloat: return out.append(float_text(value.as_float()));
    case ValueType::kString:
      budget.spend_bytes(value.as_text().size());
      if (nested) {
        append_repr(value.as_text(), out);
      } else {
        out.append(value.as_text());
      }
      return;
    case ValueType::kList: {
      const bool tuple = value.as_sequence()->tuple;
      out.append(tuple ? "(" : "[");
      bool first = true;
      for (const Value& item : value.as_list()) {
        if (!first) out.append(", ");
        first = false;
        append_printed(item, true, out, budget);
      }
      if (tuple && value.as_list().size() == 1) out.append(",");
      return out.append(tuple ? ")" : "]");
    }
    case ValueType::kDict: {
      out.append("{");
      bool first = true;
      for (const auto& [key, item] : value.as_dict()) {
        if (!first) out.append(", ");
        first = false;
        append_printed(key, true, out, budget);
        out.append(": ");
        append_printed(item, true, out, budget);
      }
      return out.append("}");
    }
    default: template_error(fmt::format("{} cannot be printed", value.type_name()));
  }
}

void append_json_string(const Text& text, Text& out) {
  out.append("\"");
  text.for_each_run([&](std::string_view bytes, bool trusted) {
    for (const char c : bytes) {
      switch (c) {
        case '"': out.append("\\\"", trusted); break;
        case '\\': out.append("\\\\", trusted); break;
        case '\n': out.append("\\n", trusted); break;
        case '\r': out.append("\\r", trusted); break;
        case '\t': out.append("\\t", trusted); break;
        case '\b': out.append("\\b", trusted); break;
        case '\f': out.append("\\f", trusted); break;
        default:
          if (static_cast<uint8_t>(c) < 0x20) {
            out.append(fmt::format("\\u{:04x}", static_cast<uint8_t>(c)), trusted);
          } else {
            out.append(std::string_view(&c, 1), trusted);
          }
      }
    }
  });
  out.append("\"");
}

class JsonWriter {
 public:
  JsonWriter(int indent, Budget& budget) : indent_(indent), budget_(budget) {}

  void write(const Value& value) {
    budget_.spend();
    switch (value.type()) {
      case ValueType::kNone: return out.append("null");
      case ValueType::kBool: return out.append(value.as_bool() ? "true" : "false");
      case ValueType::kInt: return out.append(fmt::format("{}", value.as_int()));
      case ValueType::kFloat: return out.append(json_float(value.as_float()));
      case ValueType::kString:
        budget_.spend_bytes(value.as_text().size());
        return append_json_string(value.as_text(), out);
      case ValueType::kList:
        return write_all(value.as_list(), "[", "]", [&](const Value& item) { write(item); });
      case ValueType::kDict:
        return write_all(value.as_dict(), "{", "}", [&](const auto& entry) {
          write_key(entry.first);
          out.append(": ");
          write(entry.second);
        });
      default: template_error(fmt::format("tojson cannot write {}", value.type_name()));
    }
  }

  Text out;

 private:
  static std::string json_float(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return float_text(value);
  }

  void write_key(const Value& key) {
    if (key.is_string()) return write(key);
    if (key.is_number() || key.is(ValueType::kNone)) {
      Text text;
      std::swap(text, out);
      write(key);
      std::swap(text, out);
      return append_json_string(text, out);
    }
    template_error(fmt::format("tojson cannot write a key that is {}", key.type_name()));
  }

  template <typename Items, typename Write>
  void write_all(const Items& items, const char* open, const char* close, Write&& write_one) {
    out.append(open);
    ++depth_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out.append(indent_ < 0 ? ", " : ",");
      new_line();
      write_one(items[i]);
    }
    --depth_;
    if (!items.empty()) new_line();
    out.append(close);
  }

  void new_line() {
    if (indent_ < 0) return;
    const size_t spaces = static_cast<size_t>(indent_) * depth_;
    budget_.spend_bytes(spaces);
    out.append("\n");
    out.append(std::string(spaces, ' '));
  }

  int indent_;
  Budget& budget_;
  size_t depth_ = 0;
};

}  // namespace

void template_error(std::string_view what) {
  fail(ErrorCode::kInvalidArgument, "chat template: {}", what);
}

void Budget::spend(uint64_t steps) {
  if (steps > left_) template_error(fmt::format("takes more than {} steps", kMaxSteps));
  left_ -= steps;
}

Value::Value(Text text) {
  if (text.size() > Budget::kMaxTextBytes) {
    template_error(fmt::format("makes a text of more than {} bytes", Budget::kMaxTextBytes));
  }
  data_ = std::make_shared<const Text>(std::move(text));
}

Value Value::list(List items, bool tuple) {
  uint32_t depth = 1;
  for (const Value& item : items) depth = deeper(depth, item);
  check_depth(depth);
  return Value(std::make_shared<const Sequence>(Sequence{std::move(items), depth, tuple}));
}

Value Value::dict(Dict entries) {
  uint32_t depth = 1;
  for (const auto& [key, item] : entries) depth = deeper(deeper(depth, key), item);
  check_depth(depth);
  return Value(std::make_shared<const Mapping>(Mapping{std::move(entries), depth}));
}

std::string_view Value::type_name() const {
  switch (type()) {
    case ValueType::kUndefined: return "an undefined value";
    case ValueType::kNone: return "none";
    case ValueType::kBool: return "a boolean";
    case ValueType::kInt: return "an integer";
    case ValueType::kFloat: return "a float";
    case ValueType::kString: return "a string";
    case ValueType::kList: return "a list";
    case ValueType::kDict: return "a dict";
    case ValueType::kNamespace: return "a namespace";
    case ValueType::kLoop: return "a loop";
    case ValueType::kCallable: return "a function";
  }
  return "";
}

bool Value::is_number() const {
  return is_integer() || is(ValueType::kFloat);
}
double Value::number() const {
  return is(ValueType::kFloat) ? as_float() : static_cast<double>(integer());
}
int64_t Value::integer() const {
  return is(ValueType::kBool) ? as_bool() : as_int();
}

bool Value::truthy() const {
  switch (type()) {
    case ValueType::kUndefined:
    case ValueType::kNone: return false;
    case ValueType::kBool: return as_bool();
    case ValueType::kInt: return as_int() != 0;
    case ValueType::kFloat: return as_float() != 0;
    case ValueType::kString: return !as_text().empty();
    case ValueType::kList: return !as_list().empty();
    case ValueType::kDict: return !as_dict().empty();
    default: return true;
  }
}

uint32_t Value::depth() const {
  if (is(ValueType::kList)) return as_sequence()->depth;
  if (is(ValueType::kDict)) return std::get<std::shared_ptr<const Mapping>>(data_)->depth;
  return 0;
}

const Value* find(const Dict& dict, std::string_view key, Budget& budget) {
  budget.spend(1 + dict.size() / 16);
  for (const auto& [name, value] : dict) {
    if (name.is_string() && name.as_view() == key) return &value;
  }
  return nullptr;
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.spend();
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case ValueType::kUndefined:
    case ValueType::kNone: return true;
    case ValueType::kString:
      budget.spend_bytes(std::min(a.as_text().size(), b.as_text().size()));
      return a.as_view() == b.as_view();
    case ValueType::kList:
      if (a.as_sequence()->tuple != b.as_sequence()->tuple) return false;
      return std::equal(a.as_list().begin(), a.as_list().end(), b.as_list().begin(),
                        b.as_list().end(),
                        [&](const Value& x, const Value& y) { return equal(x, y, budget); });
    case ValueType::kDict:
      if (a.as_dict().size() != b.as_dict().size()) return false;
      return std::all_of(a.as_dict().begin(), a.as_dict().end(), [&](const auto& entry) {
        return std::any_of(b.as_dict().begin(), b.as_dict().end(), [&](const auto& other) {
          return equal(entry.first, other.first, budget) &&
                 equal(entry.second, other.second, budget);
        });
      });
    case ValueType::kNamespace: return &a.as_namespace() == &b.as_namespace();
    default: return false;
  }
}

bool less(const Value& a, const Value& b, Budget& budget) {
  budget.spend();
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return a.integer() < b.integer();
    return a.number() < b.number();
  }
  if (a.is_string() && b.is_string()) {
    budget.spend_bytes(std::min(a.as_text().size(), b.as_text().size()));
    return a.as_view() < b.as_view();
  }
  if (a.is(ValueType::kList) && b.is(ValueType::kList)) {
    const List &x = a.as_list(), &y = b.as_list();
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i], budget)) return less(x[i], y[i], budget);
    }
    return x.size() < y.size();
  }
  template_error(fmt::format("{} and {} have no order", a.type_name(), b.type_name()));
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  switch (container.type()) {
    case ValueType::kUndefined: return false;
    case ValueType::kString:
      if (!item.is_string()) {
        template_error(fmt::format("'in' looks for {} in a string", item.type_name()));
      }
      budget.spend_search(container.as_text().size());
      return item.as_text().empty() ||
             find_text(container.as_view(), item.as_view()) != std::string_view::npos;
    case ValueType::kList:
      return std::any_of(container.as_list().begin(), container.as_list().end(),
                         [&](const Value& x) { return equal(x, item, budget); });
    case ValueType::kDict:
      return std::any_of(container.as_dict().begin(), container.as_dict().end(),
                         [&](const auto& entry) { return equal(entry.first, item, budget); });
    case ValueType::kNamespace:
    default: template_error(fmt::format("'in' cannot look into {}", container.type_name()));
  }
}

Text to_text(const Value& value, Budget& budget) {
  Text out;
  append_printed(value, false, out, budget);
  return out;
}

Text to_json(const Value& value, int indent, Budget& budget) {
  JsonWriter writer(indent, budget);
  writer.write(value);
  return std::move(writer.out);
}

List iterate(const Value& value, Budget& budget) {
  List out;
  switch (value.type()) {
    case ValueType::kUndefined: break;
    case ValueType::kList:
      budget.spend(1 + value.as_list().size());
      out = value.as_list();
      break;
    case ValueType::kDict:
      budget.spend(1 + value.as_dict().size());
      for (const auto& entry : value.as_dict()) out.push_back(entry.first);
      break;
    case ValueType::kString: {
      const Text& text = value.as_text();
      for (size_t at = 0; at < text.size();) {
        budget.spend(4);  // each is a text of its own
        const size_t next = at + std::max<size_t>(1, utf8_length(text.view().substr(at)));
        out.emplace_back(text.slice(at, next));
        at = next;
      }
      break;
    }
    default: template_error(fmt::format("{} cannot be looped over", value.type_name()));
  }
  return out;
}

size_t text_length(std::string_view text) {
  size_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) {
    at += std::max<size_t>(1, utf8_length(text.substr(at)));
  }
  return count;
}

size_t text_offset(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) {
    at += std::max<size_t>(1, utf8_length(text.substr(at)));
  }
  return at;
}

bool is_python_space(char32_t c) {
  return is_white_space(c) || (c >= 0x1c && c <= 0x1f);
}

std::pair<size_t, size_t> stripped(std::string_view text, const std::string_view* chars, bool left,
                                   bool right) {
  const auto drop = [&](std::string_view character) {
    if (chars != nullptr) return chars->find(character) != std::string_view::npos;
    return utf8_length(character) == character.size() && is_python_space(utf8_decode(character));
  };
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    const size_t n = std::max<size_t>(1, utf8_length(text.substr(begin)));
    if (!drop(text.substr(begin, n))) break;
    begin += n;
  }
  while (right && begin < end) {
    size_t n = 1;
    while (n < 4 && end - n > begin && (static_cast<uint8_t>(text[end - n]) & 0xc0) == 0x80) ++n;
    if (utf8_length(text.substr(end - n, n)) != n) n = 1;
    if (!drop(text.substr(end - n, n))) break;
    end -= n;
  }
  return {begin, end};
}

}  // namespace lowkey::jinja
