#pragma once
// What decode asks of an instruction set: scores and weighted sums straight from packed codes, a
// page of one KV head at a time. One table of functions per instruction set, all generated from
// decode_kernels-inl.h over a small set of vector operations (simd_<isa>-inl.h). Kernels are
// noexcept and allocate nothing.
//
// The idea. A score is sum_c q_c (s_c code_c + z_c). With a scale per channel the query is folded
// with the scales once per group of tokens, w_c = q_c s_c, and the inner loop multiplies unsigned
// codes by signed integers; sum_c q_c z_c is one number per group. With a scale per token and group
// of channels, the query itself is the integer vector, and the scale multiplies the group's integer
// sum. Values are the same with tokens for channels and probabilities for the query: K tiles hold a
// token per lane, V tiles a channel per lane, so one loop serves both.
//
// Integers are 16-bit fixed point with one unit per (row, tile): |error| <= 2^-16 of the largest
// |q_c s_c| (|p_t s_t|) of the tile per term. AVX-512 VNNI and NEON multiply bytes: hi * 256 + lo,
// two passes, exact; the fast choice rounds to 8 bits instead, one pass.
//
// "Rows" are query heads that share the KV head: at most kMaxDecodeRows a call.
#include <cstddef>
#include <cstdint>

#include "attention/attend.h"
#include "attention/tile_kernels.h"
#include "core/cpu.h"
#include "quant/layout.h"
#include "recipe/bytes.h"

namespace lowkey {

inline constexpr int32_t kMaxDecodeRows = 8;

// Fixed-point vectors are padded to whole vectors of this many 16-bit numbers.
inline constexpr int32_t kFixedLanes = 32;
// Bytes of 32 fixed-point numbers as kernels multiply by them.
inline constexpr int32_t kWeightBytes = 64;

// Query rows of one KV head, times the softmax scale, in the forms kernels use.
struct DecodeQueries {
  float* f32 = nullptr;           // [rows, padded_dim], padding zero
  int16_t* fixed = nullptr;       // [rows, fixed_dim]: f32 = unit * fixed, padding zero
  float* unit = nullptr;          // [rows]
  std::byte* weights = nullptr;   // [rows, fixed_dim / 32, kWeightBytes]: fixed, for two passes
  std::byte* weights8 = nullptr;  // the same for one pass
  float* unit8 = nullptr;         // [rows]
  int32_t padded_dim = 0;         // head_dim rounded up to kLanes
  int32_t fixed_dim = 0;          // head_dim rounded up to kFixedLanes
};

// A thread's memory for folded weights: of a page's four tiles, or of its value groups.
struct DecodeBuffer {
  std::byte* weights = nullptr;
};
// Bytes it needs.
constexpr int64_t decode_buffer_bytes(int32_t head_dim) {
  const int64_t vectors = (head_dim + kFixedLanes - 1) / kFixedLanes * 2;
  return kTilesPerPage * kMaxDecodeRows * vectors * kWeightBytes;
}

struct DecodeKernels {
  // Whether score_packed and add_packed know the side; else its tiles are unpacked to floats.
  bool (*supports)(const SideLayout& layout) noexcept;

  // Fills q.fixed and q.unit from q.f32, and q.weights or, for one pass, q.weights8 and q.unit8.
  void (*prepare_queries)(const DecodeQueries& q, int32_t rows, DecodeDots precision) noexcept;

  // scores[r * kPageTokens + t] for the tokens of the first num_tiles tiles of a page's packed
  // keys. Rows [first_row, first_row + rows) of q.
  void (*score_packed)(const SideLayout& layout, const std::byte* side, int32_t num_tiles,
                       const DecodeQueries& q, int32_t first_row, int32_t rows,
                       DecodeDots precision, const DecodeBuffer& buffer, float* scores) noexcept;

  // The same from rows of floats (f16, or f32): scores[r * kPageTokens + t] for t < count.
  void (*score_rows)(const std::byte* keys, bool is_f32, int64_t count, int32_t head_dim,
                     const DecodeQueries& q, int32_t first_row, int32_t rows,
                     float* scores) noexcept;

  // One row's scores of a page, the first `count` of which it sees -> exp(score - their maximum),
  // zero for the others. Updates the running state and rescales acc when the maximum moved. Returns
  // exp(maximum of the page - running maximum): what these probabilities are to be multiplied by.
  float (*softmax_page)(float* scores, int64_t count, SoftmaxState* state, float* acc,
                        int32_t padded_dim) noexcept;

  // acc[r] += factor[r] * sum over the first `count` tokens of p[r, t] * value[t], from packed
  // values. p: [rows, kPageTokens] in [0, 1]; acc: [rows, padded_dim].
  void (*add_packed)(const SideLayout& layout, const std::byte* side, int32_t count, const float* p,
                     const float* factor, int32_t rows, DecodeDots precision,
                     const DecodeBuffer& buffer, float* acc, int32_t padded_dim) noexcept;

  // The same from rows of floats.
  void (*add_rows)(const std::byte* values, bool is_f32, int64_t count, int32_t head_dim,
                   const float* p, const float* factor, int32_t rows, float* acc,
                   int32_t padded_dim) noexcept;
};

const DecodeKernels* decode_kernels_avx2();    // null on other architectures
const DecodeKernels* decode_kernels_avx512();  // the same
const DecodeKernels* decode_kernels_neon();    // the same

// Null where only the portable tiles are there (scalar).
const DecodeKernels* decode_kernels(Isa isa);

}  // namespace lowkey
