#pragma once
// What prefill in bf16 asks of AVX512_BF16. vdpbf16ps multiplies pairs: of neighbouring channels
// for scores, of neighbouring tokens for sums over values. Kernels are noexcept and allocate
// nothing.
//
// A strip is kStripRows rows, (query, head) pairs that share a KV head; a span is up to kSpanTiles
// tiles of 32 tokens. padded_dim is head_dim rounded up to kLanes.
//   keys    [tile][padded_dim / 2][32 tokens][2]
//   values  [tile][16 token pairs][padded_dim][2]
#include <cstdint>

#include "attention/tile_kernels.h"
#include "core/half.h"
#include "quant/layout.h"

namespace lowkey {

inline constexpr int32_t kStripRows = 12;
inline constexpr int32_t kSpanTiles = kTilesPerPage;
inline constexpr int32_t kSpanTokens = kSpanTiles * kTileTokens;

struct PrefillBf16Kernels {
  // out[c] = q[c] * factor, then zeros.
  void (*load_query)(const float* q, int32_t head_dim, float factor, BFloat16* out,
                     int32_t padded_dim) noexcept;

  // [count, width] floats -> [count / 2][width][2]: an unpacked tile as keys (rows are channels) or
  // values (rows are tokens).
  void (*pair_rows)(const float* rows, int32_t count, int32_t width, BFloat16* out) noexcept;

  // Exact rows: [count, head_dim] f16 -> [count, padded_dim] bf16; a tile of those as keys, values.
  void (*round_halves)(const Half* rows, int64_t count, int32_t head_dim, BFloat16* out,
                       int32_t padded_dim) noexcept;
  void (*keys_from_rows)(const BFloat16* rows, int32_t padded_dim, BFloat16* keys) noexcept;
  void (*values_from_rows)(const BFloat16* rows, int32_t padded_dim, BFloat16* values) noexcept;

  // scores[r * kSpanTokens + t] of a strip q [kStripRows, padded_dim], for the tokens of num_tiles
  // tiles.
  void (*scores)(const BFloat16* q, int32_t padded_dim, const BFloat16* keys, int32_t num_tiles,
                 float* scores) noexcept;
  // Tokens from stored[r] on take the score in `exact`.
  void (*blend)(const float* exact, const int32_t* stored, int32_t num_tiles,
                float* scores) noexcept;
  // Scores in units of log2 -> probabilities p [kStripRows, kSpanTokens] relative to the new
  // maximum. visible[r]: tokens from there on have no weight; null: all have. `factors` is what
  // earlier sums must be multiplied with. The states' tops are in units of log2.
  void (*softmax)(const float* scores, int32_t num_tiles, const int32_t* visible,
                  SoftmaxState* states, float* factors, BFloat16* p) noexcept;
  // p keeps tokens before stored[r]; `rest` takes the others. Both are zero elsewhere.
  void (*split)(const int32_t* stored, int32_t num_tiles, BFloat16* p, BFloat16* rest) noexcept;
  // acc[r] = acc[r] * factors[r] + sum over t of p[r, t] * value[t]; factors null: 1.
  // acc: [kStripRows, padded_dim].
  void (*accumulate)(const BFloat16* p, int32_t num_tiles, const BFloat16* values,
                     int32_t padded_dim, const float* factors, float* acc) noexcept;
};

// Null where the compiler knows no such instructions.
const PrefillBf16Kernels* prefill_bf16_kernels_avx512();

}  // namespace lowkey
