#include "weights/grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/half.h"

namespace lowkey {
namespace {

constexpr int64_t kBlock = 32;

float as_half(float value) {
  return half_to_float(float_to_half(value));
}

void put_half(float value, std::byte* at) {
  const Half half = float_to_half(value);
  std::memcpy(at, &half, sizeof(half));
}

// One block of 32 codes; the layouts are load/tensor.cc's.
void write_block(DType dtype, const int32_t* codes, const GroupParams& params, std::byte* block) {
  if (dtype == DType::kF32) {
    std::array<float, kBlock> values{};
    for (size_t i = 0; i < values.size(); ++i) values[i] = decode_weight(params, codes[i]);
    std::memcpy(block, values.data(), sizeof(values));
    return;
  }
  put_half(params.scale, block);
  if (dtype == DType::kQ8_0) {
    for (int64_t i = 0; i < kBlock; ++i) block[2 + i] = static_cast<std::byte>(codes[i]);
    return;
  }
  put_half(params.minimum, block + 2);
  std::byte* const packed = block + 4;
  if (dtype == DType::kQ4_1) {
    for (int64_t i = 0; i < kBlock / 2; ++i)
      packed[i] = static_cast<std::byte>(codes[i] | codes[i + kBlock / 2] << 4);
    return;
  }
  uint64_t pairs = 0;
  uint32_t high = 0;
  for (int64_t i = 0; i < kBlock; ++i) {
    const auto code = static_cast<uint32_t>(codes[i]);
    pairs |= uint64_t{code & 3u} << (2 * i);
    high |= (code >> 2) << i;
  }
  std::memcpy(packed, &pairs, sizeof(pairs));
  if (dtype == DType::kQ3_1) std::memcpy(packed + sizeof(pairs), &high, sizeof(high));
}

}  // namespace

DType WeightGrid::dtype() const {
  if (f32_params) return DType::kF32;
  switch (bits) {
    case 2: return DType::kQ2_1;
    case 3: return DType::kQ3_1;
    case 4: return DType::kQ4_1;
    case 8: return DType::kQ8_0;
    default: break;
  }
  LOWKEY_CHECK(false, "{} bits", bits);
  return DType::kQ4_1;
}

int64_t WeightGrid::num_groups(int64_t cols) const {
  return cols == 0 ? 0 : ceil_div(cols, group_size(cols));
}

std::string WeightGrid::text() const {
  return group == kRow ? fmt::format("W{}", bits) : fmt::format("W{}g{}", bits, group);
}

void check_grid(const WeightGrid& grid) {
  if (grid.bits != 2 && grid.bits != 3 && grid.bits != 4 && grid.bits != 8)
    fail(ErrorCode::kInvalidArgument, "{} bits: weights have 2, 3, 4 or 8", grid.bits);
  if (grid.group < 0 || grid.group % kBlock != 0) {
    fail(ErrorCode::kInvalidArgument,
         "groups of {} weights: a group is a multiple of 32, or 0 for the whole row", grid.group);
  }
}

bool grid_fits(int64_t cols) {
  return cols > 0 && cols % kBlock == 0;
}

GroupParams params_between(const WeightGrid& grid, float least, float most) {
  GroupParams params;
  const auto levels = static_cast<float>(grid.levels());
  const auto stored = [&](float value) { return grid.f32_params ? value : as_half(value); };
  if (grid.symmetric()) {
    params.scale = stored(std::max(std::fabs(least), std::fabs(most)) / levels);
  } else {
    params.scale = stored((most - least) / levels);
    params.minimum = stored(least);
  }
  if (!std::isfinite(params.scale) || !std::isfinite(params.minimum)) {
    fail(ErrorCode::kNumeric,
         "weights from {} to {} cannot be quantized: scales and minima are f16 numbers", least,
         most);
  }
  return params;
}

GroupParams params_of(const WeightGrid& grid, std::span<const float> weights) {
  LOWKEY_CHECK(!weights.empty(), "a group without weights");
  float least = weights.front(), most = weights.front();
  bool numbers = true;  // min and max leave NaN out
  for (const float weight : weights) {
    least = std::min(least, weight);
    most = std::max(most, weight);
    numbers &= weight == weight;
  }
  if (!numbers) fail(ErrorCode::kNumeric, "a weight is not a number: it cannot be quantized");
  return params_between(grid, least, most);
}

int32_t encode_weight(const WeightGrid& grid, const GroupParams& params, float weight) {
  if (params.scale == 0.0f) return 0;
  const auto levels = static_cast<float>(grid.levels());
  const float least = grid.symmetric() ? -levels : 0.0f;
  // What is not a number becomes the least code.
  const float code = std::min(levels, std::max(least, (weight - params.minimum) / params.scale));
  // Adding it rounds a small number to an integer, ties to even; nearbyint() is a call.
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return static_cast<int32_t>((code + kMagic) - kMagic);
}

float decode_weight(const GroupParams& params, int32_t code) {
  return params.scale * static_cast<float>(code) + params.minimum;
}

BlockMatrix::BlockMatrix(DType type, int64_t num_rows, int64_t num_cols)
    : dtype(type), rows(num_rows), cols(num_cols) {
  LOWKEY_CHECK(cols % dtype_block_elements(dtype) == 0, "{} columns of {}", cols,
               dtype_name(dtype));
  bytes.resize(static_cast<size_t>(rows * row_bytes()));
}

int64_t BlockMatrix::row_bytes() const {
  return cols / dtype_block_elements(dtype) * dtype_block_bytes(dtype);
}

TensorView BlockMatrix::view(std::string name) const {
  TensorView view;
  view.name = std::move(name);
  view.dtype = dtype;
  view.shape = {rows, cols};
  view.data = bytes;
  return view;
}

void write_blocks(const WeightGrid& grid, std::span<const int32_t> codes,
                  std::span<const GroupParams> params, BlockMatrix& matrix, int64_t row) {
  LOWKEY_CHECK(std::ssize(codes) == matrix.cols && matrix.dtype == grid.dtype() &&
                   std::ssize(params) == grid.num_groups(matrix.cols),
               "{} codes in {} groups for {} columns", codes.size(), params.size(), matrix.cols);
  std::byte* block = matrix.bytes.data() + row * matrix.row_bytes();
  const int64_t group = grid.group_size(matrix.cols);
  for (int64_t col = 0; col < matrix.cols; col += kBlock) {
    write_block(matrix.dtype, codes.data() + col, params[static_cast<size_t>(col / group)], block);
    block += kBlock / dtype_block_elements(matrix.dtype) * dtype_block_bytes(matrix.dtype);
  }
}

BlockMatrix round_to_nearest(const WeightGrid& grid, const float* weights, int64_t rows,
                             int64_t cols, ThreadPool& pool, std::span<const GroupParams> params) {
  LOWKEY_CHECK(grid_fits(cols), "rows of {} weights", cols);
  const int64_t groups = grid.num_groups(cols), group = grid.group_size(cols);
  LOWKEY_CHECK(params.empty() || std::ssize(params) == rows * groups, "{} parameters for {} groups",
               params.size(), rows * groups);
  BlockMatrix matrix(grid.dtype(), rows, cols);
  pool.run(rows, [&](int64_t row, int) {
    std::vector<int32_t> codes(static_cast<size_t>(cols));
    std::vector<GroupParams> of_row(static_cast<size_t>(groups));
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * group, count = std::min(group, cols - first);
      const std::span<const float> in(weights + row * cols + first, static_cast<size_t>(count));
      GroupParams& own = of_row[static_cast<size_t>(g)];
      own = params.empty() ? params_of(grid, in) : params[static_cast<size_t>(row * groups + g)];
      for (int64_t i = 0; i < count; ++i) {
        codes[static_cast<size_t>(first + i)] =
            encode_weight(grid, own, in[static_cast<size_t>(i)]);
      }
    }
    write_blocks(grid, codes, of_row, matrix, row);
  });
  return matrix;
}

void decode_blocks(const BlockMatrix& matrix, float* out, ThreadPool& pool) {
  pool.run(matrix.rows, [&](int64_t row, int) {
    dequantize(matrix.dtype, matrix.bytes.data() + row * matrix.row_bytes(), matrix.cols,
               out + row * matrix.cols);
  });
}

}  // namespace lowkey
