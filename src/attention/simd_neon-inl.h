#pragma once
// The vector operations of decode_kernels-inl.h for NEON with dot products of bytes (ASIMDDP). See
// core/lanes-inl.h for what may be included.
//
// Both factors of a product have signs. Codes fit seven bits once shifted down; those of eight bits
// are multiplied less 128, and sums start with what that takes away (start()).
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "attention/decode_kernels.h"
#include "core/lanes-inl.h"

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

using Floats = F32x16;

struct Simd {
  // Registers that dot products may keep sums in (of 32; the rest hold codes, granules, weights).
  static constexpr int kSumRegisters = 20;
  static constexpr int registers_per_sum(int passes) { return 4 * passes; }
  static constexpr int kRowsTogether = 2;
  static constexpr int kIndependentSums = 8;  // latency of a dot product times two a cycle
  static constexpr int kValueRegisters = 4;   // sums of rows of floats, of four registers each
  static constexpr int kHalvesTogether = 1;
  static constexpr bool kOnePass = true;
  static constexpr int kLargestHeadDim = kMaxHeadDim;

  // --- codes

  template <int kBits>
  struct Granule {
    uint8x16_t part[kBits == 3 ? 3 : 1][4];
  };
  struct Codes {
    int8x16_t part[4];  // 64 bytes
  };

  template <int kBits>
  static LOWKEY_INLINE Granule<kBits> load_granule(const std::byte* p) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(p);
    Granule<kBits> g;
#pragma GCC unroll 3
    for (int i = 0; i < (kBits == 3 ? 3 : 1); ++i) {
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n) g.part[i][n] = vld1q_u8(bytes + 64 * i + 16 * n);
    }
    return g;
  }

  template <int kBits>
  static LOWKEY_INLINE uint8x16_t mask(int shift) {
    return vdupq_n_u8(static_cast<uint8_t>(((1 << kBits) - 1) << shift));
  }

  // Sixteen of the granule's codes.
  template <int kBits>
  static LOWKEY_INLINE uint8x16_t some_codes(const Granule<kBits>& g, int field, int n) {
    if constexpr (kBits == 8) {
      return g.part[0][n] ^ 0x80;
    } else if constexpr (kBits == 3) {
      if (field < 6) return (g.part[field / 2][n] >> (field % 2 * 3)) & 7;
      return (g.part[field - 6][n] >> 6) | ((g.part[2][n] >> (field - 2)) & 4);
    } else {
      const uint8x16_t x = g.part[0][n] >> (field * kBits);
      return field * kBits + kBits == 8 ? x : x & mask<kBits>(0);
    }
  }
  template <int kBits>
  static LOWKEY_INLINE Codes codes(const Granule<kBits>& g, int field) {
    Codes c;
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) c.part[n] = vreinterpretq_s8_u8(some_codes<kBits>(g, field, n));
    return c;
  }

  // In place where that leaves the top bit free. A byte's topmost field is shifted down, which is
  // one instruction as well.
  template <int kBits>
  static constexpr int shift_in_place(int field) {
    if (kBits == 3) return field < 6 ? field % 2 * 3 : 0;
    return field * kBits + kBits == 8 ? 0 : field * kBits;
  }
  template <int kBits>
  static LOWKEY_INLINE Codes codes_in_place(const Granule<kBits>& g, int field) {
    const int shift = shift_in_place<kBits>(field);
    if (shift == 0) return codes<kBits>(g, field);
    Codes c;
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) {
      const uint8x16_t x = g.part[kBits == 3 ? field / 2 : 0][n];
      c.part[n] = vreinterpretq_s8_u8(x & mask<kBits>(shift));
    }
    return c;
  }

  // --- sums of codes times weights

  template <int kPasses>
  struct Sum {
    int32x4_t part[kPasses][4];
  };

  // What a sum over `quads` quads starts with: 128 times the sum of their weights if codes lack it.
  template <int kBits, int kPasses>
  static LOWKEY_INLINE Sum<kPasses> start(const std::byte* weights, int32_t quads) {
    const auto* bytes = reinterpret_cast<const int8_t*>(weights);
    int32x4_t totals = vdupq_n_s32(0);  // of high, low, high, low bytes
    if constexpr (kBits == 8) {
      for (int32_t i = 0; i < quads; i += 2) {
        totals = vdotq_s32(totals, vld1q_s8(bytes + 8 * i), vdupq_n_s8(1));
      }
    }
    const int32x2_t both = vshl_n_s32(vadd_s32(vget_low_s32(totals), vget_high_s32(totals)), 7);
    Sum<kPasses> sum;
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) {
      sum.part[0][n] = vdupq_lane_s32(both, 0);
      if constexpr (kPasses == 2) sum.part[1][n] = vdupq_lane_s32(both, 1);
    }
    return sum;
  }

  // weights: 4 high bytes, then 4 low ones; lane l of the sum gets codes 4l..4l+3 times them.
  template <int kPasses>
  static LOWKEY_INLINE void dot(Sum<kPasses>& sum, const Codes& c, const std::byte* weights) {
    const int8x8_t w = vld1_s8(reinterpret_cast<const int8_t*>(weights));
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) {
      sum.part[0][n] = vdotq_lane_s32(sum.part[0][n], c.part[n], w, 0);
      if constexpr (kPasses == 2) {
        sum.part[1][n] = vdotq_lane_s32(sum.part[1][n], c.part[n], w, 1);
      }
    }
  }

  template <int kPasses>
  static LOWKEY_INLINE void add_shifted(Sum<kPasses>& sum, const Sum<kPasses>& x, int shift) {
#pragma GCC unroll 2
    for (int i = 0; i < kPasses; ++i) {
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n) sum.part[i][n] += x.part[i][n] >> shift;
    }
  }

  // base + unit * sum
  template <int kPasses>
  static LOWKEY_INLINE Floats scaled(const Sum<kPasses>& sum, float unit, Floats base) {
    Floats result;
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) {
      const float32x4_t first = vcvtq_f32_s32(sum.part[0][n]);
      if constexpr (kPasses == 1) {
        result.part[n] = vfmaq_n_f32(base.part[n], first, unit);
      } else {
        const float32x4_t second = vcvtq_f32_s32(sum.part[1][n]);
        result.part[n] = vfmaq_n_f32(vfmaq_n_f32(base.part[n], second, unit), first, 256.0f * unit);
      }
    }
    return result;
  }

  // --- 32 fixed-point numbers

  struct Fixed {
    int16x8_t part[4];
  };

  template <typename F>
  static LOWKEY_INLINE Fixed make_fixed(const F& f) {
    return {{f(0), f(1), f(2), f(3)}};
  }

  static LOWKEY_INLINE Fixed load_fixed(const int16_t* p) {
    return {{vld1q_s16(p), vld1q_s16(p + 8), vld1q_s16(p + 16), vld1q_s16(p + 24)}};
  }
  static LOWKEY_INLINE void store_fixed(int16_t* p, Fixed x) {
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) vst1q_s16(p + 8 * n, x.part[n]);
  }

  // a * b / 2^15, rounded.
  static LOWKEY_INLINE Fixed multiply(Fixed a, Fixed b) {
    return make_fixed([&](int n) __attribute__((always_inline)) {
      return vqrdmulhq_s16(a.part[n], b.part[n]);
    });
  }

  // Rounded to integers; |x| < 32768.
  static LOWKEY_INLINE Fixed round(Floats first, Floats second) {
    return make_fixed([&](int n) __attribute__((always_inline)) {
      const Floats& x = n < 2 ? first : second;
      const int32x4_t low = vcvtnq_s32_f32(x.part[n % 2 * 2]);
      return vmovn_high_s32(vmovn_s32(low), vcvtnq_s32_f32(x.part[n % 2 * 2 + 1]));
    });
  }

  static LOWKEY_INLINE uint16x8_t words(int16x8_t x) {
    return vreinterpretq_u16_s16(x);
  }
  static LOWKEY_INLINE int largest_word(Fixed x) {
    return vmaxvq_u16(vmaxq_u16(vmaxq_u16(words(x.part[0]), words(x.part[1])),
                                vmaxq_u16(words(x.part[2]), words(x.part[3]))));
  }

  // Halves >= 0 are in order as words.
  static LOWKEY_INLINE Fixed load_halves(const Half* p) {
    return load_fixed(reinterpret_cast<const int16_t*>(p));
  }
  // Sixteen of them, zeros beyond.
  static LOWKEY_INLINE Fixed load_few_halves(const Half* p) {
    const auto* bits = reinterpret_cast<const int16_t*>(p);
    return {{vld1q_s16(bits), vld1q_s16(bits + 8), vdupq_n_s16(0), vdupq_n_s16(0)}};
  }
  static LOWKEY_INLINE Fixed larger(Fixed a, Fixed b) {
    return make_fixed([&](int n) __attribute__((always_inline)) {
      return vreinterpretq_s16_u16(vmaxq_u16(words(a.part[n]), words(b.part[n])));
    });
  }

  // A biased exponent of halves, at least 1, in every word: so it need not leave the vector
  // registers on its way to the shifts.
  using Exponent = uint16x8_t;
  static LOWKEY_INLINE Exponent exponent_of(uint16x8_t halves) {
    return vmaxq_u16(vshrq_n_u16(halves, 10), vdupq_n_u16(1));
  }
  // Of the largest of 32 halves >= 0.
  static LOWKEY_INLINE Exponent exponent(Fixed x) {
    uint16x8_t largest = vpmaxq_u16(vmaxq_u16(words(x.part[0]), words(x.part[1])),
                                    vmaxq_u16(words(x.part[2]), words(x.part[3])));
    largest = vpmaxq_u16(largest, largest);
    largest = vpmaxq_u16(largest, largest);
    return exponent_of(vpmaxq_u16(largest, largest));
  }
  // The same of each of four vectors.
  static LOWKEY_INLINE void exponents(const Fixed* x, Exponent* four) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) four[i] = exponent(x[i]);
  }
  // 2^(exponent + offset)
  static LOWKEY_INLINE float power(Exponent exponent, int offset) {
    const int32x4_t biased =
        vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(exponent))) + (offset + 127);
    return vgetq_lane_f32(vreinterpretq_f32_s32(biased << 23), 0);
  }

  // 32 halves >= 0 with exponents up to `exponent` as multiples of 2^(exponent - 29), rounded down.
  // Halves that are padding may be anything.
  static LOWKEY_INLINE Fixed to_fixed(const Half* p, Exponent exponent) {
    const Fixed halves = load_halves(p);
    return make_fixed([&](int n) __attribute__((always_inline)) {
      const uint16x8_t bits = words(halves.part[n]);
      const uint16x8_t e = vshrq_n_u16(bits, 10);
      const uint16x8_t mantissa = vandq_u16(vshlq_n_u16(bits, 4), vdupq_n_u16(0x3ff0));
      // Subnormal numbers have no implicit bit, and the exponent of the smallest that have.
      const uint16x8_t implicit = vandq_u16(vtstq_u16(e, e), vdupq_n_u16(0x4000));
      const int16x8_t up = vreinterpretq_s16_u16(exponent_of(bits) - exponent);
      return vreinterpretq_s16_u16(vshlq_u16(vorrq_u16(implicit, mantissa), up));
    });
  }

  // --- weights for dot()

  // In two passes: x = 256 * high + low, both signed bytes, for |x| <= 32639.
  static LOWKEY_INLINE void store_weights(Fixed x, std::byte* out) {
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) {
      store_interleaved(vrshrn_n_s16(x.part[n], 8), vmovn_s16(x.part[n]), out + 16 * n);
    }
  }
  // Two quads: four bytes of each in turn.
  static LOWKEY_INLINE void store_interleaved(int8x8_t high, int8x8_t low, std::byte* out) {
    const int32x2x2_t quads = vzip_s32(vreinterpret_s32_s8(high), vreinterpret_s32_s8(low));
    vst1q_s32(reinterpret_cast<int32_t*>(out), vcombine_s32(quads.val[0], quads.val[1]));
  }

  static LOWKEY_INLINE Fixed magnitude(Fixed x) {
    return make_fixed([&](int n) __attribute__((always_inline)) { return vabsq_s16(x.part[n]); });
  }
  static LOWKEY_INLINE Fixed larger_magnitude(Fixed largest, Fixed x) {
    return larger(largest, magnitude(x));
  }

  // In one pass: bytes b with x = b * unit, for numbers up to some largest in magnitude. The second
  // half of each 8 bytes is not used.
  struct ByteScale {
    int16_t factor, shift;
    float unit;
  };
  static LOWKEY_INLINE ByteScale byte_scale(Fixed largest) {
    const auto top = static_cast<uint32_t>(largest_word(largest)) | 1;
    const int shift = __builtin_clz(top) - 17;  // top << shift has 15 bits
    const uint32_t factor = (16256u << 15) / (top << shift);
    ByteScale scale;
    scale.factor = static_cast<int16_t>(factor > 32767 ? 32767 : factor);
    scale.shift = static_cast<int16_t>(shift);
    scale.unit =
        128.0f * 32768.0f / (static_cast<float>(scale.factor) * static_cast<float>(1 << shift));
    return scale;
  }
  // The same for four vectors.
  static LOWKEY_INLINE void byte_scales(const Fixed* x, ByteScale* four) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) four[i] = byte_scale(magnitude(x[i]));
  }
  static LOWKEY_INLINE void store_weights8(Fixed x, const ByteScale& scale, std::byte* out) {
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) {
      // Up to 16256 = 127 * 128, then to the nearest 128.
      const int16x8_t up = vshlq_s16(x.part[n], vdupq_n_s16(scale.shift));
      const int8x8_t high = vrshrn_n_s16(vqrdmulhq_n_s16(up, scale.factor), 7);
      store_interleaved(high, vdup_n_s8(0), out + 16 * n);
    }
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
  static LOWKEY_INLINE float first_lane(Floats x) {
    return LOWKEY_LANES::first_lane(x);
  }
  static LOWKEY_INLINE float largest_lane(Floats x) {
    return LOWKEY_LANES::largest_lane(x);
  }
  static LOWKEY_INLINE float sum_lanes(Floats x) {
    return LOWKEY_LANES::horizontal_sum(x);
  }
  static LOWKEY_INLINE Floats max(Floats a, Floats b) {
    return LOWKEY_LANES::larger(a, b);
  }
#undef LOWKEY_LANES
  // Two numbers in the first two lanes; the others are any.
  static LOWKEY_INLINE Floats pair(float first, float second) {
    Floats x = {{vdupq_n_f32(first), vdupq_n_f32(first), vdupq_n_f32(first), vdupq_n_f32(first)}};
    x.part[0] = vsetq_lane_f32(second, x.part[0], 1);
    return x;
  }
  static LOWKEY_INLINE float second_lane(Floats x) {
    return vgetq_lane_f32(x.part[0], 1);
  }

  // exp(x) for x <= 0, as for AVX-512; 2^n by its bits, so that smaller results than 2^-126 are 0.
  // NaN gives 0 as well, as on x86: a page of which a row sees nothing has no maximum to subtract.
  static LOWKEY_INLINE Floats exp(Floats x) {
    Floats result;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float32x4_t t = vmaxnmq_f32(x.part[i] * 1.44269504088896341f, vdupq_n_f32(-127.0f));
      const float32x4_t n = vrndnq_f32(t), f = t - n;
      float32x4_t p = vdupq_n_f32(1.535336188319500e-4f);
      p = vfmaq_f32(vdupq_n_f32(1.339887440266574e-3f), p, f);
      p = vfmaq_f32(vdupq_n_f32(9.618437357674640e-3f), p, f);
      p = vfmaq_f32(vdupq_n_f32(5.550332471162809e-2f), p, f);
      p = vfmaq_f32(vdupq_n_f32(2.402264791363012e-1f), p, f);
      p = vfmaq_f32(vdupq_n_f32(6.931472028550421e-1f), p, f);
      p = vfmaq_f32(vdupq_n_f32(1.0f), p, f);
      result.part[i] = p * vreinterpretq_f32_s32((vcvtq_s32_f32(n) + 127) << 23);
    }
    return result;
  }

  // The sums of four vectors.
  using Quarter = float32x4_t;
  static LOWKEY_INLINE Quarter quarter_sums(const Floats* x) {
    float32x4_t whole[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      whole[i] = (x[i].part[0] + x[i].part[1]) + (x[i].part[2] + x[i].part[3]);
    }
    return vpaddq_f32(vpaddq_f32(whole[0], whole[1]), vpaddq_f32(whole[2], whole[3]));
  }
  // The sums of sixteen vectors from their quarters.
  static LOWKEY_INLINE Floats sum_quarters(const Quarter* q) {
    return {{q[0], q[1], q[2], q[3]}};
  }
  // sums[i]: of all lanes of x[i], for four vectors.
  static LOWKEY_INLINE void sum_four(const Floats* x, float* sums) {
    vst1q_f32(sums, quarter_sums(x));
  }
};

}  // namespace
}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
