#pragma once
// y = x W^T + bias for the few rows of a decode step, on weights in any storage. Torch-free, and
// without allocation once the scratch has grown.
//
// Matrices in rows are multiplied in floats. For matrices in strips the inputs are quantized to two
// signed bytes each (strip_kernels.h): y is off by at most 8.9e-5 * ||x|| * ||a row of W||, in
// practice a tenth of that, and a row of x with a NaN or an infinity gives NaN.
#include <cstdint>
#include <memory>
#include <span>

#include "core/cpu.h"
#include "core/threads.h"
#include "linear/weight_matrix.h"

namespace lowkey {

struct MatmulOutput {
  const WeightMatrix* weight = nullptr;
  const float* bias = nullptr;  // [weight->rows()], or null
  float* y = nullptr;           // [num_rows, weight->rows()]; must not alias x
};

// Matrices that share an input (Q, K and V; gate and up) go in one call: one fork and join.
struct MatmulArgs {
  const float* x = nullptr;  // [num_rows, cols]
  int64_t num_rows = 0;      // meant for 1..16; more is correct, but not what a GEMM would do
  std::span<const MatmulOutput> outputs;
};

// The specification: exact weights, products and sums in double.
void matmul_ref(const MatmulArgs& args);

// Inputs as kernels read them. Reused between calls; not thread-safe: one per caller.
class MatmulScratch {
 public:
  MatmulScratch();
  ~MatmulScratch();
  MatmulScratch(const MatmulScratch&) = delete;
  MatmulScratch& operator=(const MatmulScratch&) = delete;

 private:
  friend void matmul(const MatmulArgs&, ThreadPool&, MatmulScratch&, Isa);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The result depends on neither the number of threads nor the number of rows: each row of y has the
// bits it would have alone.
void matmul(const MatmulArgs& args, ThreadPool& pool, MatmulScratch& scratch,
            Isa isa = active_isa());

}  // namespace lowkey
