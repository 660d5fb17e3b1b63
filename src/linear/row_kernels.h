#pragma once
// What the room asks of an instruction set: dot products with rows of a weight matrix in any of
// its formats, rows as floats, and the small operations between matrices. One table of functions
// per instruction set, all generated from row_kernels-inl.h. Kernels are noexcept and allocate
// nothing.
//
// The order of additions of a dot product is fixed: 32 running sums (element c goes to sum c mod
// 32), then a tree. It does not depend on how many inputs share the weights: a row of a batch gets
// the bits it would get alone.
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/cpu.h"
#include "core/half.h"
#include "load/tensor.h"

namespace lowkey {

// Weights are read in groups of 32 columns; inputs are padded with zeros to whole groups.
inline constexpr int64_t kGroupColumns = 32;

struct DotArgs {
  const std::byte* weights = nullptr;  // [num_rows] rows, row_bytes apart
  int64_t row_bytes = 0;
  int64_t num_rows = 0;
  int64_t cols = 0;
  const float* x = nullptr;  // [num_inputs, x_stride], zero from cols to the next whole group
  int64_t x_stride = 0;
  int64_t num_inputs = 0;
  const float* bias = nullptr;  // [num_rows], or null
  float* y = nullptr;           // [num_inputs, y_stride]; the first num_rows of each are written
  int64_t y_stride = 0;
};

struct FormatKernels {
  void (*dot)(const DotArgs& args) noexcept;
  // One row as floats: exactly what dequantize() gives.
  void (*to_f32)(const std::byte* row, int64_t cols, float* out) noexcept;
};

struct ActivationKernels {
  void (*activate)(float* x, int64_t count) noexcept;
  void (*gate)(float* x, const float* y, int64_t count) noexcept;  // activation times y
};

struct RowKernels {
  std::array<FormatKernels, kNumDTypes> formats;  // in the order of DType

  void (*to_bf16)(const float* in, int64_t count, BFloat16* out) noexcept;  // nearest even

  // elementwise.h has the formulas.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t cols,
                   float* out) noexcept;
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps,
                     int64_t cols, float* out) noexcept;
  ActivationKernels silu, gelu, gelu_tanh, relu;
  void (*softcap)(float* x, int64_t count, float cap) noexcept;
  void (*add)(float* x, const float* y, int64_t count) noexcept;
  void (*scale)(float* x, float factor, int64_t count) noexcept;
  void (*add_scaled)(float* x, const float* y, float factor, int64_t count) noexcept;
  void (*rotate)(float* head, const float* cos, const float* sin, int64_t half_dim) noexcept;

  const FormatKernels& format(DType dtype) const { return formats[static_cast<size_t>(dtype)]; }
};

const RowKernels& row_kernels_scalar();
const RowKernels& row_kernels_avx2();    // on other machines: the scalar ones
const RowKernels& row_kernels_avx512();  // likewise
const RowKernels& row_kernels_neon();    // likewise

const RowKernels& row_kernels(Isa isa);

}  // namespace lowkey
