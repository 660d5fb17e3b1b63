#include "linear/weight_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "linear/random_weights.h"
#include "linear/row_kernels.h"
#include "linear/strip_layout.h"

namespace lowkey {
namespace {

using test::all_dtypes;
using test::RandomTensor;

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

int64_t odd_cols(DType dtype) {
  // Whole blocks where the type has them; a ragged last group of 32 where it has not.
  return dtype_block_elements(dtype) == 1 ? 77 : 3 * dtype_block_elements(dtype);
}

std::vector<float> row_of(const WeightMatrix& matrix, int64_t row) {
  std::vector<float> values(static_cast<size_t>(matrix.cols()));
  matrix.dequantize_rows(row, 1, values.data());
  return values;
}

TEST(RowKernels, EveryIsaUnpacksEveryTypeToTheSpecificationsBits) {
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (DType dtype : all_dtypes()) {
      for (bool misalign : {false, true}) {
        const RandomTensor tensor(dtype, 40, odd_cols(dtype), 11, misalign);
        for (int64_t r = 0; r < tensor.view.rows(); ++r) {
          std::vector<float> values(static_cast<size_t>(tensor.view.cols()));
          row_kernels(isa).format(dtype).to_f32(
              tensor.view.data.data() + r * tensor.view.row_bytes(), tensor.view.cols(),
              values.data());
          ASSERT_TRUE(same_bits(values, tensor.row(r)))
              << isa_name(isa) << " " << dtype_name(dtype) << " row " << r;
        }
      }
    }
  }
}

// F16 has values the random tensors do not: all 65,536, subnormals, infinities and NaN.
TEST(RowKernels, EveryIsaWidensEveryHalf) {
  std::vector<Half> halves(1 << 16);
  for (size_t i = 0; i < halves.size(); ++i) halves[i].bits = static_cast<uint16_t>(i);
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    std::vector<float> values(halves.size());
    row_kernels(isa)
        .format(DType::kF16)
        .to_f32(reinterpret_cast<const std::byte*>(halves.data()), 1 << 16, values.data());
    for (size_t i = 0; i < halves.size(); ++i) {
      const float expected = half_to_float(halves[i]);
      if (expected != expected) {
        EXPECT_NE(values[i], values[i]) << i;
      } else {
        EXPECT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(expected)) << i;
      }
    }
  }
}

TEST(RowKernels, EveryIsaRoundsToBFloat16AsTheSpecification) {
  std::vector<float> values;
  SplitMix64 rng(5);
  for (int i = 0; i < 100000; ++i) {
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(rng.next())));
  }
  for (uint32_t bits : {0u, 0x80000000u, 0x3f808000u, 0x3f818000u, 0x3f807fffu, 0x3f808001u,
                        0x7f7fffffu, 0x7f800000u, 0xff800000u, 0x7f800001u, 0xffffffffu}) {
    values.push_back(std::bit_cast<float>(bits));
  }
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    std::vector<BFloat16> rounded(values.size());
    row_kernels(isa).to_bf16(values.data(), static_cast<int64_t>(values.size()), rounded.data());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(rounded[i].bits, float_to_bfloat16(values[i]).bits)
          << isa_name(isa) << " " << std::bit_cast<uint32_t>(values[i]);
    }
  }
}

TEST(MakeWeight, F32HoldsTheDequantizedRows) {
  ThreadPool pool(2);
  for (DType dtype : all_dtypes()) {
    const RandomTensor tensor(dtype, 300, odd_cols(dtype), 3);
    const WeightMatrix matrix = make_weight(tensor.view, WeightStorage::kF32, pool);
    EXPECT_EQ(matrix.dtype(), DType::kF32);
    EXPECT_EQ(matrix.rows(), 300);
    EXPECT_EQ(matrix.cols(), odd_cols(dtype));
    for (int64_t r = 0; r < matrix.rows(); ++r) {
      ASSERT_TRUE(same_bits(row_of(matrix, r), tensor.row(r))) << dtype_name(dtype) << " " << r;
    }
  }
}

TEST(MakeWeight, BFloat16RoundsTheDequantizedRows) {
  ThreadPool pool(2);
  for (DType dtype : all_dtypes()) {
    const RandomTensor tensor(dtype, 300, odd_cols(dtype), 4);
    const WeightMatrix matrix = make_weight(tensor.view, WeightStorage::kBF16, pool);
    EXPECT_EQ(matrix.dtype(), DType::kBF16);
    EXPECT_EQ(matrix.row_bytes(), 2 * matrix.cols());
    for (int64_t r = 0; r < matrix.rows(); ++r) {
      std::vector<float> expected = tensor.row(r);
      for (float& value : expected) value = bfloat16_to_float(float_to_bfloat16(value));
      ASSERT_TRUE(same_bits(row_of(matrix, r), expected)) << dtype_name(dtype) << " row " << r;
    }
  }
}

TEST(MakeWeight, FileStorageBorrowsTheBytes) {
  ThreadPool pool(2);
  for (DType dtype : all_dtypes()) {
    const RandomTensor tensor(dtype, 12, odd_cols(dtype), 5);
    const WeightMatrix matrix = make_weight(tensor.view, WeightStorage::kFile, pool);
    EXPECT_EQ(matrix.dtype(), dtype);
    EXPECT_EQ(matrix.data(), tensor.view.data.data()) << dtype_name(dtype);
    EXPECT_EQ(matrix.owned_bytes(), 0);
  }
}

TEST(MakeWeight, CopiesFloatsThatLieUnaligned) {
  ThreadPool pool(2);
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const RandomTensor tensor(dtype, 12, 77, 5, /*misalign=*/true);
    const WeightMatrix matrix = make_weight(tensor.view, WeightStorage::kFile, pool);
    EXPECT_NE(matrix.data(), tensor.view.data.data());
    EXPECT_EQ(std::bit_cast<uintptr_t>(matrix.data()) % 64, 0u);
    EXPECT_EQ(matrix.owned_bytes(), 12 * 77 * dtype_block_bytes(dtype));
    for (int64_t r = 0; r < 12; ++r) EXPECT_TRUE(same_bits(row_of(matrix, r), tensor.row(r)));
  }
}

TEST(MakeWeight, PutsInterleavedRowsInOrderInEveryStorage) {
  ThreadPool pool(2);
  for (DType dtype : all_dtypes()) {
    RandomTensor tensor(dtype, 24, odd_cols(dtype), 6);
    tensor.view.row_order = RowOrder::kInterleavedHeads;
    tensor.view.head_rows = 8;
    for (auto storage : {WeightStorage::kF32, WeightStorage::kFile, WeightStorage::kPacked}) {
      const WeightMatrix matrix = make_weight(tensor.view, storage, pool);
      for (int64_t r = 0; r < 24; ++r) {
        // Row 8 h + c of lowkey's order is pair c mod 4, half c / 4 of head h.
        const int64_t stored = r / 8 * 8 + 2 * (r % 4) + r % 8 / 4;
        TensorView plain = tensor.view;
        plain.row_order = RowOrder::kAsStored;
        std::vector<float> expected(static_cast<size_t>(plain.cols()));
        dequantize_rows(plain, stored, 1, expected.data());
        ASSERT_TRUE(same_bits(row_of(matrix, r), expected)) << dtype_name(dtype) << " row " << r;
      }
    }
  }
}

TEST(MakeWeight, RefusesWhatIsNoMatrix) {
  ThreadPool pool(1);
  RandomTensor tensor(DType::kF32, 4, 8, 1);
  tensor.view.shape = {32};
  try {
    make_weight(tensor.view, WeightStorage::kF32, pool);
    FAIL() << "made a matrix of a vector";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_STREQ(error.what(), "tensor 'random': shape [32] is not a matrix");
  }
}

// 41 rows: two strips and nine rows of a third. Rows of the widest types pass dequantize_rows'
// buffer more than once.
TEST(MakeWeight, StripsGiveBackTheFilesBytesAndValues) {
  ThreadPool pool(2);
  for (DType dtype : all_dtypes()) {
    for (int64_t cols : {odd_cols(dtype), 32 * dtype_block_elements(dtype)}) {
      const RandomTensor tensor(dtype, 41, cols, 9, dtype_block_elements(dtype) > 1);
      const WeightMatrix matrix = make_weight(tensor.view, WeightStorage::kPacked, pool);
      EXPECT_EQ(matrix.dtype(), dtype);
      EXPECT_EQ(matrix.row_bytes(), tensor.view.row_bytes());
      if (!has_strips(dtype)) {
        EXPECT_EQ(matrix.layout(), WeightLayout::kRows);
        EXPECT_EQ(matrix.owned_bytes(), 0);
      } else {
        EXPECT_EQ(matrix.layout(), WeightLayout::kStrips);
        EXPECT_EQ(matrix.owned_bytes(), 48 * tensor.view.row_bytes());
        EXPECT_EQ(std::bit_cast<uintptr_t>(matrix.strip(0)) % 64, 0u);
      }
      for (int64_t r = 0; r < 41; ++r) {
        const std::byte* expected = tensor.view.data.data() + r * tensor.view.row_bytes();
        std::vector<std::byte> bytes(static_cast<size_t>(matrix.row_bytes()));
        matrix.copy_blocks(r, 0, cols / dtype_block_elements(dtype), bytes.data());
        ASSERT_EQ(std::memcmp(bytes.data(), expected, bytes.size()), 0)
            << dtype_name(dtype) << " row " << r;
        ASSERT_TRUE(same_bits(row_of(matrix, r), tensor.row(r))) << dtype_name(dtype) << " " << r;
      }
    }
  }
}

TEST(MakeWeightDeathTest, StripsHaveNoRowsAndRowsNoStrips) {
  ThreadPool pool(1);
  const RandomTensor tensor(DType::kQ8_0, 16, 32, 1);
  EXPECT_DEATH((void)make_weight(tensor.view, WeightStorage::kPacked, pool).row(3),
               "row 3 of a matrix in strips");
  EXPECT_DEATH((void)make_weight(tensor.view, WeightStorage::kFile, pool).strip(0),
               "strip 0 of a matrix in rows");
}

TEST(WeightArena, MatricesShareItAndOutliveIt) {
  ThreadPool pool(2);
  const RandomTensor a(DType::kQ8_0, 16, 32, 1), b(DType::kQ4_0, 33, 64, 2);
  WeightMatrix second;
  {
    WeightArena arena;
    const WeightMatrix first = make_weight(a.view, WeightStorage::kPacked, pool, arena);
    second = make_weight(b.view, WeightStorage::kPacked, pool, arena);
    EXPECT_EQ(second.strip(0), first.strip(0) + round_up<int64_t>(first.owned_bytes(), 64));
  }
  for (int64_t r = 0; r < 33; ++r) EXPECT_TRUE(same_bits(row_of(second, r), b.row(r)));
}

TEST(UnpackMatrix, GivesEveryRow) {
  ThreadPool pool(2);
  for (DType dtype : {DType::kQ4_1, DType::kQ6_K, DType::kF16}) {
    const RandomTensor tensor(dtype, 300, odd_cols(dtype), 8);
    const WeightMatrix matrix = make_weight(tensor.view, WeightStorage::kPacked, pool);
    const auto count = static_cast<size_t>(matrix.rows() * matrix.cols());
    std::vector<float> floats(count);
    std::vector<BFloat16> rounded(count);
    unpack_matrix(matrix, floats.data(), pool);
    unpack_matrix(matrix, rounded.data(), pool);
    for (int64_t r = 0; r < matrix.rows(); ++r) {
      const std::vector<float> expected = tensor.row(r);
      for (int64_t c = 0; c < matrix.cols(); ++c) {
        const auto i = static_cast<size_t>(r * matrix.cols() + c);
        ASSERT_EQ(floats[i], expected[static_cast<size_t>(c)]);
        ASSERT_EQ(rounded[i], float_to_bfloat16(expected[static_cast<size_t>(c)]));
      }
    }
  }
}

TEST(WeightStorage, NamesAreReadBack) {
  for (auto storage :
       {WeightStorage::kF32, WeightStorage::kBF16, WeightStorage::kFile, WeightStorage::kPacked}) {
    EXPECT_EQ(parse_weight_storage(weight_storage_name(storage)), storage);
  }
  try {
    parse_weight_storage("int8");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(error.what(), "weights 'int8': not one of f32, bf16, file, packed");
  }
}

TEST(MakeVector, IsInLowkeysOrder) {
  std::vector<float> stored{0, 3, 1, 4, 2, 5};
  TensorView bias;
  bias.shape = {6};
  bias.data = std::as_bytes(std::span(stored));
  bias.row_order = RowOrder::kInterleavedHeads;
  bias.head_rows = 6;
  EXPECT_THAT(make_vector(bias), ::testing::ElementsAre(0, 1, 2, 3, 4, 5));
}

}  // namespace
}  // namespace lowkey
