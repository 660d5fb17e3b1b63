#pragma once
// Is this text what it claims to be? (Decoding for tokenizers lives in load/.) Torch-free.
#include <cstdint>
#include <string_view>

namespace lowkey {

// Strict: no overlong forms, no surrogates, nothing above U+10FFFF, nothing cut off.
constexpr bool is_valid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<uint8_t>(text[i++]);
    if (lead < 0x80) continue;
    if (lead < 0xc2 || lead > 0xf4) return false;
    const size_t continuation = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    if (text.size() - i < continuation) return false;
    // The first continuation byte carries what rules out overlong forms, surrogates and the rest.
    const auto first = static_cast<uint8_t>(text[i]);
    const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (first < low || first > high) return false;
    for (size_t k = 1; k < continuation; ++k) {
      if ((static_cast<uint8_t>(text[i + k]) & 0xc0) != 0x80) return false;
    }
    i += continuation;
  }
  return true;
}

}  // namespace lowkey
