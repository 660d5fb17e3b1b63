#pragma once
// Substring search in linear time: std::string_view::find is quadratic on texts like "aaaa...b",
// and both sides may come from a file that cannot be trusted. Thread-safe.
#include <cstring>
#include <string>
#include <string_view>

namespace lowkey {

// As text.find(wanted, from). `wanted` is not empty.
inline size_t find_text(std::string_view text, std::string_view wanted, size_t from = 0) noexcept {
  if (from > text.size()) return std::string_view::npos;
  const void* hit = memmem(text.data() + from, text.size() - from, wanted.data(), wanted.size());
  return hit == nullptr ? std::string_view::npos
                        : static_cast<size_t>(static_cast<const char*>(hit) - text.data());
}

// `from` is not empty.
inline std::string replace_text(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  size_t at = 0;
  for (size_t hit; (hit = find_text(text, from, at)) != std::string_view::npos;
       at = hit + from.size()) {
    out += text.substr(at, hit - at);
    out += to;
  }
  out += text.substr(at);
  return out;
}

}  // namespace lowkey
