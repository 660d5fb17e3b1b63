#include "linear/matmul.h"

#include <algorithm>
#include <functional>

#include "core/checked.h"
#include "core/error.h"
#include "linear/row_kernels.h"

namespace lowkey {
namespace {

// Weights a thread claims at a time: a microsecond or two of reading, many times the cost of
// claiming, and small enough that the last one to finish keeps nobody waiting.
constexpr int64_t kTaskBytes = 32 << 10;

int64_t rows_per_task(const WeightMatrix& weight) {
  return std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, weight.row_bytes()));
}

}  // namespace

const RowKernels& row_kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return row_kernels_scalar();
    case Isa::kAvx2: return row_kernels_avx2();
    case Isa::kAvx512: return row_kernels_avx512();
  }
  return row_kernels_scalar();
}

void matmul(const MatmulArgs& args, ThreadPool& pool, MatmulScratch& scratch, Isa isa) {
  if (args.outputs.empty() || args.num_rows == 0) return;
  const int64_t cols = args.outputs[0].weight->cols();
  int64_t num_tasks = 0;
  for (const MatmulOutput& output : args.outputs) {
    LOWKEY_CHECK(output.weight->cols() == cols, "inputs of {} and {} features", cols,
                 output.weight->cols());
    num_tasks += ceil_div(output.weight->rows(), rows_per_task(*output.weight));
  }

  const float* x = args.x;
  const int64_t x_stride = round_up(cols, kGroupColumns);
  if (x_stride != cols) {
    scratch.padded_x_.resize(static_cast<size_t>(args.num_rows * x_stride));
    for (int64_t i = 0; i < args.num_rows; ++i) {
      float* to = scratch.padded_x_.data() + i * x_stride;
      std::copy_n(args.x + i * cols, cols, to);
      std::fill(to + cols, to + x_stride, 0.0f);
    }
    x = scratch.padded_x_.data();
  }

  const RowKernels& kernels = row_kernels(isa);
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
    const DotArgs dot{.weights = weight.row(first),
                      .row_bytes = weight.row_bytes(),
                      .num_rows = std::min(run, weight.rows() - first),
                      .cols = cols,
                      .x = x,
                      .x_stride = x_stride,
                      .num_inputs = args.num_rows,
                      .bias = output->bias ? output->bias + first : nullptr,
                      .y = output->y + first,
                      .y_stride = weight.rows()};
    kernels.format(weight.dtype()).dot(dot);
  };
  pool.run(num_tasks, std::ref(job));  // by reference: a std::function of it would allocate
}

}  // namespace lowkey
