#pragma once
// The vector operations of decode_kernels-inl.h for AVX-512 with VNNI. See core/lanes-inl.h for
// what may be included.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "attention/decode_kernels.h"
#include "core/lanes-inl.h"

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

using Floats = F32x16;

struct Simd {
  // Registers that dot products may keep sums in (of 32; the rest hold codes, masks, weights).
  static constexpr int kSumRegisters = 20;
  static constexpr int registers_per_sum(int passes) { return passes; }
  static constexpr int kRowsTogether = 4;
  static constexpr int kIndependentSums = 8;  // latency of a dot product, twice over
  static constexpr int kValueRegisters = 16;  // of them for sums of rows of floats
  static constexpr int kHalvesTogether = 2;   // halves of a K tile whose codes share a broadcast
  static constexpr bool kOnePass = true;      // bytes: dropping the low ones halves the work
  // Sums of bytes times 255 fit 32 bits at any head_dim there is.
  static constexpr int kLargestHeadDim = kMaxHeadDim;

  typedef uint16_t U16x32 __attribute__((vector_size(64), may_alias));

  // --- codes

  template <int kBits>
  struct Granule {
    U16x32 part[kBits == 3 ? 3 : 1];
  };
  using Codes = __m512i;  // 64 bytes

  template <int kBits>
  static LOWKEY_INLINE Granule<kBits> load_granule(const std::byte* p) {
    Granule<kBits> g;
    for (int i = 0; i < (kBits == 3 ? 3 : 1); ++i) {
      __m512i x = _mm512_load_si512(p + 64 * i);
      asm("" : "+v"(x));  // kept in its register: GCC would load it again for every field
      g.part[i] = reinterpret_cast<U16x32>(x);
    }
    return g;
  }

  static LOWKEY_INLINE U16x32 bytes(int value) {
    return U16x32{} + static_cast<uint16_t>(value * 0x0101);
  }

  // Codes of field `field` of each byte. With a table of values instead of an affine grid, this is
  // where the table is looked up.
  template <int kBits>
  static LOWKEY_INLINE Codes codes(const Granule<kBits>& g, int field) {
    U16x32 x;
    if constexpr (kBits == 8) {
      x = g.part[0];
    } else if constexpr (kBits == 3) {
      if (field < 6) {
        x = (g.part[field / 2] >> (field % 2 * 3)) & bytes(7);
      } else {
        x = ((g.part[field - 6] >> 6) & bytes(3)) | ((g.part[2] >> (field - 2)) & bytes(4));
      }
    } else {
      x = (g.part[0] >> (field * kBits)) & bytes((1 << kBits) - 1);
    }
    return reinterpret_cast<__m512i>(x);
  }

  // The same, still where they are in their byte: codes << shift_in_place(field). Saves the shift
  // where the power of two can go elsewhere.
  template <int kBits>
  static constexpr int shift_in_place(int field) {
    return kBits == 8 ? 0 : kBits == 3 ? (field < 6 ? field % 2 * 3 : 0) : field * kBits;
  }
  template <int kBits>
  static LOWKEY_INLINE Codes codes_in_place(const Granule<kBits>& g, int field) {
    if (kBits == 8 || (kBits == 3 && field >= 6)) return codes<kBits>(g, field);
    const U16x32 x = g.part[kBits == 3 ? field / 2 : 0];
    return reinterpret_cast<__m512i>(x & bytes(((1 << kBits) - 1) << shift_in_place<kBits>(field)));
  }

  // --- sums of codes times weights

  template <int kPasses>
  struct Sum {
    __m512i part[kPasses];
  };

  // Of none. (Weights matter where codes are multiplied less a constant.)
  template <int kBits, int kPasses>
  static LOWKEY_INLINE Sum<kPasses> start(const std::byte* /*weights*/, int32_t /*quads*/) {
    Sum<kPasses> sum;
    for (int i = 0; i < kPasses; ++i) sum.part[i] = _mm512_setzero_si512();
    return sum;
  }

  // weights: 4 high bytes, then 4 low ones; lane l of the sum gets codes 4l..4l+3 times them.
  template <int kPasses>
  static LOWKEY_INLINE void dot(Sum<kPasses>& sum, Codes c, const std::byte* weights) {
    for (int i = 0; i < kPasses; ++i) {
      int32_t four;
      __builtin_memcpy(&four, weights + 4 * i, 4);
      // The instruction itself: around the intrinsic GCC 12 copies every sum back and forth.
      asm("vpdpbusd %2, %1, %0" : "+v"(sum.part[i]) : "v"(c), "v"(_mm512_set1_epi32(four)));
    }
  }

  // Sums of codes in place, as of codes: every product has the power of two as a factor.
  template <int kPasses>
  static LOWKEY_INLINE void add_shifted(Sum<kPasses>& sum, const Sum<kPasses>& x, int shift) {
    for (int i = 0; i < kPasses; ++i) {
      sum.part[i] = _mm512_add_epi32(
          sum.part[i], reinterpret_cast<__m512i>(reinterpret_cast<I32x16>(x.part[i]) >> shift));
    }
  }

  // base + unit * sum
  template <int kPasses>
  static LOWKEY_INLINE Floats scaled(const Sum<kPasses>& sum, float unit, Floats base) {
    const auto first = reinterpret_cast<Floats>(_mm512_cvtepi32_ps(sum.part[0]));
    if constexpr (kPasses == 1) {
      return first * splat(unit) + base;
    } else {
      const auto second = reinterpret_cast<Floats>(_mm512_cvtepi32_ps(sum.part[1]));
      return first * splat(256.0f * unit) + (second * splat(unit) + base);
    }
  }

  // --- 32 fixed-point numbers

  using Fixed = __m512i;

  static LOWKEY_INLINE Fixed load_fixed(const int16_t* p) { return _mm512_loadu_si512(p); }
  static LOWKEY_INLINE void store_fixed(int16_t* p, Fixed x) { _mm512_storeu_si512(p, x); }

  // a * b / 2^15, rounded.
  static LOWKEY_INLINE Fixed multiply(Fixed a, Fixed b) { return _mm512_mulhrs_epi16(a, b); }

  // Rounded to integers; |x| < 32768.
  static LOWKEY_INLINE Fixed round(Floats first, Floats second) {
    const __m512i low = _mm512_cvtps_epi32(reinterpret_cast<__m512>(first));
    const __m512i high = _mm512_cvtps_epi32(reinterpret_cast<__m512>(second));
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(low)),
                              _mm512_cvtepi32_epi16(high), 1);
  }

  // Halves >= 0 are in order as words.
  static LOWKEY_INLINE Fixed load_halves(const Half* p) { return _mm512_loadu_si512(p); }
  // Sixteen of them, zeros beyond.
  static LOWKEY_INLINE Fixed load_few_halves(const Half* p) {
    return _mm512_maskz_loadu_epi16(0xffff, p);
  }
  static LOWKEY_INLINE Fixed larger(Fixed a, Fixed b) { return _mm512_max_epu16(a, b); }

  // The largest word of every 128-bit lane, in each of its places.
  static LOWKEY_INLINE __m512i largest_of_lanes(__m512i x) {
    x = _mm512_max_epu16(x, _mm512_shuffle_epi32(x, _MM_PERM_BADC));
    x = _mm512_max_epu16(x, _mm512_shuffle_epi32(x, _MM_PERM_CDAB));
    return _mm512_max_epu16(x, _mm512_rol_epi32(x, 16));
  }
  // Lane l: the largest word of x[l].
  static LOWKEY_INLINE __m512i largest_words(const Fixed* x) {
    const auto folded = [](__m512i a, __m512i b) {
      return _mm512_max_epu16(_mm512_shuffle_i64x2(a, b, 0x44), _mm512_shuffle_i64x2(a, b, 0xee));
    };
    const __m512i a = folded(x[0], x[1]), b = folded(x[2], x[3]);
    return largest_of_lanes(
        _mm512_max_epu16(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd)));
  }
  // A biased exponent of halves, at least 1, in every word: on its way to the shifts it must not
  // leave the vector registers (reading from DRAM lost a sixth of its rate to that).
  using Exponent = __m512i;
  static LOWKEY_INLINE Exponent exponent_of(__m512i halves) {
    return _mm512_max_epu16(_mm512_srli_epi16(halves, 10), _mm512_set1_epi16(1));
  }
  // Of the largest of 32 halves >= 0.
  static LOWKEY_INLINE Exponent exponent(Fixed x) {
    x = _mm512_max_epu16(x, _mm512_shuffle_i64x2(x, x, 0x4e));
    x = _mm512_max_epu16(x, _mm512_shuffle_i64x2(x, x, 0xb1));
    return exponent_of(largest_of_lanes(x));
  }
  // The same of each of four vectors.
  static LOWKEY_INLINE void exponents(const Fixed* x, Exponent* four) {
    const __m512i all = exponent_of(largest_words(x));
    four[0] = _mm512_shuffle_i64x2(all, all, 0x00);
    four[1] = _mm512_shuffle_i64x2(all, all, 0x55);
    four[2] = _mm512_shuffle_i64x2(all, all, 0xaa);
    four[3] = _mm512_shuffle_i64x2(all, all, 0xff);
  }
  // 2^(exponent + offset)
  static LOWKEY_INLINE float power(Exponent exponent, int offset) {
    const __m128i biased =
        _mm_add_epi32(_mm_and_si128(_mm512_castsi512_si128(exponent), _mm_set1_epi32(0xffff)),
                      _mm_set1_epi32(offset + 127));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_slli_epi32(biased, 23)));
  }

  // 32 halves >= 0 with exponents up to `exponent` as multiples of 2^(exponent - 29), rounded down.
  static LOWKEY_INLINE Fixed to_fixed(const Half* p, Exponent exponent) {
    const __m512i bits = _mm512_loadu_si512(p);
    const __m512i one = _mm512_set1_epi16(1);
    const __m512i e = _mm512_srli_epi16(bits, 10);
    // Subnormal numbers have no implicit bit.
    const __m512i implicit = _mm512_maskz_set1_epi16(_mm512_cmpge_epu16_mask(e, one), 0x4000);
    const __m512i mantissa = _mm512_or_si512(
        implicit, _mm512_and_si512(_mm512_slli_epi16(bits, 4), _mm512_set1_epi16(0x3ff0)));
    return _mm512_srlv_epi16(mantissa, _mm512_sub_epi16(exponent, _mm512_max_epu16(e, one)));
  }

  // --- weights for dot()

  // In two passes: x = 256 * high + low, both signed bytes, for |x| <= 32639.
  static LOWKEY_INLINE void store_weights(Fixed x, std::byte* out) {
    const __m512i rounded = _mm512_add_epi16(x, _mm512_set1_epi16(128));
    const __m512i mixed = _mm512_mask_blend_epi8(0x5555555555555555u, rounded, x);
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(1, 3, 5, 7, 0, 2, 4, 6, 9, 11, 13, 15, 8, 10, 12, 14));
    _mm512_storeu_si512(out, _mm512_shuffle_epi8(mixed, order));
  }

  static LOWKEY_INLINE Fixed larger_magnitude(Fixed largest, Fixed x) {
    return _mm512_max_epu16(largest, _mm512_abs_epi16(x));
  }

  // In one pass: bytes b with x = b * unit, for numbers up to some largest in magnitude. The second
  // half of each 8 bytes is not used. In vector registers all the way, as exponents.
  struct ByteScale {
    __m512i factor, shift;  // in every word
    float unit;
  };
  struct ByteScales {
    __m512i factor, shift;
    __m512 unit;
  };
  // By 128-bit lane, from the largest word in every place of it.
  static LOWKEY_INLINE ByteScales byte_scales_of(__m512i largest) {
    const __m512i top = _mm512_or_si512(_mm512_srli_epi32(largest, 16), _mm512_set1_epi32(1));
    // top << shift has 15 bits
    const __m512i shift = _mm512_sub_epi32(
        _mm512_set1_epi32(14), _mm512_cvtps_epi32(_mm512_getexp_ps(_mm512_cvtepi32_ps(top))));
    const __m512 shifted = _mm512_cvtepi32_ps(_mm512_sllv_epi32(top, shift));
    const __m512i factor = _mm512_min_epi32(
        _mm512_cvttps_epi32(_mm512_div_ps(_mm512_set1_ps(16256.0f * 32768.0f), shifted)),
        _mm512_set1_epi32(32767));
    // 2^22 / (factor * 2^shift)
    const __m512i power =
        _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(22 + 127), shift), 23);
    const __m512 unit = _mm512_div_ps(_mm512_castsi512_ps(power), _mm512_cvtepi32_ps(factor));
    const auto both = [](__m512i x) { return _mm512_or_si512(x, _mm512_slli_epi32(x, 16)); };
    return {both(factor), both(shift), unit};
  }
  static LOWKEY_INLINE ByteScale byte_scale(Fixed largest) {
    largest = _mm512_max_epu16(largest, _mm512_shuffle_i64x2(largest, largest, 0x4e));
    largest = _mm512_max_epu16(largest, _mm512_shuffle_i64x2(largest, largest, 0xb1));
    const ByteScales scales = byte_scales_of(largest_of_lanes(largest));
    return {scales.factor, scales.shift, _mm512_cvtss_f32(scales.unit)};
  }
  // Of four vectors.
  static LOWKEY_INLINE void byte_scales(const Fixed* x, ByteScale* four) {
    Fixed magnitude[4];
    for (int i = 0; i < 4; ++i) magnitude[i] = _mm512_abs_epi16(x[i]);
    const ByteScales all = byte_scales_of(largest_words(magnitude));
    four[0] = {_mm512_shuffle_i64x2(all.factor, all.factor, 0x00),
               _mm512_shuffle_i64x2(all.shift, all.shift, 0x00), _mm512_cvtss_f32(all.unit)};
    four[1] = {_mm512_shuffle_i64x2(all.factor, all.factor, 0x55),
               _mm512_shuffle_i64x2(all.shift, all.shift, 0x55),
               _mm_cvtss_f32(_mm512_extractf32x4_ps(all.unit, 1))};
    four[2] = {_mm512_shuffle_i64x2(all.factor, all.factor, 0xaa),
               _mm512_shuffle_i64x2(all.shift, all.shift, 0xaa),
               _mm_cvtss_f32(_mm512_extractf32x4_ps(all.unit, 2))};
    four[3] = {_mm512_shuffle_i64x2(all.factor, all.factor, 0xff),
               _mm512_shuffle_i64x2(all.shift, all.shift, 0xff),
               _mm_cvtss_f32(_mm512_extractf32x4_ps(all.unit, 3))};
  }
  static LOWKEY_INLINE void store_weights8(Fixed x, const ByteScale& scale, std::byte* out) {
    // Up to 16256 = 127 * 128, then to the nearest 128.
    x = _mm512_mulhrs_epi16(_mm512_sllv_epi16(x, scale.shift), scale.factor);
    x = _mm512_slli_epi16(_mm512_add_epi16(x, _mm512_set1_epi16(64)), 1);
    const __m512i order = _mm512_broadcast_i32x4(
        _mm_setr_epi8(1, 3, 5, 7, -1, -1, -1, -1, 9, 11, 13, 15, -1, -1, -1, -1));
    _mm512_storeu_si512(out, _mm512_shuffle_epi8(x, order));
  }

  // --- floats

#define LOWKEY_LANES ::lowkey::LOWKEY_KERNEL_NAMESPACE
  static LOWKEY_INLINE Floats load(const float* p) {
    return LOWKEY_LANES::load(p);
  }
  static LOWKEY_INLINE void store(float* p, Floats x) {
    LOWKEY_LANES::store(p, x);
  }
  static LOWKEY_INLINE Floats splat(float x) {
    return LOWKEY_LANES::splat(x);
  }
  static LOWKEY_INLINE Floats load_half(const Half* p) {
    return LOWKEY_LANES::load_half(p);
  }
#undef LOWKEY_LANES
  static LOWKEY_INLINE Floats max(Floats a, Floats b) {
    return a > b ? a : b;
  }
  // Two numbers in the first two lanes; the others are any.
  static LOWKEY_INLINE Floats pair(float first, float second) {
    return reinterpret_cast<Floats>(_mm512_castps128_ps512(_mm_setr_ps(first, second, 0, 0)));
  }
  static LOWKEY_INLINE float first_lane(Floats x) {
    return x[0];
  }
  static LOWKEY_INLINE float second_lane(Floats x) {
    return x[1];
  }

  static LOWKEY_INLINE float sum_lanes(Floats x) {
    return _mm512_reduce_add_ps(reinterpret_cast<__m512>(x));
  }
  static LOWKEY_INLINE float largest_lane(Floats x) {
    return _mm512_reduce_max_ps(reinterpret_cast<__m512>(x));
  }

  // exp(x) for x <= 0: 2^n 2^f with a polynomial of degree 6 (Cephes exp2f) for f in [-1/2, 1/2].
  // Relative error below 2e-7 + |x| 2^-23; -infinity gives 0.
  static LOWKEY_INLINE Floats exp(Floats x) {
    const __m512 t = _mm512_max_ps(reinterpret_cast<__m512>(x * splat(1.44269504088896341f)),
                                   _mm512_set1_ps(-150.0f));
    const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const auto f = reinterpret_cast<Floats>(_mm512_sub_ps(t, n));
    Floats p = splat(1.535336188319500e-4f);
    p = p * f + splat(1.339887440266574e-3f);
    p = p * f + splat(9.618437357674640e-3f);
    p = p * f + splat(5.550332471162809e-2f);
    p = p * f + splat(2.402264791363012e-1f);
    p = p * f + splat(6.931472028550421e-1f);
    p = p * f + splat(1.0f);
    return reinterpret_cast<Floats>(_mm512_scalef_ps(reinterpret_cast<__m512>(p), n));
  }

  // Four vectors to one that holds four partial sums of each: 128-bit lane l has those of lane l.
  using Quarter = __m512;
  static LOWKEY_INLINE Quarter quarter_sums(const Floats* x) {
    const auto v0 = reinterpret_cast<__m512>(x[0]), v1 = reinterpret_cast<__m512>(x[1]);
    const auto v2 = reinterpret_cast<__m512>(x[2]), v3 = reinterpret_cast<__m512>(x[3]);
    const __m512d a =
        _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(v0, v1), _mm512_unpackhi_ps(v0, v1)));
    const __m512d b =
        _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(v2, v3), _mm512_unpackhi_ps(v2, v3)));
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  // The sums of sixteen vectors from their quarters.
  static LOWKEY_INLINE Floats sum_quarters(const Quarter* q) {
    const __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(q[0], q[1], 0x88),
                                   _mm512_shuffle_f32x4(q[0], q[1], 0xdd));
    const __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(q[2], q[3], 0x88),
                                   _mm512_shuffle_f32x4(q[2], q[3], 0xdd));
    return reinterpret_cast<Floats>(
        _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)));
  }
  // sums[i]: of all lanes of x[i], for four vectors.
  static LOWKEY_INLINE void sum_four(const Floats* x, float* sums) {
    const __m512 quarter = quarter_sums(x);
    const __m256 half =
        _mm256_add_ps(_mm512_castps512_ps256(quarter), _mm512_extractf32x8_ps(quarter, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
};

}  // namespace
}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
