#include "load/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "load/utf8.h"

namespace lowkey {

namespace {

int combining_class(utf8proc_int32_t c) {
  return utf8proc_get_property(c)->combining_class;
}

// Every code point below U+0300 is its own composition, and so is a text made of them alone.
bool is_trivially_nfc(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<uint8_t>(c) >= 0xcc; });
}

std::vector<utf8proc_int32_t> decompose(std::string_view text) {
  std::vector<utf8proc_int32_t> out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    LOWKEY_CHECK(length > 0, "NFC of invalid UTF-8");
    const auto c = static_cast<utf8proc_int32_t>(utf8_decode(text.substr(0, length)));
    text.remove_prefix(length);
    std::array<utf8proc_int32_t, 32> parts;  // the longest canonical decomposition has 4
    int boundary = UTF8PROC_BOUNDCLASS_START;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        c, parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
    LOWKEY_CHECK(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()),
                 "decomposing U+{:04X}: {}", c, count);
    out.insert(out.end(), parts.begin(), parts.begin() + count);
  }
  return out;
}

}  // namespace

std::string normalize_nfc(std::string_view text) {
  if (is_trivially_nfc(text)) return std::string(text);
  // Not utf8proc_NFC: it orders combining marks by swapping neighbours, O(n²) for text made of
  // them. Its tables and its composition are linear.
  std::vector<utf8proc_int32_t> points = decompose(text);
  const auto is_mark = [](utf8proc_int32_t c) { return combining_class(c) != 0; };
  for (auto it = std::find_if(points.begin(), points.end(), is_mark); it != points.end();) {
    const auto end = std::find_if_not(it, points.end(), is_mark);
    std::stable_sort(it, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    it = std::find_if(end, points.end(), is_mark);
  }
  const utf8proc_ssize_t count =
      utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  LOWKEY_CHECK(count >= 0, "composing: {}", count);
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    utf8_append(out, static_cast<char32_t>(points[static_cast<size_t>(i)]));
  }
  return out;
}

char32_t to_upper(char32_t c) noexcept {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}

char32_t to_lower(char32_t c) noexcept {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

bool is_letter(char32_t c) noexcept {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return true;
    default: return false;
  }
}

bool is_white_space(char32_t c) noexcept {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

}  // namespace lowkey
