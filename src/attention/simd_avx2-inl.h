#pragma once
// The vector operations of decode_kernels-inl.h for AVX2 with FMA and F16C. See core/lanes-inl.h
// for what may be included.
//
// There is no product of unsigned and signed bytes that cannot saturate, so codes are widened to 16
// bits, even and odd bytes apart, and multiplied by the fixed-point numbers themselves: one pass.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "attention/decode_kernels.h"
#include "core/lanes-inl.h"

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

// Sixteen floats in two registers. (GCC keeps a vector type that is wider than a register in
// memory.)
struct Floats {
  __m256 part[2];

  friend LOWKEY_INLINE Floats operator+(Floats a, Floats b) {
    return {{_mm256_add_ps(a.part[0], b.part[0]), _mm256_add_ps(a.part[1], b.part[1])}};
  }
  friend LOWKEY_INLINE Floats operator-(Floats a, Floats b) {
    return {{_mm256_sub_ps(a.part[0], b.part[0]), _mm256_sub_ps(a.part[1], b.part[1])}};
  }
  friend LOWKEY_INLINE Floats operator*(Floats a, Floats b) {
    return {{_mm256_mul_ps(a.part[0], b.part[0]), _mm256_mul_ps(a.part[1], b.part[1])}};
  }
  LOWKEY_INLINE Floats operator-() const {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {{_mm256_xor_ps(part[0], sign), _mm256_xor_ps(part[1], sign)}};
  }
  LOWKEY_INLINE Floats& operator+=(Floats x) { return *this = *this + x; }
};

struct Simd {
  static constexpr int kSumRegisters = 8;  // of 16
  static constexpr int registers_per_sum(int /*passes*/) { return 2; }
  static constexpr int kRowsTogether = 4;
  static constexpr int kIndependentSums = 8;
  static constexpr int kValueRegisters = 4;  // sums of rows of floats, of two registers each
  static constexpr int kHalvesTogether = 1;
  static constexpr bool kOnePass = false;
  // Sums of products of 32512 and 255 fit 32 bits up to here.
  static constexpr int kLargestHeadDim = 256;

  typedef uint16_t U16x16 __attribute__((vector_size(32), may_alias));

  // --- codes

  template <int kBits>
  struct Granule {
    U16x16 part[kBits == 3 ? 3 : 1][2];
  };
  struct Codes {
    __m256i even[2], odd[2];  // bytes 4l, 4l + 2 and 4l + 1, 4l + 3 of each lane's dword
  };

  template <int kBits>
  static LOWKEY_INLINE Granule<kBits> load_granule(const std::byte* p) {
    Granule<kBits> g;
    for (int i = 0; i < (kBits == 3 ? 3 : 1); ++i) {
      for (int h = 0; h < 2; ++h) {
        g.part[i][h] = *reinterpret_cast<const U16x16*>(p + 64 * i + 32 * h);
      }
    }
    return g;
  }

  static LOWKEY_INLINE U16x16 splat16(int value) { return U16x16{} + static_cast<uint16_t>(value); }

  template <int kBits>
  static LOWKEY_INLINE Codes codes(const Granule<kBits>& g, int field) {
    Codes c;
    for (int h = 0; h < 2; ++h) {
      U16x16 even, odd;
      if constexpr (kBits == 8) {
        even = g.part[0][h] & splat16(0xff);
        odd = g.part[0][h] >> 8;
      } else if constexpr (kBits == 3) {
        if (field < 6) {
          const U16x16 x = g.part[field / 2][h] >> (field % 2 * 3);
          even = x & splat16(7);
          odd = (x >> 8) & splat16(7);
        } else {
          const U16x16 x = ((g.part[field - 6][h] >> 6) & splat16(0x0303)) |
                           ((g.part[2][h] >> (field - 2)) & splat16(0x0404));
          even = x & splat16(7);
          odd = x >> 8;
        }
      } else {
        constexpr int kMask = (1 << kBits) - 1;
        even = (g.part[0][h] >> (field * kBits)) & splat16(kMask);
        odd = (g.part[0][h] >> (8 + field * kBits)) & splat16(kMask);
      }
      c.even[h] = reinterpret_cast<__m256i>(even);
      c.odd[h] = reinterpret_cast<__m256i>(odd);
    }
    return c;
  }

  template <int kBits>
  static constexpr int shift_in_place(int field) {
    return kBits == 8 ? 0 : kBits == 3 ? (field < 6 ? field % 2 * 3 : 0) : field * kBits;
  }
  template <int kBits>
  static LOWKEY_INLINE Codes codes_in_place(const Granule<kBits>& g, int field) {
    if (kBits == 8 || (kBits == 3 && field >= 6)) return codes<kBits>(g, field);
    const int mask = ((1 << kBits) - 1) << shift_in_place<kBits>(field);
    Codes c;
    for (int h = 0; h < 2; ++h) {
      const U16x16 x = g.part[kBits == 3 ? field / 2 : 0][h];
      c.even[h] = reinterpret_cast<__m256i>(x & splat16(mask));
      c.odd[h] = reinterpret_cast<__m256i>((x >> 8) & splat16(mask));
    }
    return c;
  }

  // --- sums of codes times weights

  template <int kPasses>
  struct Sum {
    __m256i part[2];
  };

  // Of none. (Weights matter where codes are multiplied less a constant.)
  template <int kBits, int kPasses>
  static LOWKEY_INLINE Sum<kPasses> start(const std::byte* /*weights*/, int32_t /*quads*/) {
    return {{_mm256_setzero_si256(), _mm256_setzero_si256()}};
  }

  // weights: two numbers for the even bytes, two for the odd ones.
  template <int kPasses>
  static LOWKEY_INLINE void dot(Sum<kPasses>& sum, const Codes& c, const std::byte* weights) {
    int32_t pair[2];
    __builtin_memcpy(pair, weights, 8);
    const __m256i even = _mm256_set1_epi32(pair[0]), odd = _mm256_set1_epi32(pair[1]);
    for (int h = 0; h < 2; ++h) {
      sum.part[h] = _mm256_add_epi32(
          sum.part[h],
          _mm256_add_epi32(_mm256_madd_epi16(c.even[h], even), _mm256_madd_epi16(c.odd[h], odd)));
    }
  }

  template <int kPasses>
  static LOWKEY_INLINE void add_shifted(Sum<kPasses>& sum, const Sum<kPasses>& x, int shift) {
    for (int h = 0; h < 2; ++h) {
      sum.part[h] =
          _mm256_add_epi32(sum.part[h], _mm256_sra_epi32(x.part[h], _mm_cvtsi32_si128(shift)));
    }
  }

  template <int kPasses>
  static LOWKEY_INLINE Floats scaled(const Sum<kPasses>& sum, float unit, Floats base) {
    Floats result;
    for (int h = 0; h < 2; ++h) {
      result.part[h] =
          _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum.part[h]), _mm256_set1_ps(unit), base.part[h]);
    }
    return result;
  }

  // --- 32 fixed-point numbers

  struct Fixed {
    __m256i part[2];
  };

  static LOWKEY_INLINE Fixed load_fixed(const int16_t* p) {
    return {{_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
             _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16))}};
  }
  static LOWKEY_INLINE void store_fixed(int16_t* p, Fixed x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.part[0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 16), x.part[1]);
  }
  static LOWKEY_INLINE Fixed multiply(Fixed a, Fixed b) {
    return {{_mm256_mulhrs_epi16(a.part[0], b.part[0]), _mm256_mulhrs_epi16(a.part[1], b.part[1])}};
  }

  static LOWKEY_INLINE __m256i to_words(Floats x) {
    const __m256i packed =
        _mm256_packs_epi32(_mm256_cvtps_epi32(x.part[0]), _mm256_cvtps_epi32(x.part[1]));
    return _mm256_permute4x64_epi64(packed, 0xd8);
  }
  static LOWKEY_INLINE Fixed round(Floats first, Floats second) {
    return {{to_words(first), to_words(second)}};
  }

  // Halves >= 0 are in order as words.
  static LOWKEY_INLINE Fixed load_halves(const Half* p) {
    return load_fixed(reinterpret_cast<const int16_t*>(p));
  }
  // Sixteen of them, zeros beyond.
  static LOWKEY_INLINE Fixed load_few_halves(const Half* p) {
    return {{_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_setzero_si256()}};
  }
  static LOWKEY_INLINE Fixed larger(Fixed a, Fixed b) {
    return {{_mm256_max_epu16(a.part[0], b.part[0]), _mm256_max_epu16(a.part[1], b.part[1])}};
  }

  // The biased exponent (at least 1) of the largest of 32 halves >= 0.
  using Exponent = int;
  static LOWKEY_INLINE Exponent exponent(Fixed x) {
    const __m256i whole = _mm256_max_epu16(x.part[0], x.part[1]);
    const __m128i half =
        _mm_max_epu16(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    const __m128i least = _mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi16(-1)));
    const int exponent = (0xffff - _mm_extract_epi16(least, 0)) >> 10;
    return exponent > 1 ? exponent : 1;
  }
  // The same of each of four vectors.
  static LOWKEY_INLINE void exponents(const Fixed* x, Exponent* four) {
    for (int i = 0; i < 4; ++i) four[i] = exponent(x[i]);
  }
  // 2^(exponent + offset)
  static LOWKEY_INLINE float power(Exponent exponent, int offset) {
    const int32_t bits = (exponent + offset + 127) << 23;
    float result;
    __builtin_memcpy(&result, &bits, 4);
    return result;
  }

  // No shift of 16-bit lanes by their own counts here: through floats. Halves that are padding may
  // be anything, and saturate.
  static LOWKEY_INLINE Fixed to_fixed(const Half* p, Exponent exponent) {
    const Floats scale = splat(power(-exponent, 29));
    return round(load_half(p) * scale, load_half(p + 16) * scale);
  }

  // Words of a quad as dot() wants them: 0, 2, 1, 3.
  static LOWKEY_INLINE void store_weights(Fixed x, std::byte* out) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    for (int h = 0; h < 2; ++h) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * h),
                          _mm256_shuffle_epi8(x.part[h], order));
    }
  }

  // --- floats

  static LOWKEY_INLINE Floats load(const float* p) {
    return {{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}};
  }
  static LOWKEY_INLINE void store(float* p, Floats x) {
    _mm256_storeu_ps(p, x.part[0]);
    _mm256_storeu_ps(p + 8, x.part[1]);
  }
  static LOWKEY_INLINE Floats splat(float x) { return {{_mm256_set1_ps(x), _mm256_set1_ps(x)}}; }
  static LOWKEY_INLINE Floats load_half(const Half* p) {
    return {{_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
             _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))}};
  }
  static LOWKEY_INLINE Floats max(Floats a, Floats b) {
    return {{_mm256_max_ps(a.part[0], b.part[0]), _mm256_max_ps(a.part[1], b.part[1])}};
  }
  // Two numbers in the first two lanes, zeros beyond.
  static LOWKEY_INLINE Floats pair(float first, float second) {
    return {{_mm256_setr_ps(first, second, 0, 0, 0, 0, 0, 0), _mm256_setzero_ps()}};
  }
  static LOWKEY_INLINE float first_lane(Floats x) { return _mm256_cvtss_f32(x.part[0]); }
  static LOWKEY_INLINE float second_lane(Floats x) {
    return _mm_cvtss_f32(_mm_movehdup_ps(_mm256_castps256_ps128(x.part[0])));
  }

  static LOWKEY_INLINE float sum_lanes(Floats x) {
    const __m256 a = _mm256_add_ps(x.part[0], x.part[1]);
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  static LOWKEY_INLINE float largest_lane(Floats x) {
    const __m256 a = _mm256_max_ps(x.part[0], x.part[1]);
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }

  // exp(x) for x <= 0, as for AVX-512; 2^n by its bits, so that smaller results than 2^-126 are 0.
  static LOWKEY_INLINE Floats exp(Floats x) {
    Floats result;
    for (int h = 0; h < 2; ++h) {
      const __m256 t = _mm256_max_ps(_mm256_mul_ps(x.part[h], _mm256_set1_ps(1.44269504088896341f)),
                                     _mm256_set1_ps(-127.0f));
      const __m256 n = _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      const __m256 f = _mm256_sub_ps(t, n);
      __m256 p = _mm256_set1_ps(1.535336188319500e-4f);
      p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.339887440266574e-3f));
      p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.618437357674640e-3f));
      p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.550332471162809e-2f));
      p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.402264791363012e-1f));
      p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.931472028550421e-1f));
      p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
      const __m256i exponent =
          _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
      result.part[h] = _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
    }
    return result;
  }

  // The sums of four vectors.
  using Quarter = __m128;
  static LOWKEY_INLINE Quarter quarter_sums(const Floats* x) {
    __m256 whole[4];
    for (int i = 0; i < 4; ++i) whole[i] = _mm256_add_ps(x[i].part[0], x[i].part[1]);
    const __m256 sums =
        _mm256_hadd_ps(_mm256_hadd_ps(whole[0], whole[1]), _mm256_hadd_ps(whole[2], whole[3]));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
  }
  static LOWKEY_INLINE Floats sum_quarters(const Quarter* q) {
    return {{_mm256_set_m128(q[1], q[0]), _mm256_set_m128(q[3], q[2])}};
  }
  // sums[i]: of all lanes of x[i], for four vectors.
  static LOWKEY_INLINE void sum_four(const Floats* x, float* sums) {
    _mm_storeu_ps(sums, quarter_sums(x));
  }
};

}  // namespace
}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
