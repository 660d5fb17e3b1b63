#pragma once
// One step of the model: new tokens of one or several sequences, laid out as rows. Torch-free.
#include <cstdint>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "load/model_file.h"
#include "model/rope.h"

namespace lowkey {

enum class RowsWanted : uint8_t { kNone, kLast, kAll };

// One sequence's part of a step: its next tokens, at positions length(), length() + 1, ...
struct StepItem {
  KvSequence* sequence = nullptr;
  std::span<const int32_t> tokens;  // at least one
  RowsWanted wanted = RowsWanted::kLast;
};

// The same as rows: item after item, token after token. Reused, so that a decode step allocates
// nothing.
class StepRows {
 public:
  // Throws Error, with the sequences untouched: kInvalidArgument for a token id outside the
  // vocabulary, no tokens, a sequence named twice or of a cache made for another model;
  // kResourceExhausted where a sequence would outgrow the model's context.
  // first_layer: the step leaves out the layers before it, and so did all steps before.
  void assign(std::span<const StepItem> items, const ModelConfig& config,
              const RopeFrequencies& rope, int32_t first_layer = 0);

  std::span<const StepItem> items() const { return items_; }
  int64_t num_rows() const { return static_cast<int64_t>(tokens_.size()); }
  std::span<const int32_t> tokens() const { return tokens_; }       // [num_rows]
  std::span<const int64_t> wanted_rows() const { return wanted_; }  // ascending
  const float* cos(int64_t row = 0) const { return cos_.data() + row * half_dim_; }
  const float* sin(int64_t row = 0) const { return sin_.data() + row * half_dim_; }
  int64_t half_dim() const { return half_dim_; }  // cos, sin: [num_rows, half_dim]

 private:
  std::vector<StepItem> items_;
  std::vector<int32_t> tokens_;
  std::vector<int64_t> wanted_;
  std::vector<float> cos_, sin_;
  int64_t half_dim_ = 0;
};

}  // namespace lowkey
