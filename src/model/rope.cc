#include "model/rope.h"

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace lowkey {
namespace {

// transformers' _compute_llama3_parameters (modeling_rope_utils.py), in float like there: long
// waves are slowed by `factor`, short ones left alone, those between blended.
float llama3_scaled(float inverse, const RopeConfig& config) {
  const auto factor = static_cast<float>(config.factor);
  const auto low = static_cast<float>(config.low_freq_factor);
  const auto high = static_cast<float>(config.high_freq_factor);
  const auto context = static_cast<float>(config.original_context);
  const float wavelength = 2.0f * std::numbers::pi_v<float> / inverse;
  if (wavelength > context / low) return inverse / factor;
  if (wavelength < context / high) return inverse;
  const float smooth = (context / wavelength - low) / (high - low);
  return (1.0f - smooth) * inverse / factor + smooth * inverse;
}

}  // namespace

RopeFrequencies::RopeFrequencies(const RopeConfig& config) {
  if (config.dim < 0 || config.dim % 2 != 0) {
    fail(ErrorCode::kUnsupported, "RoPE over {} channels: not an even number", config.dim);
  }
  const int32_t half = config.dim / 2;
  if (!config.freq_divisors.empty() && std::ssize(config.freq_divisors) != half) {
    fail(ErrorCode::kInvalidArgument, "{} RoPE divisors for {} frequencies",
         config.freq_divisors.size(), half);
  }
  for (int32_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.dim);
    // The power is correctly rounded here; torch's float pow may be one unit off.
    const auto power = static_cast<float>(std::pow(config.base, static_cast<double>(exponent)));
    float inverse = 1.0f / power;
    if (!config.freq_divisors.empty()) {
      inverse /= config.freq_divisors[static_cast<size_t>(i)];
    } else if (config.scaling == RopeScaling::kLinear) {
      inverse /= static_cast<float>(config.factor);
    } else if (config.scaling == RopeScaling::kLlama3) {
      inverse = llama3_scaled(inverse, config);
    }
    inverse_.push_back(inverse);
  }
}

void RopeFrequencies::at(int64_t position, float* cos, float* sin) const {
  for (size_t i = 0; i < inverse_.size(); ++i) {
    const float angle = static_cast<float>(position) * inverse_[i];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

}  // namespace lowkey
