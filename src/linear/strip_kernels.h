#pragma once
// What a decode step does with strips (strip_layout.h), one table of functions per instruction set.
// Private to linear/.
//
// Inputs are quantized to 16 bits, a scale per 32 of them, so that products with the weights' codes
// are sums of integers, exact, and only one multiplication per 32 weights is in floating point:
//   x ~ scale * code, |code| <= 32639 = 127 * 256 + 127, which is two signed bytes.
// |x - scale * code| <= 0.51 * max|x| / 32639 of the 32, so a dot product is off by at most
//   sum over blocks of 0.51 / 32639 * max|x| * sum|w|  <=  8.9e-5 * ||w|| * ||x||,
// and floating-point rounding. (One byte per input would be 2.3e-2, more than a 4-bit cache costs.)
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/cpu.h"
#include "linear/row_kernels.h"
#include "linear/strip_layout.h"

namespace lowkey {

// 32 inputs. The order of the bytes is each instruction set's own.
struct StripInput {
  uint8_t codes[64];
  float scale;           // NaN where an input is NaN or infinite; 0 where all are below 1e-34
  float sum;             // scale * (sum of codes)
  int32_t half_sums[2];  // of the first and the last 16 codes
};

struct StripDotArgs {
  const std::byte* strips = nullptr;  // of num_rows rows, the last padded
  int64_t num_rows = 0;
  int64_t cols = 0;               // whole blocks
  const StripInput* x = nullptr;  // [num_inputs, cols / 32]
  int64_t num_inputs = 0;
  const float* bias = nullptr;  // [num_rows], or null
  float* y = nullptr;           // [num_inputs, y_stride]; the first num_rows of each are written
  int64_t y_stride = 0;
};

struct StripKernels {
  void (*quantize)(const float* x, int64_t cols, StripInput* out) noexcept;  // cols / 32 of them
  std::array<void (*)(const StripDotArgs& args) noexcept, kNumDTypes> dot;   // null: no strips
};

const StripKernels& strip_kernels_scalar();
const StripKernels& strip_kernels_avx2();         // on other machines: the scalar ones
const StripKernels& strip_kernels_avx512_vnni();  // likewise
const StripKernels& strip_kernels_neon();         // likewise

const StripKernels& strip_kernels(Isa isa);

}  // namespace lowkey
