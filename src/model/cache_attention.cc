#include "model/cache_attention.h"

#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/half.h"

namespace lowkey {

std::vector<float> alibi_slopes(int32_t num_heads) {
  const auto powers = static_cast<int32_t>(std::bit_floor(static_cast<uint32_t>(num_heads)));
  std::vector<float> slopes;
  for (int32_t head = 0; head < num_heads; ++head) {
    const double exponent =
        head < powers ? 8.0 * (head + 1) / powers : 4.0 * (2 * (head - powers) + 1) / powers;
    const auto slope = static_cast<float>(std::exp2(-exponent));
    slopes.push_back(bfloat16_to_float(float_to_bfloat16(slope)));
  }
  return slopes;
}

CacheAttention::CacheAttention(const ModelConfig& config, ThreadPool& pool)
    : num_qo_heads_(config.num_qo_heads),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      scale_(static_cast<float>(config.attention_scale)),
      softcap_(static_cast<float>(config.attention_softcap)),
      pool_(pool) {
  LOWKEY_CHECK(scale_ > 0, "attention scores times {}", scale_);
  if (!config.alibi) return;
  alibi_slopes_ = alibi_slopes(num_qo_heads_);
  // Falcon adds them to the scores before it scales those.
  for (float& slope : alibi_slopes_) slope *= scale_;
}

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
  attend({.items = attend_items_,
          .num_qo_heads = num_qo_heads_,
          .scale = scale_,
          .softcap = softcap_,
          .alibi_slopes = alibi_slopes_,
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
