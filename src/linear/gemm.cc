#include "linear/gemm.h"

#include <algorithm>
#include <functional>

#include "core/checked.h"
#include "core/cpu.h"
#include "core/error.h"
#include "linear/gemm_kernels.h"

namespace lowkey {
namespace {

// Rows that share one pass over a panel: with the panel they stay in the second-level cache, and
// there are tasks enough for all threads.
constexpr int64_t kRowsPerTask = 64;

constexpr int64_t kHalf = PackedMatrix::kPanelRows / 2;

const GemmKernels& kernels() {
  static const GemmKernels* const table = active_isa() == Isa::kAvx512 && cpu_features().avx512_bf16
                                              ? gemm_kernels_avx512_bf16()
                                              : nullptr;
  LOWKEY_CHECK(table != nullptr, "gemm() on a machine without AVX512_BF16");
  return *table;
}

// Rows of x in blocks of nearly equal size.
struct RowBlocks {
  explicit RowBlocks(int64_t rows)
      : num_rows(rows), count(ceil_div(rows, kRowsPerTask)), size(ceil_div(rows, count)) {}
  int64_t first(int64_t block) const { return block * size; }
  int64_t rows(int64_t block) const {
    return std::max<int64_t>(0, std::min(size, num_rows - first(block)));
  }

  int64_t num_rows, count, size;
};

void check_input(const Bf16Rows& x, const PackedMatrix& weight) {
  LOWKEY_CHECK(x.stride >= weight.padded_cols(), "rows of {} for a matrix of {} columns", x.stride,
               weight.cols());
}

// The half of a panel that starts at feature `first` of the matrix.
void set_half(GemmBlock& block, int half, const PackedMatrix& weight, const float* bias,
              int64_t first) {
  const int64_t panel = first / PackedMatrix::kPanelRows;
  block.halves[half] = weight.panel(panel) + first % PackedMatrix::kPanelRows * 2;
  block.biases[half] = bias ? bias + first : nullptr;
  block.features[half] = std::clamp<int64_t>(weight.rows() - first, 0, kHalf);
}

GemmBlock block_of(const Bf16Rows& x, const RowBlocks& blocks, int64_t index, int64_t pairs) {
  GemmBlock block;
  block.x = x.data + blocks.first(index) * x.stride;
  block.x_stride = x.stride;
  block.num_rows = blocks.rows(index);
  block.pairs = pairs;
  return block;
}

}  // namespace

bool gemm_available() {
  return active_isa() == Isa::kAvx512 && cpu_features().avx512_bf16 &&
         gemm_kernels_avx512_bf16() != nullptr;
}

void gemm(const Bf16Rows& x, std::span<const GemmOutput> outputs, GemmStore store,
          ThreadPool& pool) {
  if (x.num_rows == 0 || outputs.empty()) return;
  int64_t num_panels = 0;
  for (const GemmOutput& output : outputs) {
    check_input(x, *output.weight);
    num_panels += output.weight->num_panels();
  }
  const GemmKernels& table = kernels();
  const auto kernel = store == GemmStore::kAdd ? table.add : table.replace;
  const RowBlocks blocks(x.num_rows);
  // Panel by panel: threads work on the same one, which memory is read for once.
  const auto job = [&](int64_t task, int) {
    const int64_t row_block = task % blocks.count;
    int64_t panel = task / blocks.count;
    const GemmOutput* output = outputs.data();
    while (panel >= output->weight->num_panels()) panel -= (output++)->weight->num_panels();
    const PackedMatrix& weight = *output->weight;
    const int64_t first = panel * PackedMatrix::kPanelRows;
    GemmBlock block = block_of(x, blocks, row_block, weight.padded_cols() / 2);
    set_half(block, 0, weight, output->bias, first);
    set_half(block, 1, weight, output->bias, first + kHalf);
    if (panel + 1 < weight.num_panels()) block.prefetch = weight.panel(panel + 1);
    kernel(block, output->y + blocks.first(row_block) * weight.rows() + first, weight.rows());
  };
  pool.run(num_panels * blocks.count, std::ref(job));  // a std::function of it would allocate
}

void gated_gemm(const Bf16Rows& x, const GatedGemmOutput& output, ThreadPool& pool) {
  if (x.num_rows == 0) return;
  const PackedMatrix& gate = *output.gate;
  const PackedMatrix& up = *output.up;
  check_input(x, gate);
  LOWKEY_CHECK(gate.rows() == up.rows() && gate.cols() == up.cols(), "gate {} x {}, up {} x {}",
               gate.rows(), gate.cols(), up.rows(), up.cols());
  const GemmKernels& table = kernels();
  const RowBlocks blocks(x.num_rows);
  const int64_t num_halves = ceil_div(gate.rows(), kHalf);
  const auto job = [&](int64_t task, int) {
    const int64_t row_block = task % blocks.count;
    const int64_t half = task / blocks.count;
    const int64_t first = half * kHalf;
    GemmBlock block = block_of(x, blocks, row_block, gate.padded_cols() / 2);
    set_half(block, 0, gate, output.gate_bias, first);
    set_half(block, 1, up, output.up_bias, first);
    // The next pair of panels, one during each half of this one.
    const int64_t next = half / 2 + 1;
    if (next < gate.num_panels()) block.prefetch = (half % 2 == 0 ? gate : up).panel(next);
    table.gated(block, output.y + blocks.first(row_block) * output.stride + first, output.stride);
  };
  pool.run(num_halves * blocks.count, std::ref(job));
}

void round_to_bf16(const float* x, int64_t num_rows, int64_t cols, BFloat16* out, int64_t stride) {
  const GemmKernels& table = kernels();
  for (int64_t r = 0; r < num_rows; ++r) {
    table.round_row(x + r * cols, cols, out + r * stride);
    std::fill(out + r * stride + cols, out + (r + 1) * stride, BFloat16{});
  }
}

}  // namespace lowkey
