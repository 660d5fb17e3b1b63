// Kernels of prefill in bf16; the flags are in CMakeLists.txt. Nothing but intrinsics and plain
// data may be included here: an inline function compiled with these flags could be the copy the
// linker keeps for everyone (ODR).
//
// Both products keep 24 of 32 registers busy with sums: 12 rows x 32 tokens for scores (K a tile at
// a time), 6 rows x 64 channels for values. A strip's scores and probabilities (9 KB) stay in the
// first-level cache between them.
#include "attention/prefill_bf16_kernels.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>

// Vectors must never cross a call that could be compiled for another instruction set.
#define LOWKEY_INLINE inline __attribute__((always_inline))

namespace lowkey {
namespace {

constexpr int kValueRows = 6;
constexpr float kMinusInfinity = -__builtin_inff();

LOWKEY_INLINE __m512bh load_pairs(const BFloat16* p) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}

LOWKEY_INLINE __m512bh broadcast_pair(const BFloat16* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, 4);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

LOWKEY_INLINE void store_rounded(BFloat16* out, __m512 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
}

// The first `count` of 16 lanes, of 32 lanes.
LOWKEY_INLINE __mmask16 first16(int32_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1u);
}
LOWKEY_INLINE __mmask32 first32(int32_t count) {
  return count >= 32 ? 0xffffffffu : count <= 0 ? 0 : (1u << count) - 1u;
}

// Even 16-bit lanes from a, odd ones from b, lane by lane.
LOWKEY_INLINE __m512i interleave(__m512 a, __m512 b) {
  const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));  // a, then b
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, both);
}

void load_query(const float* q, int32_t head_dim, float factor, BFloat16* out,
                int32_t padded_dim) noexcept {
  for (int32_t c = 0; c < padded_dim; c += kLanes) {
    const __m512 x = _mm512_maskz_loadu_ps(first16(head_dim - c), q + c);
    store_rounded(out + c, _mm512_mul_ps(x, _mm512_set1_ps(factor)));
  }
}

void pair_rows(const float* rows, int32_t count, int32_t width, BFloat16* out) noexcept {
  for (int32_t r = 0; r < count; r += 2) {
    const float* row = rows + static_cast<int64_t>(r) * width;
    for (int32_t c = 0; c < width; c += kLanes) {
      _mm512_storeu_si512(out,
                          interleave(_mm512_loadu_ps(row + c), _mm512_loadu_ps(row + width + c)));
      out += 2 * kLanes;
    }
  }
}

void round_halves(const Half* rows, int64_t count, int32_t head_dim, BFloat16* out,
                  int32_t padded_dim) noexcept {
  for (int64_t t = 0; t < count; ++t) {
    for (int32_t c = 0; c < padded_dim; c += kLanes) {
      const __m256i x = _mm256_maskz_loadu_epi16(first16(head_dim - c), rows + t * head_dim + c);
      store_rounded(out + t * padded_dim + c, _mm512_cvtph_ps(x));
    }
  }
}

// out[j * out_stride + i] = in[i * in_stride + j], for 16 x 16 dwords, `width` of j real.
LOWKEY_INLINE void transpose16(const BFloat16* in, int64_t in_stride, int32_t width, BFloat16* out,
                               int64_t out_stride) {
  const __mmask16 mask = first16(width);
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_maskz_loadu_epi32(mask, in + i * in_stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  // a[4 g + k]: in 128-bit lane l, column 4 l + k of rows 4 g to 4 g + 3.
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const __m512i low01 = _mm512_shuffle_i32x4(a[k], a[4 + k], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(a[k], a[4 + k], 0xee);
    const __m512i low23 = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0xee);
    b[k] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    b[4 + k] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    b[8 + k] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    b[12 + k] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) {
    if (j < width) _mm512_storeu_si512(out + j * out_stride, b[j]);
  }
}

void keys_from_rows(const BFloat16* rows, int32_t padded_dim, BFloat16* keys) noexcept {
  for (int32_t pair = 0; pair < padded_dim / 2; pair += 16) {
    for (int32_t t = 0; t < kTileTokens; t += 16) {
      transpose16(rows + t * padded_dim + 2 * pair, padded_dim, padded_dim / 2 - pair,
                  keys + (pair * kTileTokens + t) * 2, 2 * kTileTokens);
    }
  }
}

void values_from_rows(const BFloat16* rows, int32_t padded_dim, BFloat16* values) noexcept {
  for (int32_t t = 0; t < kTileTokens; t += 2) {
    const BFloat16* row = rows + t * padded_dim;
    for (int32_t c = 0; c < padded_dim; c += kLanes) {
      const __m512i low =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + c)));
      const __m512i high = _mm512_cvtepu16_epi32(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + padded_dim + c)));
      _mm512_storeu_si512(values, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      values += 2 * kLanes;
    }
  }
}

void scores(const BFloat16* q, int32_t padded_dim, const BFloat16* keys, int32_t num_tiles,
            float* out) noexcept {
  for (int32_t tile = 0; tile < num_tiles; ++tile) {
    __m512 sum[kStripRows][2];
#pragma GCC unroll 12
    for (int r = 0; r < kStripRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (int32_t c = 0; c < padded_dim; c += 2) {
      const __m512bh first = load_pairs(keys);
      const __m512bh second = load_pairs(keys + 32);
      keys += 2 * kTileTokens;
#pragma GCC unroll 12
      for (int r = 0; r < kStripRows; ++r) {
        const __m512bh value = broadcast_pair(q + r * padded_dim + c);
        sum[r][0] = _mm512_dpbf16_ps(sum[r][0], value, first);
        sum[r][1] = _mm512_dpbf16_ps(sum[r][1], value, second);
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kStripRows; ++r) {
      float* to = out + r * kSpanTokens + tile * kTileTokens;
      _mm512_storeu_ps(to, sum[r][0]);
      _mm512_storeu_ps(to + kLanes, sum[r][1]);
    }
  }
}

void blend(const float* exact, const int32_t* stored, int32_t num_tiles, float* out) noexcept {
  for (int r = 0; r < kStripRows; ++r) {
    for (int32_t t = 0; t < num_tiles * kTileTokens; t += kLanes) {
      const __mmask16 replaced = static_cast<__mmask16>(~first16(stored[r] - t));
      const int64_t at = r * kSpanTokens + t;
      _mm512_mask_storeu_ps(out + at, replaced, _mm512_loadu_ps(exact + at));
    }
  }
}

// 2^t for t <= 0, -infinity included: 2^floor(t) times a polynomial of degree 3 for the rest
// (relative error 7.5e-5, a fiftieth of the rounding to bf16 that follows).
LOWKEY_INLINE __m512 exp2_nonpositive(__m512 t) {
  constexpr int kFractionAboveFloor = _MM_FROUND_TO_NEG_INF;
  const __m512 f = _mm512_reduce_ps(t, kFractionAboveFloor);  // of -infinity: 0
  __m512 p = _mm512_set1_ps(7.8024521e-2f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.2606716e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9583356e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9992520e-1f));
  return _mm512_scalef_ps(p, t);
}

LOWKEY_INLINE float largest(__m512 x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

LOWKEY_INLINE float total(__m512 x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <bool kMasked>
LOWKEY_INLINE __m512 load_scores(const float* p, int32_t visible) {
  if constexpr (!kMasked) return _mm512_loadu_ps(p);
  return _mm512_mask_loadu_ps(_mm512_set1_ps(kMinusInfinity), first16(visible), p);
}

template <bool kMasked>
LOWKEY_INLINE void softmax_strip(const float* scores, int32_t num_tiles, const int32_t* visible,
                                 SoftmaxState* states, float* factors, BFloat16* p) {
  const int32_t count = num_tiles * kTileTokens;
  float tops[16];
  for (int r = 0; r < 16; ++r) tops[r] = r < kStripRows ? states[r].top : 0.0f;
  const __m512 before = _mm512_loadu_ps(tops);
  for (int r = 0; r < kStripRows; ++r) {
    const float* row = scores + r * kSpanTokens;
    __m512 a = _mm512_set1_ps(kMinusInfinity), b = a;
    for (int32_t t = 0; t < count; t += kTileTokens) {
      a = _mm512_max_ps(a, load_scores<kMasked>(row + t, kMasked ? visible[r] - t : 0));
      b = _mm512_max_ps(
          b, load_scores<kMasked>(row + t + kLanes, kMasked ? visible[r] - t - kLanes : 0));
    }
    tops[r] = largest(_mm512_max_ps(a, b));
  }
  const __m512 top = _mm512_max_ps(before, _mm512_loadu_ps(tops));
  // A row that has seen nothing yet keeps its top of -infinity: relative to 0, all its
  // probabilities are 0.
  const __mmask16 seen = _mm512_cmp_ps_mask(top, _mm512_set1_ps(kMinusInfinity), _CMP_GT_OQ);
  const __m512 base = _mm512_maskz_mov_ps(seen, top);
  float bases[16], shrink[16];
  _mm512_storeu_ps(tops, top);
  _mm512_storeu_ps(bases, base);
  _mm512_storeu_ps(shrink, exp2_nonpositive(_mm512_sub_ps(before, base)));
  for (int r = 0; r < kStripRows; ++r) {
    const float* row = scores + r * kSpanTokens;
    const __m512 own_base = _mm512_set1_ps(bases[r]);
    __m512 a = _mm512_setzero_ps(), b = a;
    for (int32_t t = 0; t < count; t += kTileTokens) {
      const __m512 first = exp2_nonpositive(
          _mm512_sub_ps(load_scores<kMasked>(row + t, kMasked ? visible[r] - t : 0), own_base));
      const __m512 second = exp2_nonpositive(_mm512_sub_ps(
          load_scores<kMasked>(row + t + kLanes, kMasked ? visible[r] - t - kLanes : 0), own_base));
      a = _mm512_add_ps(a, first);
      b = _mm512_add_ps(b, second);
      _mm512_storeu_si512(p + r * kSpanTokens + t,
                          reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
    }
    states[r].top = tops[r];
    states[r].sum = states[r].sum * shrink[r] + total(_mm512_add_ps(a, b));
    factors[r] = shrink[r];
  }
}

void softmax(const float* scores, int32_t num_tiles, const int32_t* visible, SoftmaxState* states,
             float* factors, BFloat16* p) noexcept {
  if (visible) {
    softmax_strip<true>(scores, num_tiles, visible, states, factors, p);
  } else {
    softmax_strip<false>(scores, num_tiles, visible, states, factors, p);
  }
}

void split(const int32_t* stored, int32_t num_tiles, BFloat16* p, BFloat16* rest) noexcept {
  for (int r = 0; r < kStripRows; ++r) {
    for (int32_t t = 0; t < num_tiles * kTileTokens; t += kTileTokens) {
      const __mmask32 kept = first32(stored[r] - t);
      const int64_t at = r * kSpanTokens + t;
      const __m512i all = _mm512_loadu_si512(p + at);
      _mm512_storeu_si512(rest + at, _mm512_maskz_mov_epi16(~kept, all));
      _mm512_storeu_si512(p + at, _mm512_maskz_mov_epi16(kept, all));
    }
  }
}

// kColumns vectors of 16 channels, of six rows.
template <int kColumns>
__attribute__((noinline)) void accumulate_block(const BFloat16* p, int32_t pairs,
                                                const BFloat16* values, int32_t padded_dim,
                                                const float* factors, float* acc) {
  __m512 sum[kValueRows][kColumns];
#pragma GCC unroll 6
  for (int r = 0; r < kValueRows; ++r) {
    const __m512 factor = _mm512_set1_ps(factors ? factors[r] : 1.0f);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      sum[r][c] = _mm512_mul_ps(_mm512_loadu_ps(acc + r * padded_dim + c * kLanes), factor);
    }
  }
  for (int32_t pair = 0; pair < pairs; ++pair) {
    __m512bh value[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) value[c] = load_pairs(values + c * 2 * kLanes);
    values += 2 * padded_dim;
#pragma GCC unroll 6
    for (int r = 0; r < kValueRows; ++r) {
      const __m512bh weight = broadcast_pair(p + r * kSpanTokens + 2 * pair);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) {
        sum[r][c] = _mm512_dpbf16_ps(sum[r][c], weight, value[c]);
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kValueRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      _mm512_storeu_ps(acc + r * padded_dim + c * kLanes, sum[r][c]);
    }
  }
}

void accumulate(const BFloat16* p, int32_t num_tiles, const BFloat16* values, int32_t padded_dim,
                const float* factors, float* acc) noexcept {
  const int32_t pairs = num_tiles * kTileTokens / 2;
  for (int r = 0; r < kStripRows; r += kValueRows) {
    const BFloat16* own_p = p + r * kSpanTokens;
    const float* own_factors = factors ? factors + r : nullptr;
    for (int32_t c = 0; c < padded_dim; c += 4 * kLanes) {
      const BFloat16* from = values + 2 * c;
      float* to = acc + r * padded_dim + c;
      switch ((padded_dim - c) / kLanes) {
        case 1: accumulate_block<1>(own_p, pairs, from, padded_dim, own_factors, to); break;
        case 2: accumulate_block<2>(own_p, pairs, from, padded_dim, own_factors, to); break;
        case 3: accumulate_block<3>(own_p, pairs, from, padded_dim, own_factors, to); break;
        default: accumulate_block<4>(own_p, pairs, from, padded_dim, own_factors, to); break;
      }
    }
  }
}

}  // namespace

const PrefillBf16Kernels* prefill_bf16_kernels_avx512() {
  static constexpr PrefillBf16Kernels kTable = {
      load_query, pair_rows, round_halves, keys_from_rows, values_from_rows,
      scores,     blend,     softmax,      split,          accumulate};
  return &kTable;
}

}  // namespace lowkey

#else

namespace lowkey {
const PrefillBf16Kernels* prefill_bf16_kernels_avx512() {
  return nullptr;
}
}  // namespace lowkey

#endif
