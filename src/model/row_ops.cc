#include "model/row_ops.h"

#include <algorithm>

namespace lowkey {
namespace {

Curve curve_of(Activation activation) {
  switch (activation) {
    case Activation::kSilu: return Curve::kSilu;
    case Activation::kGelu: return Curve::kGelu;
    case Activation::kGeluTanh: return Curve::kGeluTanh;
    case Activation::kRelu: return Curve::kRelu;
  }
  return Curve::kSilu;
}

int64_t widest_rows(const ModelConfig& config) {
  return std::max({static_cast<int64_t>(config.hidden_size),
                   static_cast<int64_t>(config.intermediate_size),
                   static_cast<int64_t>(config.expert_intermediate_size),
                   static_cast<int64_t>(config.num_qo_heads) * config.head_dim,
                   static_cast<int64_t>(config.num_kv_heads) * config.head_dim});
}

}  // namespace

RowOps::RowOps(const ModelConfig& config)
    : norm_(config.norm),
      curve_(curve_of(config.activation)),
      norm_eps_(static_cast<float>(config.norm_eps)),
      head_dim_(config.head_dim),
      widest_(widest_rows(config)) {}

void RowOps::norm(const float* x, const Norm& norm, int64_t rows, int64_t cols, float* out) const {
  if (norm_ == NormKind::kRms) {
    rms_norm(x, norm.weight.data(), norm_eps_, rows, cols, out);
  } else {
    layer_norm(x, norm.weight.data(), norm.bias_data(), norm_eps_, rows, cols, out);
  }
}

void RowOps::norm_heads(float* x, const std::vector<float>& weight, int64_t rows,
                        int32_t num_heads) const {
  rms_norm(x, weight.data(), norm_eps_, rows * num_heads, head_dim_, x);
}

void RowOps::rope(float* x, int32_t num_heads, const StepRows::Angles& angles, int64_t first,
                  int64_t rows) const {
  for (int64_t row = first; row < first + rows; ++row, x += num_heads * head_dim_) {
    rotate_heads(x, num_heads, head_dim_, angles.cos_of(row), angles.sin_of(row), angles.half_dim);
  }
}

}  // namespace lowkey
