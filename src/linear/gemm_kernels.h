#pragma once
// What gemm() asks of AVX512_BF16. Kernels are noexcept and allocate nothing.
#include <cstdint>

#include "core/half.h"

namespace lowkey {

// Some rows of x times 64 output features: two halves of 32, which lie in one panel of a matrix or
// in the same half of two matrices' panels.
struct GemmBlock {
  const BFloat16* x = nullptr;  // [num_rows, x_stride]
  int64_t x_stride = 0;
  int64_t num_rows = 0;
  int64_t pairs = 0;                   // of input features
  const BFloat16* halves[2] = {};      // [pairs][64][2], of which the first 32 are used
  const float* biases[2] = {};         // of each half's features, or null
  int64_t features[2] = {};            // real ones of each half, at most 32
  const BFloat16* prefetch = nullptr;  // a panel to bring near meanwhile, or null
};

struct GemmKernels {
  // y: [num_rows, y_stride], both halves side by side.
  void (*replace)(const GemmBlock& block, float* y, int64_t y_stride) noexcept;
  void (*add)(const GemmBlock& block, float* y, int64_t y_stride) noexcept;
  // silu(first half) * second half: [num_rows, y_stride], 32 wide.
  void (*gated)(const GemmBlock& block, BFloat16* y, int64_t y_stride) noexcept;
  void (*round_row)(const float* x, int64_t count, BFloat16* out) noexcept;
};

// Null where the compiler knows no such instructions.
const GemmKernels* gemm_kernels_avx512_bf16();

}  // namespace lowkey
