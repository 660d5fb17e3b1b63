#include "eval/chat_prefix.h"

#include <algorithm>

namespace lowkey {

std::vector<int32_t> chat_prefix(const Engine& engine) {
  // Words that begin differently say where it ends.
  std::vector<int32_t> letter = engine.encode_chat({{"user", "A"}});
  const std::vector<int32_t> digit = engine.encode_chat({{"user", "7"}});
  letter.erase(std::mismatch(letter.begin(), letter.end(), digit.begin(), digit.end()).first,
               letter.end());
  return letter;
}

}  // namespace lowkey
