#include "model/step.h"

#include <numeric>

#include "core/error.h"

namespace lowkey {
namespace {

void check_cache(const KvShape& shape, const ModelConfig& config) {
  if (shape.num_layers != config.num_layers || shape.num_kv_heads != config.num_kv_heads ||
      shape.head_dim != config.head_dim) {
    fail(ErrorCode::kInvalidArgument,
         "the cache was made for {} layers of {} KV heads x {}, the model has {} of {} x {}",
         shape.num_layers, shape.num_kv_heads, shape.head_dim, config.num_layers,
         config.num_kv_heads, config.head_dim);
  }
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const int32_t window = config.layers[static_cast<size_t>(layer)].window;
    if (shape.window(layer) == window) continue;
    fail(ErrorCode::kInvalidArgument,
         "the cache was made for a window of {} tokens in layer {}, the model's is {} (0: none)",
         shape.window(layer), layer, window);
  }
}

void check_tokens(std::span<const int32_t> tokens, int64_t before, const ModelConfig& config) {
  if (tokens.empty()) fail(ErrorCode::kInvalidArgument, "a step without tokens");
  for (int32_t token : tokens) {
    if (token < 0 || token >= config.vocab_size) {
      fail(ErrorCode::kInvalidArgument, "token id {}: the vocabulary has 0 to {}", token,
           config.vocab_size - 1);
    }
  }
  const int64_t length = before + std::ssize(tokens);
  if (config.max_context > 0 && length > config.max_context) {
    fail(ErrorCode::kResourceExhausted, "a sequence of {} tokens: the model's context is {}",
         length, config.max_context);
  }
}

void check_item(const StepItem& item, std::span<const StepItem> before, const ModelConfig& config,
                int32_t first_layer) {
  LOWKEY_CHECK(item.sequence != nullptr, "a step without a sequence");
  if (item.tokens.empty()) fail(ErrorCode::kInvalidArgument, "a step without tokens");
  for (const StepItem& other : before) {
    if (other.sequence == item.sequence)
      fail(ErrorCode::kInvalidArgument, "a sequence appears twice in one step");
  }
  check_cache(item.sequence->cache().recipe().shape, config);
  check_tokens(item.tokens, item.sequence->length(first_layer), config);
}

void size_for(StepRows::Angles& angles, const RopeFrequencies& rope, int64_t rows) {
  angles.half_dim = rope.half_dim();
  angles.cos.resize(static_cast<size_t>(rows * angles.half_dim));
  angles.sin.resize(angles.cos.size());
}

void turn_to(StepRows::Angles& angles, const RopeFrequencies& rope, int64_t row, int64_t position) {
  rope.at(position, angles.cos.data() + row * angles.half_dim,
          angles.sin.data() + row * angles.half_dim);
}

}  // namespace

void StepRows::assign(std::span<const StepItem> items, const ModelConfig& config,
                      const RopeTables& rope, int32_t first_layer) {
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
  size_rows(config, rope);
  int64_t row = 0;
  for (const StepItem& item : items) {
    int64_t position = item.sequence->length(first_layer);
    for (size_t t = 0; t < item.tokens.size(); ++t) place(row++, position++, config, rope);
  }
}

void StepRows::assign_exact(std::span<const int32_t> tokens, int64_t first_position,
                            const ModelConfig& config, const RopeTables& rope) {
  check_tokens(tokens, first_position, config);
  items_.clear();
  tokens_.assign(tokens.begin(), tokens.end());
  wanted_.resize(tokens.size());
  std::iota(wanted_.begin(), wanted_.end(), 0);
  size_rows(config, rope);
  for (int64_t row = 0; row < num_rows(); ++row) place(row, first_position + row, config, rope);
}

void StepRows::size_rows(const ModelConfig& config, const RopeTables& rope) {
  positions_.resize(config.learned_positions ? tokens_.size() : 0);
  size_for(main_, rope.main, num_rows());
  size_for(local_, rope.local, num_rows());
}

void StepRows::place(int64_t row, int64_t position, const ModelConfig& config,
                     const RopeTables& rope) {
  turn_to(main_, rope.main, row, position);
  turn_to(local_, rope.local, row, position);
  if (config.learned_positions) {
    positions_[static_cast<size_t>(row)] = static_cast<int32_t>(position) + config.position_offset;
  }
}

}  // namespace lowkey
