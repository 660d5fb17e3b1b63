// gemm()'s kernels for AVX512_BF16; the flags are in CMakeLists.txt. Nothing but intrinsics and
// plain data may be included here: an inline function compiled with these flags could be the copy
// the linker keeps for everyone (ODR).
//
// Six rows times 64 features fill 24 of 32 registers with sums; four loads of weights and six
// broadcasts feed 24 vdpbf16ps. One core of Zen 4 makes 117 GMAC/s of its 118 this way.
#include "linear/gemm_kernels.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>

// Vectors must never cross a call that could be compiled for another instruction set.
#define LOWKEY_INLINE inline __attribute__((always_inline))

namespace lowkey {
namespace {

constexpr int kRows = 6;
constexpr int kPanelElements = 64 * 2;  // per pair of input features
constexpr int kLineElements = 32;

// For maskz forms where GCC 12 warns about the unmasked form's own "undefined" operand.
constexpr __mmask16 kAll = 0xffff;

LOWKEY_INLINE __mmask16 mask_of(int64_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1u);
}

struct Masks {
  __mmask16 part[4];
};

LOWKEY_INLINE __m512bh load_pairs(const BFloat16* p) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}

LOWKEY_INLINE __m512bh broadcast_pair(const BFloat16* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, 4);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

// Sums of kCount rows, bias included; `lines` cache lines of the panel at `prefetch` are asked for
// on the way.
template <int kCount>
LOWKEY_INLINE void products(const GemmBlock& b, const Masks& masks, int64_t row,
                            const BFloat16* prefetch, int64_t lines, __m512 (&sum)[kCount][4]) {
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const float* bias = b.biases[c / 2];
    const __m512 start =
        bias ? _mm512_maskz_loadu_ps(masks.part[c], bias + c % 2 * 16) : _mm512_setzero_ps();
#pragma GCC unroll 6
    for (int r = 0; r < kCount; ++r) sum[r][c] = start;
  }
  const BFloat16* x = b.x + row * b.x_stride;
  const BFloat16* first = b.halves[0];
  const BFloat16* second = b.halves[1];
  for (int64_t k = 0; k < b.pairs; ++k) {
    const __m512bh w[4] = {load_pairs(first), load_pairs(first + 32), load_pairs(second),
                           load_pairs(second + 32)};
    first += kPanelElements;
    second += kPanelElements;
    if (k < lines) _mm_prefetch(reinterpret_cast<const char*>(prefetch), _MM_HINT_T1);
    prefetch += kLineElements;
#pragma GCC unroll 6
    for (int r = 0; r < kCount; ++r) {
      const __m512bh value = broadcast_pair(x + r * b.x_stride + 2 * k);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) sum[r][c] = _mm512_dpbf16_ps(sum[r][c], value, w[c]);
    }
  }
}

LOWKEY_INLINE void write(bool add, const Masks& masks, const __m512* sum, float* y) {
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    __m512 value = sum[c];
    if (add) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(masks.part[c], y + c * 16));
    _mm512_mask_storeu_ps(y + c * 16, masks.part[c], value);
  }
}

// x / (1 + exp(-x)): exp as 2^floor(t) times a polynomial for 2^(t - floor(t)) (minimax, relative
// error 2e-7), the quotient by a reciprocal and a Newton step. Good to 1e-6, far below bf16's
// 2^-8.
LOWKEY_INLINE __m512 silu(__m512 x) {
  // 2^126 at most: the reciprocal stays normal. A NaN in x survives the product at the end.
  const __m512 t = _mm512_maskz_min_ps(
      kAll, _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504088896341f)), _mm512_set1_ps(126.0f));
  const __m512 f = _mm512_sub_ps(t, _mm512_maskz_roundscale_ps(kAll, t, _MM_FROUND_TO_NEG_INF));
  __m512 p = _mm512_set1_ps(1.8775767e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(8.9893397e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5826318e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4015361e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9315308e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9999994e-1f));
  const __m512 d = _mm512_add_ps(_mm512_maskz_scalef_ps(kAll, p, t), _mm512_set1_ps(1.0f));
  const __m512 r = _mm512_maskz_rcp14_ps(kAll, d);
  const __m512 inverse = _mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(2.0f)));
  return _mm512_mul_ps(x, inverse);
}

LOWKEY_INLINE void store_bf16(BFloat16* out, __mmask16 mask, __m512 x) {
  _mm256_mask_storeu_epi16(out, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
}

struct FloatTarget {
  bool add;
  float* y;
  int64_t y_stride;
  LOWKEY_INLINE void operator()(const Masks& masks, int64_t row, const __m512* sum) const {
    write(add, masks, sum, y + row * y_stride);
  }
};

struct GatedTarget {
  BFloat16* y;
  int64_t y_stride;
  LOWKEY_INLINE void operator()(const Masks& masks, int64_t row, const __m512* sum) const {
    BFloat16* out = y + row * y_stride;
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) {
      store_bf16(out + c * 16, masks.part[c], _mm512_mul_ps(silu(sum[c]), sum[c + 2]));
    }
  }
};

template <int kCount, typename Target>
__attribute__((noinline)) void rows(const GemmBlock& b, const Masks& masks, int64_t row,
                                    const BFloat16* prefetch, int64_t lines, const Target& target) {
  __m512 sum[kCount][4];
  products<kCount>(b, masks, row, prefetch, lines, sum);
#pragma GCC unroll 6
  for (int r = 0; r < kCount; ++r) target(masks, row + r, sum[r]);
}

template <typename Target>
LOWKEY_INLINE void block_rows(const GemmBlock& b, const Target& target) {
  Masks masks;
  for (int c = 0; c < 4; ++c) masks.part[c] = mask_of(b.features[c / 2] - c % 2 * 16);
  int64_t lines_left = b.prefetch ? b.pairs * (kPanelElements / kLineElements) : 0;
  const BFloat16* prefetch = b.prefetch;
  int64_t row = 0;
  while (row < b.num_rows) {
    const int64_t left = b.num_rows - row;
    const int64_t lines = lines_left < b.pairs ? lines_left : b.pairs;
    // The last eight or ten as two of four or five: with fewer sums their latency would show.
    int64_t count = left < kRows ? left : kRows;
    if (left > kRows && left < kRows + 4) count = left - left / 2;
    switch (count) {
      case 1: rows<1>(b, masks, row, prefetch, lines, target); break;
      case 2: rows<2>(b, masks, row, prefetch, lines, target); break;
      case 3: rows<3>(b, masks, row, prefetch, lines, target); break;
      case 4: rows<4>(b, masks, row, prefetch, lines, target); break;
      case 5: rows<5>(b, masks, row, prefetch, lines, target); break;
      default: rows<6>(b, masks, row, prefetch, lines, target); break;
    }
    row += count;
    lines_left -= lines;
    if (lines > 0) prefetch += lines * kLineElements;
  }
}

void replace(const GemmBlock& block, float* y, int64_t y_stride) noexcept {
  block_rows(block, FloatTarget{false, y, y_stride});
}

void add(const GemmBlock& block, float* y, int64_t y_stride) noexcept {
  block_rows(block, FloatTarget{true, y, y_stride});
}

void gated(const GemmBlock& block, BFloat16* y, int64_t y_stride) noexcept {
  block_rows(block, GatedTarget{y, y_stride});
}

void round_row(const float* x, int64_t count, BFloat16* out) noexcept {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 mask = mask_of(count - i);
    store_bf16(out + i, mask, _mm512_maskz_loadu_ps(mask, x + i));
  }
}

}  // namespace

const GemmKernels* gemm_kernels_avx512_bf16() {
  static constexpr GemmKernels kTable = {replace, add, gated, round_row};
  return &kTable;
}

}  // namespace lowkey

#else

namespace lowkey {
const GemmKernels* gemm_kernels_avx512_bf16() {
  return nullptr;
}
}  // namespace lowkey

#endif
