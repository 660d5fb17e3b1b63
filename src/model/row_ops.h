#pragma once
// The small operations of ops.h on rows of floats, as a model's configuration wants them: what our
// own implementations have in common. Torch-free; no allocation; thread-safe.
#include <cstdint>

#include "linear/elementwise.h"
#include "load/model_file.h"
#include "model/step.h"
#include "model/weights.h"

namespace lowkey {

class RowOps {
 public:
  explicit RowOps(const ModelConfig& config);

  int64_t widest() const { return widest_; }  // columns of the widest rows that a layer has

  // x, out: [rows, cols], and may be the same.
  void norm(const float* x, const Norm& norm, int64_t rows, int64_t cols, float* out) const;
  // x: [rows, num_heads, head_dim].
  void norm_heads(float* x, const std::vector<float>& weight, int64_t rows,
                  int32_t num_heads) const;
  // Rows [first, first + rows) of a step; x is the first of them.
  void rope(float* x, int32_t num_heads, const StepRows::Angles& angles, int64_t first,
            int64_t rows) const;
  void activate(float* x, int64_t count) const { lowkey::activate(curve_, x, count); }
  void gate(float* x, const float* y, int64_t count) const { lowkey::gate(curve_, x, y, count); }

 private:
  const NormKind norm_;
  const Curve curve_;
  const float norm_eps_;
  const int64_t head_dim_;
  const int64_t widest_;
};

}  // namespace lowkey
