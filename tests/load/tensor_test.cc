#include "load/tensor.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/files.h"
#include "core/half.h"
#include "core/rng.h"
#include "core/sha256.h"
#include "support/paths.h"

namespace lowkey {
namespace {

using ::testing::ElementsAre;

std::vector<std::byte> random_bytes(uint64_t seed, size_t count) {
  SplitMix64 rng(seed);
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; i += 8) {
    const uint64_t word = rng.next();
    std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, count - i));
  }
  return bytes;
}

DType dtype_by_name(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(DType::kQ6_K); ++i) {
    if (dtype_name(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  }
  throw std::invalid_argument(name);
}

// Independent decoders: the `gguf` Python package (tools/make_dequant_goldens.py), bit for bit.
TEST(Dequantize, EqualsTheGgufPackage) {
  const auto goldens = nlohmann::json::parse(read_file(test::golden("dequant.json")));
  ASSERT_EQ(goldens["cases"].size(), 11u) << "one per dtype";
  for (const auto& c : goldens["cases"]) {
    const DType dtype = dtype_by_name(c["dtype"]);
    SCOPED_TRACE(c["dtype"]);
    const size_t blocks = c["blocks"], block_bytes = c["block_bytes"];
    ASSERT_EQ(dtype_block_bytes(dtype), static_cast<int64_t>(block_bytes));
    std::vector<std::byte> data = random_bytes(c["seed"], blocks * block_bytes);
    for (size_t high_byte : c["float_high_bytes"]) {
      for (size_t block = 0; block < blocks; ++block)
        data[block * block_bytes + high_byte] &= std::byte{0xbf};
    }
    const int64_t count = static_cast<int64_t>(blocks) * dtype_block_elements(dtype);
    std::vector<float> values(static_cast<size_t>(count));
    dequantize(dtype, data.data(), count, values.data());
    for (size_t i = 0; i < c["positions"].size(); ++i) {
      const float value = values.at(c["positions"][i]);
      EXPECT_EQ(fmt::format("{:08x}", std::bit_cast<uint32_t>(value)), c["bits"][i])
          << "element " << c["positions"][i] << " is " << value;
    }
    EXPECT_EQ(sha256_hex(std::as_bytes(std::span(values))), c["sha256"]);
  }
}

// Blocks written by hand from the layout that tensor.h describes.
TEST(Dequantize, TwoAndThreeBitBlocksAreAsDescribed) {
  for (DType dtype : {DType::kQ2_1, DType::kQ3_1}) {
    const int bits = dtype == DType::kQ2_1 ? 2 : 3;
    ASSERT_EQ(dtype_block_bytes(dtype), 4 + 4 * bits);
    std::vector<std::byte> blocks(static_cast<size_t>(2 * dtype_block_bytes(dtype)));
    SplitMix64 rng(3);
    std::vector<float> expected;
    for (int b = 0; b < 2; ++b) {
      std::byte* block = blocks.data() + b * dtype_block_bytes(dtype);
      const Half scale = float_to_half(0.25f * static_cast<float>(b + 1));
      const Half minimum = float_to_half(-0.75f);
      std::memcpy(block, &scale, 2);
      std::memcpy(block + 2, &minimum, 2);
      for (int i = 0; i < 32; ++i) {
        const auto code = static_cast<uint32_t>(rng.next() % (1u << bits));
        block[4 + i / 4] |= static_cast<std::byte>((code & 3u) << (i % 4 * 2));
        if (bits == 3) block[12 + i / 8] |= static_cast<std::byte>((code >> 2) << (i % 8));
        expected.push_back(half_to_float(scale) * static_cast<float>(code) - 0.75f);
      }
    }
    std::vector<float> values(expected.size());
    dequantize(dtype, blocks.data(), std::ssize(values), values.data());
    EXPECT_EQ(values, expected) << dtype_name(dtype);
  }
}

TEST(Dequantize, ReadsAtAnyAlignment) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_1, DType::kQ6_K}) {
    const int64_t count = 2 * std::max<int64_t>(dtype_block_elements(dtype), 300);
    const int64_t whole = count / dtype_block_elements(dtype) * dtype_block_elements(dtype);
    const auto bytes =
        static_cast<size_t>(whole / dtype_block_elements(dtype) * dtype_block_bytes(dtype));
    std::vector<std::byte> aligned = random_bytes(7, bytes);
    std::vector<std::byte> shifted(bytes + 1);
    std::copy(aligned.begin(), aligned.end(), shifted.begin() + 1);
    std::vector<float> a(static_cast<size_t>(whole)), b(a.size());
    dequantize(dtype, aligned.data(), whole, a.data());
    dequantize(dtype, shifted.data() + 1, whole, b.data());
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << dtype_name(dtype);
  }
}

TEST(Dequantize, ZeroElementsWriteNothing) {
  dequantize(DType::kQ4_K, nullptr, 0, nullptr);
  dequantize(DType::kF32, nullptr, 0, nullptr);
}

TEST(DequantizeDeathTest, PartOfABlockIsABug) {
  std::byte block[34]{};
  float out[32];
  EXPECT_DEATH(dequantize(DType::kQ8_0, block, 31, out), "31 elements of Q8_0");
}

TensorView f32_view(const std::vector<float>& values, std::vector<int64_t> shape) {
  TensorView view;
  view.shape = std::move(shape);
  view.data = std::as_bytes(std::span(values));
  return view;
}

TEST(TensorView, ShapeArithmetic) {
  std::vector<float> values(24);
  const TensorView cube = f32_view(values, {2, 3, 4});
  EXPECT_EQ(cube.rows(), 6);
  EXPECT_EQ(cube.cols(), 4);
  EXPECT_EQ(cube.row_bytes(), 16);
  const TensorView vector = f32_view(values, {24});
  EXPECT_EQ(vector.rows(), 1);
  EXPECT_EQ(vector.cols(), 24);
  TensorView quantized;
  quantized.dtype = DType::kQ4_1;
  quantized.shape = {3, 64};
  EXPECT_EQ(quantized.row_bytes(), 40);
  EXPECT_EQ(shape_text(cube.shape), "[2, 3, 4]");
}

// Two heads of 6 rows. The file holds rows 0 3 1 4 2 5 of each head; the value of a row is its
// number in lowkey's order.
TEST(DequantizeRows, PutsInterleavedHeadsInHalfSplitOrder) {
  const std::vector<float> stored{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11};
  TensorView matrix = f32_view(stored, {12, 1});
  matrix.row_order = RowOrder::kInterleavedHeads;
  matrix.head_rows = 6;
  std::vector<float> ordered(12), expected(12);
  std::iota(expected.begin(), expected.end(), 0.0f);
  dequantize_rows(matrix, 0, 12, ordered.data());
  EXPECT_EQ(ordered, expected);
  float middle[3];
  dequantize_rows(matrix, 5, 3, middle);
  EXPECT_THAT(middle, ElementsAre(5, 6, 7));

  TensorView bias = f32_view(stored, {12});  // a vector is permuted the same way
  bias.row_order = RowOrder::kInterleavedHeads;
  bias.head_rows = 6;
  std::fill(ordered.begin(), ordered.end(), -1.0f);
  dequantize_rows(bias, 0, 1, ordered.data());
  EXPECT_EQ(ordered, expected);

  matrix.row_order = RowOrder::kAsStored;
  dequantize_rows(matrix, 0, 12, ordered.data());
  EXPECT_EQ(ordered, stored);
}

// Three groups of 5 rows, of which this part is the first two: its numbers in order, -1 for what
// lies between.
TEST(DequantizeRows, TakesGroupsOfRows) {
  const std::vector<float> stored{0, 1, -1, -1, -1, 2, 3, -1, -1, -1, 4, 5};
  TensorView matrix = f32_view(stored, {6, 1});
  matrix.row_order = RowOrder::kStrided;
  matrix.group_rows = 2;
  matrix.group_stride = 5;
  EXPECT_EQ(matrix.stored_row(1), 1);
  EXPECT_EQ(matrix.stored_row(2), 5);
  EXPECT_EQ(matrix.stored_row(5), 11);
  std::vector<float> ordered(6), expected(6);
  std::iota(expected.begin(), expected.end(), 0.0f);
  dequantize_rows(matrix, 0, 6, ordered.data());
  EXPECT_EQ(ordered, expected);
  float middle[3];
  dequantize_rows(matrix, 1, 3, middle);
  EXPECT_THAT(middle, ElementsAre(1, 2, 3));

  TensorView bias = f32_view(stored, {6});
  bias.row_order = RowOrder::kStrided;
  bias.group_rows = 2;
  bias.group_stride = 5;
  std::fill(ordered.begin(), ordered.end(), -1.0f);
  dequantize_rows(bias, 0, 1, ordered.data());
  EXPECT_EQ(ordered, expected);
}

}  // namespace
}  // namespace lowkey
