#pragma once
// A weight matrix in bf16, rearranged for gemm(). Torch-free; immutable after construction,
// thread-safe.
//
// A panel holds 64 output features, padded with zeros: [padded_cols / 2][64][2], so that one
// instruction takes two neighbouring inputs times 16 outputs, and a panel is read front to back.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/checked.h"
#include "core/half.h"
#include "core/threads.h"
#include "linear/weight_matrix.h"

namespace lowkey {

// Room for packing panels one at a time. One per thread.
struct PanelScratch {
  std::vector<float> floats;      // a row
  std::vector<BFloat16> rounded;  // a panel's rows
};

class PackedMatrix {
 public:
  static constexpr int64_t kPanelRows = 64;

  PackedMatrix() = default;
  // Rounds to nearest even, on all threads of `pool`. Keeps nothing of `matrix`.
  PackedMatrix(const WeightMatrix& matrix, ThreadPool& pool);

  int64_t rows() const { return rows_; }  // output features
  int64_t cols() const { return cols_; }  // input features
  int64_t padded_cols() const { return round_up<int64_t>(cols_, 2); }
  int64_t num_panels() const { return ceil_div(rows_, kPanelRows); }
  int64_t panel_elements() const { return padded_cols() * kPanelRows; }
  const BFloat16* panel(int64_t index) const { return panels_.get() + index * panel_elements(); }
  int64_t bytes() const {
    return num_panels() * panel_elements() * static_cast<int64_t>(sizeof(BFloat16));
  }

 private:
  struct Free {
    void operator()(BFloat16* data) const;
  };

  std::unique_ptr<BFloat16[], Free> panels_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
};

// One panel: features [64 index, 64 index + 64) of `matrix`. out: [panel_elements()]; what does not
// belong to a feature there is zero.
void pack_panel(const WeightMatrix& matrix, int64_t index, PanelScratch& scratch, BFloat16* out);

}  // namespace lowkey
