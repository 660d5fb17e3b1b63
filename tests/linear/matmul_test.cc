#include "linear/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "linear/random_weights.h"
#include "linear/row_kernels.h"
#include "support/allocations.h"

namespace lowkey {
namespace {

using test::all_dtypes;
using test::random_floats;
using test::RandomTensor;

constexpr int64_t kRowCounts[] = {1, 2, 3, 4, 5, 8, 16};

std::vector<int64_t> odd_cols(DType dtype) {
  const int64_t block = dtype_block_elements(dtype);
  if (block == 1) return {1, 31, 32, 33, 77, 256};
  return {block, 3 * block};
}

std::vector<float> multiply(const WeightMatrix& weight, const float* bias,
                            const std::vector<float>& x, int64_t num_rows, int threads, Isa isa) {
  ThreadPool pool(threads);
  MatmulScratch scratch;
  std::vector<float> y(static_cast<size_t>(num_rows * weight.rows()), NAN);
  const MatmulOutput output{&weight, bias, y.data()};
  matmul({x.data(), num_rows, {&output, 1}}, pool, scratch, isa);
  return y;
}

// |computed - exact| <= u * (roundings on the longest path) * sum of |terms|: each of the 32
// running sums takes ceil(cols / 32) fused steps (two roundings each without FMA), the tree five
// additions, the bias one, and storing the exact double as float one. 1.01 covers the terms of
// second order.
double error_bound(const std::vector<float>& row, const float* x, float bias) {
  const auto cols = static_cast<int64_t>(row.size());
  double magnitude = std::abs(bias);
  for (int64_t c = 0; c < cols; ++c) {
    magnitude += std::abs(static_cast<double>(row[static_cast<size_t>(c)]) * x[c]);
  }
  const int64_t roundings = 2 * ((cols + 31) / 32) + 5 + 1 + 1;
  return 1.01 * 0x1p-24 * static_cast<double>(roundings) * magnitude;
}

// A column of the identity picks one weight of every row: zeros and one exact product. So each
// format is decoded exactly, in every tile shape.
TEST(Matmul, UnitVectorsReturnTheWeightsExactly) {
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (DType dtype : all_dtypes()) {
      const int64_t cols = odd_cols(dtype).back();
      const RandomTensor tensor(dtype, 7, cols, 21);
      ThreadPool pool(1);
      const WeightMatrix weight = make_weight(tensor.view, WeightStorage::kFile, pool);
      for (int64_t first = 0; first < cols; first += 5) {
        const int64_t num_rows = std::min<int64_t>(5, cols - first);
        std::vector<float> x(static_cast<size_t>(num_rows * cols));
        for (int64_t i = 0; i < num_rows; ++i) x[static_cast<size_t>(i * cols + first + i)] = 1.0f;
        const std::vector<float> y = multiply(weight, nullptr, x, num_rows, 1, isa);
        for (int64_t r = 0; r < 7; ++r) {
          const std::vector<float> expected = tensor.row(r);
          for (int64_t i = 0; i < num_rows; ++i) {
            ASSERT_EQ(y[static_cast<size_t>(i * 7 + r)], expected[static_cast<size_t>(first + i)])
                << isa_name(isa) << " " << dtype_name(dtype) << " [" << r << ", " << first + i
                << "]";
          }
        }
      }
    }
  }
}

TEST(Matmul, EqualsTheReferenceWithinRounding) {
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (DType dtype : all_dtypes()) {
      for (int64_t cols : odd_cols(dtype)) {
        for (int64_t rows : {1, 5, 37}) {
          SplitMix64 rng(static_cast<uint64_t>(rows * 1000 + cols));
          const RandomTensor tensor(dtype, rows, cols, rng.next(), cols % 2 == 1);
          ThreadPool pool(1);
          const WeightMatrix weight = make_weight(tensor.view, WeightStorage::kFile, pool);
          const std::vector<float> bias = random_floats(rng, rows);
          for (int64_t num_rows : kRowCounts) {
            const std::vector<float> x = random_floats(rng, num_rows * cols);
            std::vector<float> expected(static_cast<size_t>(num_rows * rows));
            const float* const b = num_rows % 2 ? bias.data() : nullptr;
            const MatmulOutput output{&weight, b, expected.data()};
            matmul_ref({x.data(), num_rows, {&output, 1}});
            const std::vector<float> y = multiply(weight, b, x, num_rows, 1, isa);
            for (int64_t i = 0; i < num_rows; ++i) {
              for (int64_t r = 0; r < rows; ++r) {
                const auto at = static_cast<size_t>(i * rows + r);
                ASSERT_NEAR(y[at], expected[at],
                            error_bound(tensor.row(r), x.data() + i * cols, b ? b[r] : 0.0f))
                    << isa_name(isa) << " " << dtype_name(dtype) << " " << num_rows << " x ["
                    << rows << ", " << cols << "]";
              }
            }
          }
        }
      }
    }
  }
}

// The reference itself, by hand.
TEST(MatmulRef, SmallProduct) {
  const std::vector<float> w{1, 2, 3, 4, 5, 6};
  TensorView view;
  view.shape = {2, 3};
  view.data = std::as_bytes(std::span(w));
  ThreadPool pool(1);
  const WeightMatrix weight = make_weight(view, WeightStorage::kFile, pool);
  const std::vector<float> x{1, 0, -1, 2, 2, 2};
  const std::vector<float> bias{10, 20};
  std::vector<float> y(4);
  const MatmulOutput output{&weight, bias.data(), y.data()};
  matmul_ref({x.data(), 2, {&output, 1}});
  EXPECT_EQ(y, (std::vector<float>{8, 18, 22, 50}));
}

TEST(Matmul, ThreadsAndCompanionsDoNotChangeABit) {
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (const auto& [dtype, storage] :
         std::vector<std::pair<DType, WeightStorage>>{{DType::kF32, WeightStorage::kFile},
                                                      {DType::kBF16, WeightStorage::kFile},
                                                      {DType::kQ4_1, WeightStorage::kFile},
                                                      {DType::kQ6_K, WeightStorage::kFile},
                                                      {DType::kQ4_1, WeightStorage::kPacked},
                                                      {DType::kQ8_0, WeightStorage::kPacked},
                                                      {DType::kQ6_K, WeightStorage::kPacked}}) {
      const int64_t rows = 1003, cols = dtype == DType::kF32 ? 250 : 256;
      const RandomTensor tensor(dtype, rows, cols, 31);
      ThreadPool pool(1);
      const WeightMatrix weight = make_weight(tensor.view, storage, pool);
      SplitMix64 rng(9);
      const std::vector<float> x = random_floats(rng, 16 * cols);
      const std::vector<float> together = multiply(weight, nullptr, x, 16, 1, isa);
      EXPECT_EQ(multiply(weight, nullptr, x, 16, 3, isa), together);
      for (int64_t num_rows : {1, 2, 3, 5}) {
        for (int64_t i = 0; i + num_rows <= 16; i += num_rows) {
          const std::vector<float> part(x.begin() + i * cols, x.begin() + (i + num_rows) * cols);
          const std::vector<float> alone = multiply(weight, nullptr, part, num_rows, 2, isa);
          ASSERT_EQ(
              std::memcmp(alone.data(), together.data() + i * rows, alone.size() * sizeof(float)),
              0)
              << isa_name(isa) << " " << dtype_name(dtype) << ": rows " << i << "+" << num_rows;
        }
      }
    }
  }
}

// AVX2 and AVX-512 add in the same order with the same fused steps.
TEST(Matmul, VectorIsasAgreeBitForBit) {
  if (!isa_available(Isa::kAvx512)) GTEST_SKIP() << "this processor lacks AVX-512";
  for (DType dtype : all_dtypes()) {
    const RandomTensor tensor(dtype, 50, 512, 41);
    ThreadPool pool(1);
    SplitMix64 rng(10);
    const std::vector<float> x = random_floats(rng, 3 * 512);
    for (auto storage : {WeightStorage::kFile, WeightStorage::kPacked}) {
      const WeightMatrix weight = make_weight(tensor.view, storage, pool);
      EXPECT_EQ(multiply(weight, nullptr, x, 3, 1, Isa::kAvx2),
                multiply(weight, nullptr, x, 3, 1, Isa::kAvx512))
          << dtype_name(dtype) << " " << weight_storage_name(storage);
    }
  }
}

TEST(Matmul, SeveralMatricesInOneCall) {
  SplitMix64 rng(12);
  ThreadPool pool(2);
  const int64_t cols = 96, num_rows = 3;
  const RandomTensor a(DType::kQ8_0, 700, cols, 1), b(DType::kF32, 5, cols, 2),
      c(DType::kBF16, 1300, cols, 3), d(DType::kQ4_0, 40, cols, 4);
  const std::vector<float> x = random_floats(rng, num_rows * cols);
  const std::vector<float> bias = random_floats(rng, 5);
  std::vector<WeightMatrix> weights;
  for (const RandomTensor* tensor : {&a, &b, &c, &d}) {
    weights.push_back(make_weight(tensor->view, WeightStorage::kPacked, pool));
  }
  std::vector<std::vector<float>> y;
  std::vector<MatmulOutput> outputs;
  for (const WeightMatrix& weight : weights) {
    y.emplace_back(static_cast<size_t>(num_rows * weight.rows()), NAN);
  }
  for (size_t i = 0; i < 4; ++i) {
    outputs.push_back({&weights[i], i == 1 ? bias.data() : nullptr, y[i].data()});
  }
  MatmulScratch scratch;
  matmul({x.data(), num_rows, outputs}, pool, scratch);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(y[i], multiply(weights[i], outputs[i].bias, x, num_rows, 1, active_isa()));
  }
}

TEST(Matmul, NoRowsAndNoMatricesAreNoWork) {
  ThreadPool pool(2);
  MatmulScratch scratch;
  matmul({}, pool, scratch);
  const RandomTensor tensor(DType::kF32, 4, 8, 1);
  const WeightMatrix weight = make_weight(tensor.view, WeightStorage::kFile, pool);
  const MatmulOutput output{&weight, nullptr, nullptr};
  matmul({nullptr, 0, {&output, 1}}, pool, scratch);
}

TEST(Matmul, AllocatesNothingInSteadyState) {
  ThreadPool pool(2);
  SplitMix64 rng(1);
  std::vector<float> y(4 * 2000);
  for (auto [dtype, cols] : {std::pair{DType::kF32, int64_t{77}},  // 77: through the padded copy
                             std::pair{DType::kQ4_1, int64_t{96}}}) {
    const RandomTensor tensor(dtype, 2000, cols, 1);
    const WeightMatrix weight = make_weight(tensor.view, WeightStorage::kPacked, pool);
    const std::vector<float> x = random_floats(rng, 4 * cols);
    const MatmulOutput output{&weight, nullptr, y.data()};
    MatmulScratch scratch;
    matmul({x.data(), 4, {&output, 1}}, pool, scratch);
    const test::AllocationCount count;
    for (int i = 0; i < 10; ++i) matmul({x.data(), 4, {&output, 1}}, pool, scratch);
    EXPECT_EQ(count.since(), 0) << dtype_name(dtype);
  }
}

TEST(MatmulDeathTest, InputsOfDifferentWidthsAreABug) {
  ThreadPool pool(1);
  const RandomTensor a(DType::kF32, 4, 8, 1), b(DType::kF32, 4, 9, 1);
  const WeightMatrix wa = make_weight(a.view, WeightStorage::kFile, pool);
  const WeightMatrix wb = make_weight(b.view, WeightStorage::kFile, pool);
  float x[9] = {}, y[8];
  const MatmulOutput outputs[] = {{&wa, nullptr, y}, {&wb, nullptr, y + 4}};
  MatmulScratch scratch;
  EXPECT_DEATH(matmul({x, 1, outputs}, pool, scratch), "inputs of 8 and 9 features");
}

}  // namespace
}  // namespace lowkey
