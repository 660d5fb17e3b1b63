#include "model/step.h"

#include "core/error.h"

namespace lowkey {
namespace {

void check_item(const StepItem& item, std::span<const StepItem> before, const ModelConfig& config,
                int32_t first_layer) {
  LOWKEY_CHECK(item.sequence != nullptr, "a step without a sequence");
  if (item.tokens.empty()) fail(ErrorCode::kInvalidArgument, "a step without tokens");
  for (const StepItem& other : before) {
    if (other.sequence == item.sequence)
      fail(ErrorCode::kInvalidArgument, "a sequence appears twice in one step");
  }
  const KvShape& shape = item.sequence->cache().recipe().shape;
  if (shape.num_layers != config.num_layers || shape.num_kv_heads != config.num_kv_heads ||
      shape.head_dim != config.head_dim) {
    fail(ErrorCode::kInvalidArgument,
         "the cache was made for {} layers of {} KV heads x {}, the model has {} of {} x {}",
         shape.num_layers, shape.num_kv_heads, shape.head_dim, config.num_layers,
         config.num_kv_heads, config.head_dim);
  }
  for (int32_t token : item.tokens) {
    if (token < 0 || token >= config.vocab_size) {
      fail(ErrorCode::kInvalidArgument, "token id {}: the vocabulary has 0 to {}", token,
           config.vocab_size - 1);
    }
  }
  const int64_t length = item.sequence->length(first_layer) + std::ssize(item.tokens);
  if (config.max_context > 0 && length > config.max_context) {
    fail(ErrorCode::kResourceExhausted, "a sequence of {} tokens: the model's context is {}",
         length, config.max_context);
  }
}

}  // namespace

void StepRows::assign(std::span<const StepItem> items, const ModelConfig& config,
                      const RopeFrequencies& rope, int32_t first_layer) {
  for (size_t i = 0; i < items.size(); ++i) {
    check_item(items[i], items.first(i), config, first_layer);
  }
  items_.assign(items.begin(), items.end());
  tokens_.clear();
  wanted_.clear();
  for (const StepItem& item : items) {
    const int64_t first = num_rows();
    tokens_.insert(tokens_.end(), item.tokens.begin(), item.tokens.end());
    if (item.wanted == RowsWanted::kLast) wanted_.push_back(num_rows() - 1);
    if (item.wanted == RowsWanted::kAll) {
      for (int64_t row = first; row < num_rows(); ++row) wanted_.push_back(row);
    }
  }
  half_dim_ = rope.half_dim();
  cos_.resize(static_cast<size_t>(num_rows() * half_dim_));
  sin_.resize(cos_.size());
  int64_t row = 0;
  for (const StepItem& item : items) {
    const int64_t position = item.sequence->length(first_layer);
    for (int64_t t = 0; t < std::ssize(item.tokens); ++t, ++row) {
      rope.at(position + t, cos_.data() + row * half_dim_, sin_.data() + row * half_dim_);
    }
  }
}

}  // namespace lowkey
