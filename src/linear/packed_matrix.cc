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

void pack_panel(const WeightMatrix& matrix, int64_t index, PanelScratch& scratch, BFloat16* out) {
  constexpr int64_t kRows = PackedMatrix::kPanelRows;
  const RowKernels& kernels = row_kernels(active_isa());
  const int64_t cols = matrix.cols();
  const int64_t width = round_up<int64_t>(cols, 2);
  const int64_t first = index * kRows;
  const int64_t count = std::min(kRows, matrix.rows() - first);
  // bf16 rows of an even width are read where they lie.
  const bool in_place =
      matrix.dtype() == DType::kBF16 && matrix.layout() == WeightLayout::kRows && cols == width;
  if (!in_place || count < kRows) {
    scratch.rounded.assign(static_cast<size_t>(kRows * width), BFloat16{});
  }
  const std::byte* rows[kRows];
  for (int64_t r = 0; r < kRows; ++r) {
    BFloat16* const rounded = scratch.rounded.data() + r * width;
    rows[r] = reinterpret_cast<const std::byte*>(rounded);
    if (r >= count) continue;
    if (in_place) {
      rows[r] = matrix.row(first + r);
      continue;
    }
    scratch.floats.resize(static_cast<size_t>(cols));
    matrix.dequantize_rows(first + r, 1, scratch.floats.data());
    kernels.to_bf16(scratch.floats.data(), cols, rounded);
  }
  // A transposition of pairs.
  constexpr size_t kPair = 2 * sizeof(BFloat16);
  for (int64_t pair0 = 0; pair0 < width / 2; pair0 += kPairsAtOnce) {
    const int64_t pair1 = std::min(pair0 + kPairsAtOnce, width / 2);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t pair = pair0; pair < pair1; ++pair) {
        std::memcpy(out + (pair * kRows + r) * 2, rows[r] + static_cast<size_t>(pair) * kPair,
                    kPair);
      }
    }
  }
}

PackedMatrix::PackedMatrix(const WeightMatrix& matrix, ThreadPool& pool)
    : rows_(matrix.rows()), cols_(matrix.cols()) {
  panels_.reset(new (kAlignment) BFloat16[static_cast<size_t>(num_panels() * panel_elements())]);
  std::vector<PanelScratch> scratch(static_cast<size_t>(pool.num_threads()));
  pool.run(num_panels(), [&](int64_t index, int thread) {
    pack_panel(matrix, index, scratch[static_cast<size_t>(thread)],
               panels_.get() + index * panel_elements());
  });
}

}  // namespace lowkey
