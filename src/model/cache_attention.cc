#include "model/cache_attention.h"

#include <cmath>

namespace lowkey {

CacheAttention::CacheAttention(const ModelConfig& config, ThreadPool& pool)
    : num_qo_heads_(config.num_qo_heads),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      pool_(pool) {}

void CacheAttention::append(int32_t layer, std::span<const StepItem> items, const float* k,
                            const float* v) {
  if (stages_.size() < items.size()) stages_.resize(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const int64_t rows = std::ssize(items[i].tokens);
    items[i].sequence->append(layer, k, v, rows, stages_[i], &pool_);
    k += rows * num_kv_heads_ * head_dim_;
    v += rows * num_kv_heads_ * head_dim_;
  }
}

void CacheAttention::commit(int32_t layer, std::span<const StepItem> items) {
  for (size_t i = 0; i < items.size(); ++i) items[i].sequence->commit(layer, stages_[i]);
}

void CacheAttention::run(int32_t layer, std::span<const StepItem> items, const float* q,
                         const float* k, const float* v, float* out, AttendPrecision precision) {
  append(layer, items, k, v);
  attend_items_.clear();
  for (size_t i = 0; i < items.size(); ++i) {
    attend_items_.push_back({&stages_[i].view(), q, out});
    const int64_t elements = std::ssize(items[i].tokens) * num_qo_heads_ * head_dim_;
    q += elements;
    out += elements;
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
  attend({.items = attend_items_,
          .num_qo_heads = num_qo_heads_,
          .scale = scale,
          .precision = precision},
         pool_, workspace_);
  commit(layer, items);
}

void CacheAttention::store(int32_t layer, std::span<const StepItem> items, const float* k,
                           const float* v) {
  append(layer, items, k, v);
  commit(layer, items);
}

}  // namespace lowkey
