#include "linear/gemm.h"

#include <algorithm>
#include <bit>
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

void check_input(const Bf16Rows& x, int64_t cols) {
  LOWKEY_CHECK(x.stride >= round_up<int64_t>(cols, 2), "rows of {} for a matrix of {} columns",
               x.stride, cols);
}

// Half `half` of the block: 32 features from `first` on, which lie at `weights` in their panel.
void set_half(GemmBlock& block, int half, const BFloat16* weights, const float* bias, int64_t first,
              int64_t num_features) {
  block.halves[half] = weights;
  block.biases[half] = bias ? bias + first : nullptr;
  block.features[half] = std::clamp<int64_t>(num_features - first, 0, kHalf);
}

// The half of a panel that starts at feature `first` of the matrix.
const BFloat16* half_of(const PackedMatrix& weight, int64_t first) {
  return weight.panel(first / PackedMatrix::kPanelRows) + first % PackedMatrix::kPanelRows * 2;
}

// `elements` from the first whole cache line of `storage` on.
BFloat16* aligned_panel(std::vector<BFloat16>& storage, int64_t elements) {
  constexpr size_t kLine = 64;
  const size_t wanted = static_cast<size_t>(elements) + kLine / sizeof(BFloat16);
  if (storage.size() < wanted) storage.resize(wanted);
  const auto address = std::bit_cast<uintptr_t>(storage.data());
  return storage.data() + (round_up<uintptr_t>(address, kLine) - address) / sizeof(BFloat16);
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
    check_input(x, output.weight->cols());
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
    for (int half = 0; half < 2; ++half) {
      const int64_t feature = first + half * kHalf;
      set_half(block, half, weight.panel(panel) + half * kHalf * 2, output->bias, feature,
               weight.rows());
    }
    if (panel + 1 < weight.num_panels()) block.prefetch = weight.panel(panel + 1);
    kernel(block, output->y + blocks.first(row_block) * weight.rows() + first, weight.rows());
  };
  pool.run(num_panels * blocks.count, std::ref(job));  // a std::function of it would allocate
}

void gemm_streamed(const Bf16Rows& x, std::span<const StreamedOutput> outputs, GemmStore store,
                   GemmScratch& scratch, ThreadPool& pool) {
  if (x.num_rows == 0 || outputs.empty()) return;
  const auto panels_of = [](const WeightMatrix& weight) {
    return ceil_div(weight.rows(), PackedMatrix::kPanelRows);
  };
  int64_t num_panels = 0;
  for (const StreamedOutput& output : outputs) {
    check_input(x, output.weight->cols());
    num_panels += panels_of(*output.weight);
  }
  scratch.threads_.resize(static_cast<size_t>(pool.num_threads()));
  const GemmKernels& table = kernels();
  const auto kernel = store == GemmStore::kAdd ? table.add : table.replace;
  const RowBlocks blocks(x.num_rows);
  const auto job = [&](int64_t task, int thread) {
    int64_t index = task;
    const StreamedOutput* output = outputs.data();
    while (index >= panels_of(*output->weight)) index -= panels_of(*(output++)->weight);
    const WeightMatrix& weight = *output->weight;
    const int64_t pairs = ceil_div<int64_t>(weight.cols(), 2);

    GemmScratch::PerThread& own = scratch.threads_[static_cast<size_t>(thread)];
    BFloat16* const panel = aligned_panel(own.panel, pairs * 2 * PackedMatrix::kPanelRows);
    pack_panel(weight, index, own.packing, panel);

    const int64_t first = index * PackedMatrix::kPanelRows;
    for (int64_t row_block = 0; row_block < blocks.count; ++row_block) {
      GemmBlock block = block_of(x, blocks, row_block, pairs);
      for (int half = 0; half < 2; ++half) {
        set_half(block, half, panel + half * kHalf * 2, output->bias, first + half * kHalf,
                 weight.rows());
      }
      kernel(block, output->y + blocks.first(row_block) * weight.rows() + first, weight.rows());
    }
  };
  pool.run(num_panels, std::ref(job));
}

void gated_gemm(const Bf16Rows& x, const GatedGemmOutput& output, ThreadPool& pool) {
  if (x.num_rows == 0) return;
  const PackedMatrix& gate = *output.gate;
  const PackedMatrix& up = *output.up;
  check_input(x, gate.cols());
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
    set_half(block, 0, half_of(gate, first), output.gate_bias, first, gate.rows());
    set_half(block, 1, half_of(up, first), output.up_bias, first, up.rows());
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
