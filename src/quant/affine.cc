#include "quant/affine.h"

#include <algorithm>

namespace lowkey {

AffineParams affine_params(const float* x, int64_t count, int64_t stride, int32_t bits) {
  float low = x[0];
  float high = x[0];
  for (int64_t i = 1; i < count; ++i) {
    low = std::min(low, x[i * stride]);
    high = std::max(high, x[i * stride]);
  }
  // -0 becomes 0: which of the two is met first shall not matter.
  low += 0.0f;
  high += 0.0f;
  // At most 131008 / 3 in two bits: never overflows f16.
  const float step = (high - low) / static_cast<float>((1 << bits) - 1);
  return {float_to_half(step), float_to_half(low)};
}

uint8_t affine_code(float x, AffineParams params, int32_t bits) {
  const float scale = half_to_float(params.scale);
  if (scale == 0.0f) return 0;
  const float top = static_cast<float>((1 << bits) - 1);
  const float position = (x - half_to_float(params.zero_point)) / scale;
  return static_cast<uint8_t>(round_half_even(std::clamp(position, 0.0f, top)));
}

}  // namespace lowkey
