#pragma once
// NEON's part of lanes-inl.h, which includes it and says what its functions do: sixteen floats in
// four registers. (GCC 12 keeps a vector type that is wider than a register in memory.)
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "core/half.h"

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

struct F32x16 {
  float32x4_t part[4];

  friend LOWKEY_INLINE F32x16 operator+(F32x16 a, F32x16 b) {
    return {{a.part[0] + b.part[0], a.part[1] + b.part[1], a.part[2] + b.part[2],
             a.part[3] + b.part[3]}};
  }
  friend LOWKEY_INLINE F32x16 operator-(F32x16 a, F32x16 b) {
    return {{a.part[0] - b.part[0], a.part[1] - b.part[1], a.part[2] - b.part[2],
             a.part[3] - b.part[3]}};
  }
  friend LOWKEY_INLINE F32x16 operator*(F32x16 a, F32x16 b) {
    return {{a.part[0] * b.part[0], a.part[1] * b.part[1], a.part[2] * b.part[2],
             a.part[3] * b.part[3]}};
  }
  LOWKEY_INLINE F32x16 operator-() const { return {{-part[0], -part[1], -part[2], -part[3]}}; }
  LOWKEY_INLINE F32x16& operator+=(F32x16 x) { return *this = *this + x; }
};

struct I32x16 {
  int32x4_t part[4];

  friend LOWKEY_INLINE I32x16 operator&(I32x16 a, int32_t b) {
    return {{a.part[0] & b, a.part[1] & b, a.part[2] & b, a.part[3] & b}};
  }
  friend LOWKEY_INLINE I32x16 operator|(I32x16 a, I32x16 b) {
    return {{a.part[0] | b.part[0], a.part[1] | b.part[1], a.part[2] | b.part[2],
             a.part[3] | b.part[3]}};
  }
  friend LOWKEY_INLINE I32x16 operator<<(I32x16 a, int32_t b) {
    return {{a.part[0] << b, a.part[1] << b, a.part[2] << b, a.part[3] << b}};
  }
  friend LOWKEY_INLINE I32x16 operator>>(I32x16 a, int32_t b) {
    return {{a.part[0] >> b, a.part[1] >> b, a.part[2] >> b, a.part[3] >> b}};
  }
};

LOWKEY_INLINE F32x16 load(const float* p) {
  return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
LOWKEY_INLINE void store(float* p, F32x16 x) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.part[i]);
}
LOWKEY_INLINE F32x16 splat(float x) {
  const float32x4_t four = vdupq_n_f32(x);
  return {{four, four, four, four}};
}

LOWKEY_INLINE float to_float(Half h) {
  __fp16 half;
  __builtin_memcpy(&half, &h, 2);
  return half;
}
LOWKEY_INLINE F32x16 load_half(const Half* p) {
  const auto* bits = reinterpret_cast<const uint16_t*>(p);
  F32x16 result;
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const float16x8_t eight = vreinterpretq_f16_u16(vld1q_u16(bits + 8 * i));
    result.part[2 * i] = vcvt_f32_f16(vget_low_f16(eight));
    result.part[2 * i + 1] = vcvt_high_f32_f16(eight);
  }
  return result;
}

LOWKEY_INLINE float horizontal_sum(F32x16 x) {
  const float32x4_t four = (x.part[0] + x.part[2]) + (x.part[1] + x.part[3]);
  const float32x2_t two = vget_low_f32(four) + vget_high_f32(four);
  return vpadds_f32(two);
}

LOWKEY_INLINE I32x16 load_dwords(const std::byte* p) {
  const auto* dwords = reinterpret_cast<const int32_t*>(p);
  return {
      {vld1q_s32(dwords), vld1q_s32(dwords + 4), vld1q_s32(dwords + 8), vld1q_s32(dwords + 12)}};
}
LOWKEY_INLINE F32x16 to_floats(I32x16 x) {
  return {{vcvtq_f32_s32(x.part[0]), vcvtq_f32_s32(x.part[1]), vcvtq_f32_s32(x.part[2]),
           vcvtq_f32_s32(x.part[3])}};
}

LOWKEY_INLINE F32x16 larger(F32x16 a, F32x16 b) {
  return {{vmaxq_f32(a.part[0], b.part[0]), vmaxq_f32(a.part[1], b.part[1]),
           vmaxq_f32(a.part[2], b.part[2]), vmaxq_f32(a.part[3], b.part[3])}};
}
LOWKEY_INLINE float first_lane(F32x16 x) {
  return vgetq_lane_f32(x.part[0], 0);
}
LOWKEY_INLINE float largest_lane(F32x16 x) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.part[0], x.part[1]), vmaxq_f32(x.part[2], x.part[3])));
}
LOWKEY_INLINE F32x16 where_above(F32x16 value, float limit, F32x16 x) {
  F32x16 result;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t above = vcgtq_f32(value.part[i], vdupq_n_f32(limit));
    result.part[i] = vreinterpretq_f32_u32(above & vreinterpretq_u32_f32(x.part[i]));
  }
  return result;
}
LOWKEY_INLINE F32x16 power_of_two(F32x16 n) {
  F32x16 result;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    result.part[i] = vreinterpretq_f32_s32((vcvtq_s32_f32(n.part[i]) + 127) << 23);
  }
  return result;
}

}  // namespace
}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
