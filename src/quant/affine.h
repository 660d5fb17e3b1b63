#pragma once
// The affine quantizer of KIVI (arXiv 2402.02750, eq. in section 2; DESIGN §4), scalar: this is the
// specification every fast path is compared with. Torch-free, pure.
//
//   x ≈ scale * code + zero_point        zero_point real: the group's minimum
//   scale = (max - min) / (2^bits - 1)   both rounded to f16 first; codes are computed in f32 from
//   the rounded ones code = round_half_even(clamp((x - zero_point) / scale, 0, 2^bits - 1))
//
// Inputs are f16 values (the cache rounds before it quantizes), so zero_point is exact. A constant
// group, or one whose range vanishes in f16, has scale 0 and codes 0 and is restored as zero_point.
// A zero_point of -0 is stored as 0.
#include <cstdint>

#include "core/half.h"

namespace lowkey {

struct AffineParams {
  Half scale;
  Half zero_point;
};

// x: count > 0 finite values, `stride` floats apart.
AffineParams affine_params(const float* x, int64_t count, int64_t stride, int32_t bits);

uint8_t affine_code(float x, AffineParams params, int32_t bits);

// To the nearest integer, ties to even, for 0 <= x < 2^22: the addition leaves no bits below 1, and
// float addition rounds to even. Unlike nearbyint it needs no instruction set to be quick, and
// vectorizes.
inline float round_half_even(float x) {
  constexpr float kAlign = 12582912.0f;  // 1.5 * 2^23
  return (x + kAlign) - kAlign;
}

inline float affine_decode(uint8_t code, AffineParams params) {
  return half_to_float(params.scale) * static_cast<float>(code) + half_to_float(params.zero_point);
}

}  // namespace lowkey
