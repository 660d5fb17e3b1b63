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
  void assign(std::span<const StepItem> items, const ModelConfig& config, const RopeTables& rope,
              int32_t first_layer = 0);
  // One sequence that no cache holds: its tokens at positions first_position, ..., all of them
  // wanted; no items. Throws Error likewise.
  void assign_exact(std::span<const int32_t> tokens, int64_t first_position,
                    const ModelConfig& config, const RopeTables& rope);

  // What a head's pairs of channels turn by in each row.
  struct Angles {
    std::vector<float> cos, sin;  // [num_rows, half_dim]
    int64_t half_dim = 0;

    const float* cos_of(int64_t row) const { return cos.data() + row * half_dim; }
    const float* sin_of(int64_t row) const { return sin.data() + row * half_dim; }
  };

  std::span<const StepItem> items() const { return items_; }
  int64_t num_rows() const { return static_cast<int64_t>(tokens_.size()); }
  std::span<const int32_t> tokens() const { return tokens_; }       // [num_rows]
  std::span<const int64_t> wanted_rows() const { return wanted_; }  // ascending
  // [num_rows]: rows of the model's table of learned positions. Empty if it has none.
  std::span<const int32_t> position_rows() const { return positions_; }
  // kMain's or kLocal's.
  const Angles& angles(RopeUse use) const { return use == RopeUse::kLocal ? local_ : main_; }

 private:
  // Rows of all tokens_, whose angles are still to be set.
  void size_rows(const ModelConfig& config, const RopeTables& rope);
  void place(int64_t row, int64_t position, const ModelConfig& config, const RopeTables& rope);

  std::vector<StepItem> items_;
  std::vector<int32_t> tokens_, positions_;
  std::vector<int64_t> wanted_;
  Angles main_, local_;
};

}  // namespace lowkey
