#include "linear/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "linear/row_kernels.h"

namespace lowkey {
namespace {

constexpr std::align_val_t kAlignment{64};

// Pairs of columns moved at a time: 64 rows of this many stay in the first-level cache.
constexpr int64_t kPairsAtOnce = 16;

}  // namespace

void PackedMatrix::Free::operator()(BFloat16* data) const {
  ::operator delete[](data, kAlignment);
}

PackedMatrix::PackedMatrix(const WeightMatrix& matrix, ThreadPool& pool)
    : rows_(matrix.rows()), cols_(matrix.cols()) {
  panels_.reset(new (kAlignment) BFloat16[static_cast<size_t>(num_panels() * panel_elements())]);
  const RowKernels& kernels = row_kernels(active_isa());
  pool.run(num_panels(), [&](int64_t index, int) {
    const int64_t first = index * kPanelRows;
    const int64_t count = std::min(kPanelRows, rows_ - first);
    const int64_t width = padded_cols();
    std::vector<float> floats(static_cast<size_t>(cols_));
    std::vector<BFloat16> rounded(static_cast<size_t>(kPanelRows * width));
    for (int64_t r = 0; r < count; ++r) {
      matrix.dequantize_rows(first + r, 1, floats.data());
      kernels.to_bf16(floats.data(), cols_, rounded.data() + r * width);
    }
    // A transposition of pairs.
    BFloat16* const panel = panels_.get() + index * panel_elements();
    for (int64_t pair0 = 0; pair0 < width / 2; pair0 += kPairsAtOnce) {
      const int64_t pair1 = std::min(pair0 + kPairsAtOnce, width / 2);
      for (int64_t r = 0; r < kPanelRows; ++r) {
        for (int64_t pair = pair0; pair < pair1; ++pair) {
          std::memcpy(panel + (pair * kPanelRows + r) * 2, rounded.data() + r * width + pair * 2,
                      2 * sizeof(BFloat16));
        }
      }
    }
  });
}

}  // namespace lowkey
