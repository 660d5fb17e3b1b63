#include "linear/elementwise.h"

#include "linear/row_kernels.h"

namespace lowkey {
namespace {

const ActivationKernels& kernels_of(Curve curve, Isa isa) {
  const RowKernels& kernels = row_kernels(isa);
  switch (curve) {
    case Curve::kSilu: return kernels.silu;
    case Curve::kGelu: return kernels.gelu;
    case Curve::kGeluTanh: return kernels.gelu_tanh;
    case Curve::kRelu: return kernels.relu;
  }
  return kernels.silu;
}

}  // namespace

void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t cols,
              float* out, Isa isa) {
  const RowKernels& kernels = row_kernels(isa);
  for (int64_t r = 0; r < rows; ++r) {
    kernels.rms_norm(x + r * cols, weight, eps, cols, out + r * cols);
  }
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t rows,
                int64_t cols, float* out, Isa isa) {
  const RowKernels& kernels = row_kernels(isa);
  for (int64_t r = 0; r < rows; ++r) {
    kernels.layer_norm(x + r * cols, weight, bias, eps, cols, out + r * cols);
  }
}

void activate(Curve curve, float* x, int64_t count, Isa isa) {
  kernels_of(curve, isa).activate(x, count);
}

void gate(Curve curve, float* x, const float* y, int64_t count, Isa isa) {
  kernels_of(curve, isa).gate(x, y, count);
}

void softcap(float* x, int64_t count, float cap, Isa isa) {
  row_kernels(isa).softcap(x, count, cap);
}

void add(float* x, const float* y, int64_t count, Isa isa) {
  row_kernels(isa).add(x, y, count);
}

void scale(float* x, float factor, int64_t count, Isa isa) {
  row_kernels(isa).scale(x, factor, count);
}

void add_scaled(float* x, const float* y, float factor, int64_t count, Isa isa) {
  row_kernels(isa).add_scaled(x, y, factor, count);
}

void rotate_heads(float* x, int64_t num_heads, int64_t head_dim, const float* cos, const float* sin,
                  int64_t half_dim, Isa isa) {
  const RowKernels& kernels = row_kernels(isa);
  for (int64_t h = 0; h < num_heads; ++h) kernels.rotate(x + h * head_dim, cos, sin, half_dim);
}

}  // namespace lowkey
