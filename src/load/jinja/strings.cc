#include "load/jinja/strings.h"

#include <fmt/format.h>

#include <algorithm>

#include "load/search.h"
#include "load/unicode.h"
#include "load/utf8.h"

namespace lowkey::jinja {

namespace {

// Maps every character by map(code point); bytes that are not UTF-8 stay.
template <typename Map>
Text map_characters(const Text& text, Budget& budget, Map&& map) {
  budget.spend_bytes(2 * text.size());
  Text out;
  text.for_each_run([&](std::string_view run, bool trusted) {
    std::string mapped;
    mapped.reserve(run.size());
    while (!run.empty()) {
      const size_t n = utf8_length(run);
      if (n == 0) {
        mapped += run[0];
      } else {
        utf8_append(mapped, map(utf8_decode(run.substr(0, n))));
      }
      run.remove_prefix(std::max<size_t>(1, n));
    }
    out.append(mapped, trusted);
  });
  return out;
}

// Where str.splitlines() breaks: the length of the line break at `at`, 0 if there is none.
size_t line_break(std::string_view text, size_t at) {
  const std::string_view rest = text.substr(at);
  if (rest.starts_with("\r\n")) return 2;
  const size_t n = utf8_length(rest);
  if (n == 0) return 0;
  const char32_t c = utf8_decode(rest.substr(0, n));
  const bool breaks = (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 ||
                      c == 0x2028 || c == 0x2029;
  return breaks ? n : 0;
}

List split_at_space(const Text& text, int64_t max, bool right) {
  const std::string_view view = text.view();
  std::vector<std::pair<size_t, size_t>> words;  // byte ranges
  const auto [begin, end] = stripped(view, nullptr, true, true);
  const auto is_space_at = [&](size_t at, size_t n) {
    return n > 0 && is_python_space(utf8_decode(view.substr(at, n)));
  };
  // One pass over the characters finds all words; `max` then says how many of them to keep apart.
  for (size_t at = begin, word = begin; at < end;) {
    const size_t n = utf8_length(view.substr(at));
    const size_t next = at + std::max<size_t>(1, n);
    if (is_space_at(at, n)) {
      if (at > word) words.emplace_back(word, at);
      word = next;
    } else if (next >= end) {
      words.emplace_back(word, end);
    }
    at = next;
  }
  // The rest keeps the white space at its far end, as in Python.
  if (max >= 0 && words.size() > static_cast<size_t>(max)) {
    const auto keep = static_cast<size_t>(max);
    if (right) {
      const size_t rest_end = words[words.size() - keep - 1].second;
      words.erase(words.begin() + 1, words.end() - static_cast<ptrdiff_t>(keep));
      words[0] = {0, rest_end};
    } else {
      words.resize(keep + 1);
      words[keep].second = text.size();
    }
  }
  List out;
  for (const auto& [from, to] : words) out.emplace_back(text.slice(from, to));
  return out;
}

}  // namespace

Text upper(const Text& text, Budget& budget) {
  return map_characters(text, budget, to_upper);
}
Text lower(const Text& text, Budget& budget) {
  return map_characters(text, budget, to_lower);
}

Text capitalize(const Text& text, Budget& budget) {
  bool first = true;
  return map_characters(text, budget, [&](char32_t c) {
    return std::exchange(first, false) ? to_upper(c) : to_lower(c);
  });
}

Text title(const Text& text, Budget& budget) {
  bool in_word = false;
  return map_characters(text, budget, [&](char32_t c) {
    const char32_t mapped = in_word ? to_lower(c) : to_upper(c);
    in_word = is_letter(c);
    return mapped;
  });
}

Text title_words(const Text& text, Budget& budget) {
  bool in_word = false;
  return map_characters(text, budget, [&](char32_t c) {
    const char32_t mapped = in_word ? to_lower(c) : to_upper(c);
    in_word = !(is_python_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<');
    return mapped;
  });
}

Text strip(const Text& text, const Value* chars, bool left, bool right, Budget& budget) {
  budget.spend_bytes(text.size());
  if (chars == nullptr || chars->is(ValueType::kNone)) {
    const auto [begin, end] = stripped(text.view(), nullptr, left, right);
    return text.slice(begin, end);
  }
  if (!chars->is_string()) template_error("strip needs a string of characters");
  const std::string_view set = chars->as_view();
  budget.spend((1 + text.size() / 64) * (1 + set.size() / 16));
  const auto [begin, end] = stripped(text.view(), &set, left, right);
  return text.slice(begin, end);
}

Text replace(const Text& text, const Text& from, const Text& to, int64_t count, Budget& budget) {
  if (from.empty()) template_error("replace needs something to look for");
  budget.spend_search(text.size());
  Text out;
  size_t at = 0;
  while (count != 0) {
    const size_t hit = find_text(text.view(), from.view(), at);
    if (hit == std::string_view::npos) break;
    budget.spend();
    out.append(text, at, hit);
    budget.spend_bytes(to.size());
    out.append(to);
    at = hit + from.size();
    if (count > 0) --count;
    if (out.size() > Budget::kMaxTextBytes) break;  // refused when it becomes a value
  }
  out.append(text, at, text.size());
  return out;
}

List split(const Text& text, const Value* separator, int64_t max, bool right, Budget& budget) {
  budget.spend_search(text.size());
  List out;
  if (separator == nullptr || separator->is(ValueType::kNone)) {
    out = split_at_space(text, max, right);
    budget.spend(4 * out.size());
    return out;
  }
  if (!separator->is_string() || separator->as_text().empty()) {
    template_error("split needs a separator that is a string and not empty");
  }
  const std::string_view wanted = separator->as_view();
  std::vector<size_t> hits;
  for (size_t hit, at = 0; (hit = find_text(text.view(), wanted, at)) != std::string_view::npos;
       at = hit + wanted.size()) {
    budget.spend(4);  // each is a text of its own
    hits.push_back(hit);
  }
  if (max >= 0 && hits.size() > static_cast<size_t>(max)) {
    if (right) {
      hits.erase(hits.begin(), hits.end() - static_cast<ptrdiff_t>(max));
    } else {
      hits.resize(static_cast<size_t>(max));
    }
  }
  size_t begin = 0;
  for (const size_t hit : hits) {
    out.emplace_back(text.slice(begin, hit));
    begin = hit + wanted.size();
  }
  out.emplace_back(text.slice(begin, text.size()));
  return out;
}

List split_lines(const Text& text, Budget& budget) {
  budget.spend_bytes(2 * text.size());
  List out;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t n = line_break(text.view(), at);
    if (n == 0) {
      at += std::max<size_t>(1, utf8_length(text.view().substr(at)));
      continue;
    }
    budget.spend();
    out.emplace_back(text.slice(begin, at));
    begin = at += n;
  }
  if (begin < text.size()) out.emplace_back(text.slice(begin, text.size()));
  return out;
}

Text join(const List& items, const Text& separator, Budget& budget) {
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) {
      budget.spend_bytes(separator.size());
      out.append(separator);
    }
    const Text text = to_text(items[i], budget);
    budget.spend_bytes(text.size());
    out.append(text);
    if (out.size() > Budget::kMaxTextBytes) break;  // refused when it becomes a value
  }
  return out;
}

Text repeat(const Text& text, int64_t count, Budget& budget) {
  if (count <= 0 || text.empty()) return {};
  const uint64_t times = static_cast<uint64_t>(count);
  if (times > Budget::kMaxTextBytes / text.size()) {
    template_error(fmt::format("makes a text of more than {} bytes", Budget::kMaxTextBytes));
  }
  budget.spend_bytes(text.size() * times);
  // By doubling: one letter a million times is twenty appends.
  Text out = text;
  uint64_t made = 1;
  for (; made * 2 <= times; made *= 2) out.append(Text(out));
  out.append(out.slice(0, (times - made) * text.size()));
  return out;
}

Text indent(const Text& text, std::string_view prefix, bool first, bool blank, Budget& budget) {
  Text out;
  bool first_line = true;
  Text closed = text;  // so that a line break at the end stays
  closed.append("\n");
  for (const Value& line : split_lines(closed, budget)) {
    budget.spend_bytes(prefix.size() + line.as_text().size());
    if (!first_line) out.append("\n");
    if (first_line ? first : blank || !line.as_text().empty()) {
      out.append(prefix);
    }
    out.append(line.as_text());
    first_line = false;
    if (out.size() > Budget::kMaxTextBytes) break;  // refused when it becomes a value
  }
  return out;
}

}  // namespace lowkey::jinja
