#pragma once
// UTF-8, strictly: no surrogates, no overlong forms, nothing above U+10FFFF (Unicode table 3-7).
// Torch-free, thread-safe, never throws on bad bytes.
#include <cstddef>
#include <string>
#include <string_view>

namespace lowkey {

// Bytes of the well-formed sequence at the start of `text`: 1-4, or 0 if there is none.
size_t utf8_length(std::string_view text) noexcept;

// Bytes from the start of `text` that are well-formed.
size_t utf8_valid_prefix(std::string_view text) noexcept;
inline bool is_valid_utf8(std::string_view text) noexcept {
  return utf8_valid_prefix(text) == text.size();
}

// Bytes at the end of `text` that begin a sequence and lack its end: 0-3.
size_t utf8_unfinished_suffix(std::string_view text) noexcept;

// The code point of a well-formed sequence.
char32_t utf8_decode(std::string_view sequence) noexcept;
void utf8_append(std::string& out, char32_t code_point);

// Each maximal ill-formed part becomes one U+FFFD, as the Unicode standard recommends and Python
// and Rust do.
std::string utf8_replace_invalid(std::string_view text);

}  // namespace lowkey
