#include "linear/elementwise.h"

#include "linear/row_kernels.h"

namespace lowkey {

void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t cols,
              float* out, Isa isa) {
  const RowKernels& kernels = row_kernels(isa);
  for (int64_t r = 0; r < rows; ++r) {
    kernels.rms_norm(x + r * cols, weight, eps, cols, out + r * cols);
  }
}

void silu_mul(float* gate, const float* up, int64_t count, Isa isa) {
  row_kernels(isa).silu_mul(gate, up, count);
}

void add(float* x, const float* y, int64_t count, Isa isa) {
  row_kernels(isa).add(x, y, count);
}

void rotate_heads(float* x, int64_t num_heads, int64_t head_dim, const float* cos, const float* sin,
                  int64_t half_dim, Isa isa) {
  const RowKernels& kernels = row_kernels(isa);
  for (int64_t h = 0; h < num_heads; ++h) kernels.rotate(x + h * head_dim, cos, sin, half_dim);
}

}  // namespace lowkey
