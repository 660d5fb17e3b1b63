#include "load/model_config.h"

#include <cmath>

#include "core/error.h"

namespace lowkey {

int32_t checked_count(const std::string& field, int64_t value, int32_t max) {
  if (value < 1 || value > max)
    fail(ErrorCode::kCorruptFile, "{} is {}, not between 1 and {}", field, value, max);
  return static_cast<int32_t>(value);
}

double checked_positive(const std::string& field, double value) {
  if (!std::isfinite(value) || value <= 0.0)
    fail(ErrorCode::kCorruptFile, "{} is {}, not a finite number above 0", field, value);
  return value;
}

void validate_config(const ModelConfig& config, const std::string& source_name) {
  if (config.num_qo_heads % config.num_kv_heads != 0) {
    fail(ErrorCode::kCorruptFile, "{}: {} query heads do not divide among {} key/value heads",
         source_name, config.num_qo_heads, config.num_kv_heads);
  }
  if (config.head_dim % 2 != 0) {
    fail(ErrorCode::kCorruptFile, "{}: head_dim {} is odd: rotary embedding needs pairs",
         source_name, config.head_dim);
  }
  const RopeConfig& rope = config.rope;
  if (rope.dim < 2 || rope.dim > config.head_dim || rope.dim % 2 != 0) {
    fail(ErrorCode::kCorruptFile,
         "{}: {} rotated channels: not an even number between 2 and head_dim {}", source_name,
         rope.dim, config.head_dim);
  }
  if (rope.scaling == RopeScaling::kLlama3 && !(rope.high_freq_factor > rope.low_freq_factor)) {
    fail(ErrorCode::kCorruptFile, "{}: rope high_freq_factor {} is not above low_freq_factor {}",
         source_name, rope.high_freq_factor, rope.low_freq_factor);
  }
}

}  // namespace lowkey
