#pragma once
// Rotary position embeddings: the angles by which each pair of channels turns per position,
// computed in the precision Hugging Face computes them in. Torch-free; immutable, thread-safe.
#include <cstdint>
#include <vector>

#include "load/model_file.h"

namespace lowkey {

class RopeFrequencies {
 public:
  RopeFrequencies() = default;  // of no channels

  // Throws Error kUnsupported for an odd or negative number of rotated channels, kInvalidArgument
  // if freq_divisors do not match it.
  explicit RopeFrequencies(const RopeConfig& config);

  int64_t half_dim() const { return static_cast<int64_t>(inverse_.size()); }  // pairs that turn
  const std::vector<float>& inverse() const { return inverse_; }  // radians per position

  // cos, sin: [half_dim], of float(position) * inverse in float, times the attention factor.
  void at(int64_t position, float* cos, float* sin) const;

 private:
  std::vector<float> inverse_;
  float attention_factor_ = 1.0f;
};

// The frequencies of a model's layers, by RopeUse. Those that no layer uses have no channels.
struct RopeTables {
  RopeFrequencies main, local;

  RopeTables() = default;
  // Throws Error as RopeFrequencies.
  explicit RopeTables(const ModelConfig& config);
};

}  // namespace lowkey
