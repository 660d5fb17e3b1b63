#pragma once
// Weights rounded to a few bits: which numbers a group of them may become, and the blocks that hold
// them. Torch-free, thread-safe.
//
// A row of a matrix is cut along its input into groups, each with a scale and a minimum of its own
// (8 bits: a scale), which are rounded to f16 first: w ~ scale * code + minimum, code in [0,
// 2^bits). With f16 parameters a group's codes are at most half a scale off, plus what the rounding
// of the minimum takes. 8 bits are symmetric: w ~ scale * code, code in [-127, 127].
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/threads.h"
#include "load/tensor.h"

namespace lowkey {

struct WeightGrid {
  static constexpr int32_t kRow = 0;

  int32_t bits = 4;     // 2, 3, 4 or 8
  int32_t group = 128;  // inputs that share a scale, a multiple of 32; kRow: the whole row
  // Scales and minima as f32 numbers, which no block holds: matrices of the numbers that the codes
  // stand for, as papers simulate it.
  bool f32_params = false;

  bool symmetric() const { return bits == 8; }
  int32_t levels() const { return symmetric() ? 127 : (1 << bits) - 1; }  // the largest code
  DType dtype() const;  // kQ2_1, kQ3_1, kQ4_1, kQ8_0; kF32 with f32_params
  // Of a row of `cols`; the last group may be shorter.
  int64_t group_size(int64_t cols) const { return group == kRow ? cols : group; }
  int64_t num_groups(int64_t cols) const;
  std::string text() const;  // "W4g64", "W4" for whole rows

  friend bool operator==(const WeightGrid&, const WeightGrid&) = default;
};

// Throws Error kInvalidArgument for bits and groups that are none of the above.
void check_grid(const WeightGrid& grid);
// Blocks have 32 weights: whether a matrix of so many inputs can be written in them.
bool grid_fits(int64_t cols);

// What the codes of a group mean. Both are f16 numbers, unless the grid has f32_params.
struct GroupParams {
  float scale = 0.0f;
  float minimum = 0.0f;  // 0 on a symmetric grid
};

// The grid from `least` to `most` (symmetric: to the larger magnitude of the two). Throws Error
// kNumeric if they are not finite or beyond f16.
GroupParams params_between(const WeightGrid& grid, float least, float most);
// From the least of the weights to the largest.
GroupParams params_of(const WeightGrid& grid, std::span<const float> weights);

// The nearest code, ties to even; a scale of 0 has code 0 alone.
int32_t encode_weight(const WeightGrid& grid, const GroupParams& params, float weight);
// What the code stands for: the bits that dequantize() gives.
float decode_weight(const GroupParams& params, int32_t code);

// A matrix in blocks.
struct BlockMatrix {
  DType dtype = DType::kQ4_1;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<std::byte> bytes;  // [rows, row bytes]

  BlockMatrix() = default;
  BlockMatrix(DType type, int64_t num_rows, int64_t num_cols);

  int64_t row_bytes() const;
  TensorView view(std::string name = "") const;  // borrows the bytes
};

// Writes one row. codes: [cols]; params: [num_groups(cols)].
void write_blocks(const WeightGrid& grid, std::span<const int32_t> codes,
                  std::span<const GroupParams> params, BlockMatrix& matrix, int64_t row);

// Round to nearest. weights: [rows, cols], row-major; cols a multiple of 32. `params`, where there
// are any, [rows, num_groups(cols)]: clipped ranges that were found otherwise.
BlockMatrix round_to_nearest(const WeightGrid& grid, const float* weights, int64_t rows,
                             int64_t cols, ThreadPool& pool,
                             std::span<const GroupParams> params = {});

// Back to floats, [rows, cols].
void decode_blocks(const BlockMatrix& matrix, float* out, ThreadPool& pool);

}  // namespace lowkey
