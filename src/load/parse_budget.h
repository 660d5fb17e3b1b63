#pragma once
// What parsing one file may hold in memory beside the file itself. Formats can say much in few
// bytes (an empty string is 8 bytes in GGUF and 32 here), so a bad file could otherwise cost many
// times its size before it is refused. Real models need under 40 MiB (262k tokens, 514k merges).
// Torch-free.
#include <cstdint>

namespace lowkey {

class ParseBudget {
 public:
  static constexpr uint64_t kBytes = uint64_t{64} << 20;

  // False if that much is no longer left.
  bool charge(uint64_t bytes) {
    if (bytes > left_) return false;
    left_ -= bytes;
    return true;
  }

 private:
  uint64_t left_ = kBytes;
};

}  // namespace lowkey
