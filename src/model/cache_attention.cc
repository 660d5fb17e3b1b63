#include "model/cache_attention.h"

#include <cmath>

namespace lowkey {

CacheAttention::CacheAttention(const ModelConfig& config, ThreadPool& pool)
    : num_qo_heads_(config.num_qo_heads),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      pool_(pool) {}

void CacheAttention::run(int32_t layer, std::span<const StepItem> items, const float* q,
                         const float* k, const float* v, float* out, AttendPrecision precision) {
  if (stages_.size() < items.size()) stages_.resize(items.size());
  attend_items_.clear();
  for (size_t i = 0; i < items.size(); ++i) {
    const int64_t rows = std::ssize(items[i].tokens);
    const LayerView& view = items[i].sequence->append(layer, k, v, rows, stages_[i]);
    attend_items_.push_back({&view, q, out});
    q += rows * num_qo_heads_ * head_dim_;
    out += rows * num_qo_heads_ * head_dim_;
    k += rows * num_kv_heads_ * head_dim_;
    v += rows * num_kv_heads_ * head_dim_;
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
  attend({.items = attend_items_,
          .num_qo_heads = num_qo_heads_,
          .scale = scale,
          .precision = precision},
         pool_, workspace_);
  for (size_t i = 0; i < items.size(); ++i) items[i].sequence->commit(layer, stages_[i]);
}

}  // namespace lowkey
