#include "model/rope.h"

#include <algorithm>
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

// transformers' _compute_yarn_parameters: frequencies that turn more than beta_fast times within
// the original context stay, those that turn less than beta_slow times are slowed by `factor`, and
// a ramp over the channels between blends. Its ends are rounded outwards, as `truncate` says unless
// told otherwise.
class YarnRamp {
 public:
  explicit YarnRamp(const RopeConfig& config)
      : low_(std::max(std::floor(channel(config, config.beta_fast)), 0.0)),
        high_(std::min(std::ceil(channel(config, config.beta_slow)), config.dim - 1.0)),
        factor_(static_cast<float>(config.factor)) {
    if (low_ == high_) high_ += 0.001;
  }

  float scaled(float inverse, float power, int32_t pair) const {
    const auto length = static_cast<float>(high_ - low_);
    const float ramp = (static_cast<float>(pair) - static_cast<float>(low_)) / length;
    const float kept = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    return 1.0f / (factor_ * power) * (1.0f - kept) + inverse * kept;
  }

 private:
  // The pair of channels, as a real number, that turns `rotations` times within the original
  // context.
  static double channel(const RopeConfig& config, double rotations) {
    const auto context = static_cast<double>(config.original_context);
    return config.dim * std::log(context / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(config.base));
  }

  double low_, high_;
  float factor_;
};

}  // namespace

RopeFrequencies::RopeFrequencies(const RopeConfig& config)
    : attention_factor_(static_cast<float>(config.attention_factor)) {
  if (config.dim < 0 || config.dim % 2 != 0) {
    fail(ErrorCode::kUnsupported, "RoPE over {} channels: not an even number", config.dim);
  }
  const int32_t half = config.dim / 2;
  if (!config.freq_divisors.empty() && std::ssize(config.freq_divisors) != half) {
    fail(ErrorCode::kInvalidArgument, "{} RoPE divisors for {} frequencies",
         config.freq_divisors.size(), half);
  }
  const YarnRamp yarn(config);  // of use where scaling is kYarn
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
    } else if (config.scaling == RopeScaling::kYarn) {
      inverse = yarn.scaled(inverse, power, i);
    }
    inverse_.push_back(inverse);
  }
}

void RopeFrequencies::at(int64_t position, float* cos, float* sin) const {
  for (size_t i = 0; i < inverse_.size(); ++i) {
    const float angle = static_cast<float>(position) * inverse_[i];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * attention_factor_;
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * attention_factor_;
  }
}

RopeTables::RopeTables(const ModelConfig& config) {
  const auto used = [&](RopeUse use) {
    return std::any_of(config.layers.begin(), config.layers.end(),
                       [&](const LayerConfig& layer) { return layer.rope == use; });
  };
  if (used(RopeUse::kMain)) main = RopeFrequencies(config.rope);
  if (used(RopeUse::kLocal)) local = RopeFrequencies(config.local_rope);
}

}  // namespace lowkey
