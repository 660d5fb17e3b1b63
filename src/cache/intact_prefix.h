#pragma once
// The keys and values of a prefix, computed once by the 16-bit model: IntactKV (arXiv 2403.01241).
// Sequences of a cache that has one begin with it and share it by reference. Torch-free; immutable
// once made, thread-safe.
#include <cstdint>
#include <vector>

#include "core/half.h"

namespace lowkey {

struct IntactPrefix {
  std::vector<int32_t> tokens;  // ids, at positions 0, 1, ...; at least one
  int32_t num_layers = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  // [num_layers, num_kv_heads, tokens, head_dim]; keys after RoPE. As a sequence stores them.
  std::vector<Half> k, v;

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  // Where the rows of one head of one layer begin in k and v.
  int64_t offset(int32_t layer, int32_t head) const {
    return (int64_t{layer} * num_kv_heads + head) * length() * head_dim;
  }
};

}  // namespace lowkey
