#include "linear/matmul.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "core/checked.h"
#include "core/error.h"
#include "linear/row_kernels.h"
#include "linear/strip_kernels.h"

namespace lowkey {
namespace {

// Weights a thread claims at a time: a microsecond or two of reading, many times the cost of
// claiming, and small enough that the last one to finish keeps nobody waiting.
constexpr int64_t kTaskBytes = 16 << 10;

// Whole strips, if the matrix is in strips.
int64_t rows_per_task(const WeightMatrix& weight) {
  const int64_t rows = kTaskBytes / std::max<int64_t>(1, weight.row_bytes());
  if (weight.layout() == WeightLayout::kRows) return std::max<int64_t>(1, rows);
  return std::max(kStripRows, rows / kStripRows * kStripRows);
}

}  // namespace

const RowKernels& row_kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return row_kernels_scalar();
    case Isa::kAvx2: return row_kernels_avx2();
    case Isa::kAvx512: return row_kernels_avx512();
    case Isa::kNeon: return row_kernels_neon();
  }
  return row_kernels_scalar();
}

const StripKernels& strip_kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return strip_kernels_scalar();
    case Isa::kAvx2: return strip_kernels_avx2();
    case Isa::kAvx512:
      return cpu_features().avx512_vnni ? strip_kernels_avx512_vnni() : strip_kernels_avx2();
    case Isa::kNeon: return strip_kernels_neon();
  }
  return strip_kernels_scalar();
}

struct MatmulScratch::Impl {
  std::vector<float> padded;
  std::vector<StripInput> quantized;

  // Rows of floats, zero up to `stride`: the caller's own where they are that long already.
  const float* pad(const MatmulArgs& args, int64_t cols, int64_t stride) {
    if (stride == cols) return args.x;
    padded.resize(static_cast<size_t>(args.num_rows * stride));
    for (int64_t i = 0; i < args.num_rows; ++i) {
      float* to = padded.data() + i * stride;
      std::copy_n(args.x + i * cols, cols, to);
      std::fill(to + cols, to + stride, 0.0f);
    }
    return padded.data();
  }

  const StripInput* quantize(const MatmulArgs& args, int64_t cols, const StripKernels& kernels) {
    quantized.resize(static_cast<size_t>(args.num_rows * cols / kGroupColumns));
    kernels.quantize(args.x, args.num_rows * cols, quantized.data());
    return quantized.data();
  }
};

MatmulScratch::MatmulScratch() : impl_(std::make_unique<Impl>()) {}
MatmulScratch::~MatmulScratch() = default;

void matmul(const MatmulArgs& args, ThreadPool& pool, MatmulScratch& scratch, Isa isa) {
  if (args.outputs.empty() || args.num_rows == 0) return;
  const int64_t cols = args.outputs[0].weight->cols();
  int64_t num_tasks = 0;
  bool any_rows = false, any_strips = false;
  for (const MatmulOutput& output : args.outputs) {
    const WeightMatrix& weight = *output.weight;
    LOWKEY_CHECK(weight.cols() == cols, "inputs of {} and {} features", cols, weight.cols());
    num_tasks += ceil_div(weight.rows(), rows_per_task(weight));
    (weight.layout() == WeightLayout::kRows ? any_rows : any_strips) = true;
  }

  const RowKernels& kernels = row_kernels(isa);
  const StripKernels& strips = strip_kernels(isa);
  const int64_t x_stride = round_up(cols, kGroupColumns);
  const float* const x = any_rows ? scratch.impl_->pad(args, cols, x_stride) : nullptr;
  const StripInput* const quantized =
      any_strips ? scratch.impl_->quantize(args, cols, strips) : nullptr;
  const auto job = [&](int64_t task, int) {
    const MatmulOutput* output = args.outputs.data();
    int64_t run = rows_per_task(*output->weight);
    for (int64_t tasks = 0; task >= (tasks = ceil_div(output->weight->rows(), run));) {
      task -= tasks;
      ++output;
      run = rows_per_task(*output->weight);
    }
    const WeightMatrix& weight = *output->weight;
    const int64_t first = task * run;
    const int64_t count = std::min(run, weight.rows() - first);
    const float* const bias = output->bias ? output->bias + first : nullptr;
    if (weight.layout() == WeightLayout::kStrips) {
      strips.dot[static_cast<size_t>(weight.dtype())]({.strips = weight.strip(first / kStripRows),
                                                       .num_rows = count,
                                                       .cols = cols,
                                                       .x = quantized,
                                                       .num_inputs = args.num_rows,
                                                       .bias = bias,
                                                       .y = output->y + first,
                                                       .y_stride = weight.rows()});
      return;
    }
    kernels.format(weight.dtype())
        .dot({.weights = weight.row(first),
              .row_bytes = weight.row_bytes(),
              .num_rows = count,
              .cols = cols,
              .x = x,
              .x_stride = x_stride,
              .num_inputs = args.num_rows,
              .bias = bias,
              .y = output->y + first,
              .y_stride = weight.rows()});
  };
  pool.run_in_parts(num_tasks,
                    std::ref(job));  // by reference: a std::function of it would allocate
}

}  // namespace lowkey
