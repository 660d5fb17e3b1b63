#pragma once
// The few Unicode tables that tokenizers and templates need, by way of utf8proc. Torch-free,
// thread-safe.
#include <string>
#include <string_view>

namespace lowkey {

// Canonical composition (NFC) of well-formed UTF-8, O(n log n) whatever the combining marks.
std::string normalize_nfc(std::string_view text);

// One code point to one code point (so "ß" stays as it is in upper case, unlike Python's).
char32_t to_upper(char32_t code_point) noexcept;
char32_t to_lower(char32_t code_point) noexcept;
bool is_letter(char32_t code_point) noexcept;
bool is_white_space(char32_t code_point) noexcept;  // what Unicode's White_Space property says

}  // namespace lowkey
