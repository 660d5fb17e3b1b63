#pragma once
// What attend() asks of an instruction set: unpacking one tile of 32 tokens, scores, softmax,
// weighted sum. One table of functions per instruction set, all generated from tile_kernels-inl.h.
// Kernels are noexcept and allocate nothing.
//
// "rows" are (query, head) pairs that share a KV head. padded_dim is head_dim rounded up to kLanes.
#include <cstddef>
#include <cstdint>

#include "core/cpu.h"
#include "quant/layout.h"

namespace lowkey {

// Running softmax of one row: maximum so far and sum of exp(score - maximum).
struct SoftmaxState {
  float top;
  float sum;
};

struct TileKernels {
  // Packed tile -> floats. keys: [head_dim, 32], one channel's tokens together. values: [32,
  // padded_dim].
  void (*unpack_keys)(const SideLayout& layout, const std::byte* side, int32_t tile,
                      float* keys) noexcept;
  void (*unpack_values)(const SideLayout& layout, const std::byte* side, int32_t tile,
                        float* values, int32_t padded_dim) noexcept;

  // Exact rows (f16, or f32 when is_f32) -> [count, padded_dim] floats, padding zero.
  void (*widen_rows)(const std::byte* rows, bool is_f32, int64_t count, int32_t head_dim,
                     float* out, int32_t padded_dim) noexcept;

  // scores[r, t] = q[r] . keys[:, t]; q: [rows, padded_dim].
  void (*scores)(const float* q, int64_t rows, const float* keys, int32_t head_dim,
                 int32_t padded_dim, float* scores) noexcept;
  // The same from row-major keys [32, padded_dim]: cheaper than transposing when rows are few.
  void (*scores_from_rows)(const float* q, int64_t rows, const float* keys, int32_t padded_dim,
                           float* scores) noexcept;
  // [32, padded_dim] -> [padded_dim, 32].
  void (*transpose)(const float* rows, int32_t padded_dim, float* keys) noexcept;

  // One row's 32 scores (-infinity where it must not look) -> probabilities in place, relative to
  // the new maximum; updates the state and rescales acc [padded_dim] when the maximum moved.
  void (*softmax)(float* scores, SoftmaxState* state, float* acc, int32_t padded_dim) noexcept;

  // acc[r] += sum over t of p[r, t] * values[t]; p: [rows, 32], acc: [rows, padded_dim].
  void (*accumulate)(const float* p, int64_t rows, const float* values, int32_t padded_dim,
                     float* acc) noexcept;
};

const TileKernels& tile_kernels_scalar();
const TileKernels& tile_kernels_avx2();    // on other machines: the scalar ones
const TileKernels& tile_kernels_avx512();  // likewise
const TileKernels& tile_kernels_neon();    // likewise

const TileKernels& tile_kernels(Isa isa);

}  // namespace lowkey
