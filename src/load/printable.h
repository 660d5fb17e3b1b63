#pragma once
// May a name from a file stand in a message? Torch-free, thread-safe.
#include <algorithm>
#include <string_view>

#include "load/utf8.h"

namespace lowkey {

// Valid UTF-8 without control characters: nothing that could play tricks on a terminal.
inline bool is_printable(std::string_view text) {
  return is_valid_utf8(text) && std::none_of(text.begin(), text.end(), [](char c) {
           return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
         });
}

}  // namespace lowkey
