#pragma once
// A text that something is measured on, as tokens: one sequence of its own. Torch-free.
#include <cstdint>
#include <string>
#include <vector>

namespace lowkey {

struct TokenRange {
  int64_t first = 0;  // inclusive
  int64_t last = 0;   // exclusive
  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

struct Document {
  std::string name;  // for people: "arithmetic 3", "wiki.txt window 2"
  std::vector<int32_t> tokens;
  // Whose predictions count: targets, so token i is predicted by the model after tokens [0, i).
  // Ascending, disjoint, within [1, tokens). In a chat: what the assistant says.
  std::vector<TokenRange> scored;
  int64_t num_scored() const {
    int64_t count = 0;
    for (const TokenRange& range : scored) count += range.last - range.first;
    return count;
  }
  friend bool operator==(const Document&, const Document&) = default;
};

}  // namespace lowkey
