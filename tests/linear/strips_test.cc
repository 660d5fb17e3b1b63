// Products with matrices in strips, whose inputs are quantized: against the specification, within
// the bound that follows from the arithmetic (linear/strip_kernels.h).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "linear/matmul.h"
#include "linear/random_weights.h"
#include "linear/strip_kernels.h"

namespace lowkey {
namespace {

using test::random_floats;
using test::RandomTensor;
using test::uniform;

constexpr double kUnit = 0x1p-24;
constexpr double kCodeError = 0.51 / 32639;

std::vector<DType> block_dtypes() {
  std::vector<DType> types;
  for (DType dtype : test::all_dtypes()) {
    if (has_strips(dtype)) types.push_back(dtype);
  }
  return types;
}

std::vector<float> multiply(const WeightMatrix& weight, const float* bias,
                            const std::vector<float>& x, int64_t num_rows, Isa isa) {
  ThreadPool pool(1);
  MatmulScratch scratch;
  std::vector<float> y(static_cast<size_t>(num_rows * weight.rows()), -1.0f);
  const MatmulOutput output{&weight, bias, y.data()};
  matmul({x.data(), num_rows, {&output, 1}}, pool, scratch, isa);
  return y;
}

// Every weight's minimum: what it would be with its code zero. The codes are what follows the
// scales; formats without a minimum have none.
std::vector<float> minimums(const RandomTensor& tensor, int64_t row) {
  const DType dtype = tensor.view.dtype;
  std::vector<float> result(static_cast<size_t>(tensor.view.cols()));
  int64_t codes_at = 0;
  if (dtype == DType::kQ4_1 || dtype == DType::kQ5_1) codes_at = 4;
  if (dtype == DType::kQ4_K || dtype == DType::kQ5_K) codes_at = 16;
  if (codes_at == 0) return result;
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.view.row_bytes()));
  std::memcpy(bytes.data(), tensor.view.data.data() + row * tensor.view.row_bytes(), bytes.size());
  const int64_t block = dtype_block_bytes(dtype);
  for (int64_t at = 0; at < std::ssize(bytes); at += block) {
    std::memset(bytes.data() + at + codes_at, 0, static_cast<size_t>(block - codes_at));
  }
  dequantize(dtype, bytes.data(), tensor.view.cols(), result.data());
  return result;
}

// Quantization of the inputs, then rounding: five per term (sum to float, weight's scale, its
// product with the input's scale, that scale, minimum), two fused steps per piece (a piece of 16
// columns has two of the first kind), bias and result.
double error_bound(const RandomTensor& tensor, int64_t row, const float* x, float bias) {
  const std::vector<float> w = tensor.row(row), m = minimums(tensor, row);
  const int64_t cols = tensor.view.cols();
  double quantization = 0, magnitude = std::abs(bias);
  for (int64_t c0 = 0; c0 < cols; c0 += 32) {
    double max = 0, sum = 0;
    for (int64_t c = c0; c < c0 + 32; ++c) {
      const auto i = static_cast<size_t>(c);
      max = std::max(max, std::abs(static_cast<double>(x[c])));
      sum += std::abs(w[i]);
      magnitude += (std::abs(static_cast<double>(w[i]) - m[i]) + std::abs(m[i])) * std::abs(x[c]);
    }
    quantization += kCodeError * max * sum;
  }
  const double roundings = static_cast<double>(2 * cols / 32 + 5 + 2);
  // Inputs below 1e-34 count as zero.
  return quantization + 1.01 * kUnit * roundings * magnitude + 1e-34 * static_cast<double>(cols);
}

void expect_near_reference(const RandomTensor& tensor, const std::vector<float>& x,
                           int64_t num_rows, const float* bias, const char* what) {
  ThreadPool pool(1);
  const WeightMatrix weight = make_weight(tensor.view, WeightStorage::kPacked, pool);
  ASSERT_EQ(weight.layout(), WeightLayout::kStrips);
  const int64_t rows = weight.rows(), cols = weight.cols();
  std::vector<float> expected(static_cast<size_t>(num_rows * rows));
  const MatmulOutput output{&weight, bias, expected.data()};
  matmul_ref({x.data(), num_rows, {&output, 1}});
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    const std::vector<float> y = multiply(weight, bias, x, num_rows, isa);
    for (int64_t i = 0; i < num_rows; ++i) {
      for (int64_t r = 0; r < rows; ++r) {
        const auto at = static_cast<size_t>(i * rows + r);
        ASSERT_NEAR(y[at], expected[at],
                    error_bound(tensor, r, x.data() + i * cols, bias ? bias[r] : 0.0f))
            << what << ", " << isa_name(isa) << " " << dtype_name(tensor.view.dtype) << " "
            << num_rows << " x [" << rows << ", " << cols << "], row " << i << " feature " << r;
      }
    }
  }
}

// One input of each block is 1, the others 0: nothing is lost in quantizing them, so a wrong code,
// scale or place shows.
TEST(Strips, UnitVectorsPickOneWeight) {
  for (DType dtype : block_dtypes()) {
    const int64_t cols = 2 * dtype_block_elements(dtype), rows = 19;
    const RandomTensor tensor(dtype, rows, cols, 21);
    ThreadPool pool(1);
    const WeightMatrix weight = make_weight(tensor.view, WeightStorage::kPacked, pool);
    for (Isa isa : kIsas) {
      if (!isa_available(isa)) continue;
      for (int64_t c = 0; c < cols; ++c) {
        std::vector<float> x(static_cast<size_t>(cols));
        x[static_cast<size_t>(c)] = 1.0f;
        const std::vector<float> y = multiply(weight, nullptr, x, 1, isa);
        for (int64_t r = 0; r < rows; ++r) {
          const auto i = static_cast<size_t>(c);
          const double w = tensor.row(r)[i], m = minimums(tensor, r)[i];
          ASSERT_NEAR(y[static_cast<size_t>(r)], w, 8 * kUnit * (std::abs(w - m) + std::abs(m)))
              << isa_name(isa) << " " << dtype_name(dtype) << " [" << r << ", " << c << "]";
        }
      }
    }
  }
}

TEST(Strips, EqualTheReferenceWithinTheBound) {
  for (DType dtype : block_dtypes()) {
    for (int64_t blocks : {1, 3}) {
      const int64_t cols = blocks * dtype_block_elements(dtype);
      for (int64_t rows : {1, 16, 37}) {
        SplitMix64 rng(static_cast<uint64_t>(rows * 1000 + cols));
        const RandomTensor tensor(dtype, rows, cols, rng.next(), /*misalign=*/rows == 37);
        const std::vector<float> bias = random_floats(rng, rows);
        for (int64_t num_rows = 1; num_rows <= 16; ++num_rows) {
          expect_near_reference(tensor, random_floats(rng, num_rows * cols), num_rows,
                                num_rows % 2 ? bias.data() : nullptr, "random");
        }
      }
    }
  }
}

TEST(Strips, HardInputs) {
  for (DType dtype : block_dtypes()) {
    const int64_t cols = 4 * dtype_block_elements(dtype), rows = 21;
    SplitMix64 rng(7);
    const RandomTensor tensor(dtype, rows, cols, 5);
    const auto expect = [&](const char* what, auto value) {
      std::vector<float> x(static_cast<size_t>(2 * cols));
      for (size_t i = 0; i < x.size(); ++i) x[i] = value(i);
      expect_near_reference(tensor, x, 2, nullptr, what);
    };
    expect("zeros", [](size_t) { return 0.0f; });
    expect("constants", [](size_t) { return -3.25f; });
    expect("alternating", [](size_t i) { return i % 2 ? 1.0f : -1.0f; });
    expect("outliers", [&](size_t i) { return uniform(rng, -1, 1) * (i % 97 == 5 ? 1e4f : 1.0f); });
    expect("large", [&](size_t) { return uniform(rng, -1e30f, 1e30f); });
    expect("small", [&](size_t) { return uniform(rng, -1e-30f, 1e-30f); });
    expect("subnormal", [&](size_t) { return uniform(rng, -1e-38f, 1e-38f); });
    expect("a block of zeros", [&](size_t i) { return i < 32 ? 0.0f : uniform(rng, -1, 1); });
  }
}

// Scales of the file at the ends of what a half holds: zero, subnormal and largest.
TEST(Strips, HardScales) {
  for (DType dtype : block_dtypes()) {
    const int64_t cols = 2 * dtype_block_elements(dtype), rows = 18;
    for (uint16_t bits : {0x0000, 0x0001, 0x83ff, 0x7bff}) {
      RandomTensor tensor(dtype, rows, cols, 6);
      const StripBlock layout = strip_block(dtype);
      for (size_t at = 0; at < tensor.view.data.size();
           at += static_cast<size_t>(dtype_block_bytes(dtype))) {
        for (int64_t h = 0; h < layout.num_halves; ++h) {
          std::memcpy(tensor.bytes.data() + at + layout.halves_at + 2 * h, &bits, 2);
        }
      }
      SplitMix64 rng(8);
      expect_near_reference(tensor, random_floats(rng, 3 * cols), 3, nullptr, "scales");
    }
  }
}

TEST(Strips, ErrorIsFarBelowOneThousandth) {
  const int64_t cols = 1536, rows = 64;
  for (DType dtype : block_dtypes()) {
    const RandomTensor tensor(dtype, rows, cols, 12);
    SplitMix64 rng(3);
    std::vector<float> x = random_floats(rng, cols);
    for (size_t i = 0; i < x.size(); i += 100) x[i] *= 300;  // the outlier channels of a real model
    ThreadPool pool(1);
    const WeightMatrix weight = make_weight(tensor.view, WeightStorage::kPacked, pool);
    std::vector<float> expected(rows);
    const MatmulOutput output{&weight, nullptr, expected.data()};
    matmul_ref({x.data(), 1, {&output, 1}});
    double x_norm = 0;
    for (float value : x) x_norm += static_cast<double>(value) * value;
    const std::vector<float> y = multiply(weight, nullptr, x, 1, active_isa());
    for (int64_t r = 0; r < rows; ++r) {
      double w_norm = 0;
      for (float value : tensor.row(r)) w_norm += static_cast<double>(value) * value;
      const auto at = static_cast<size_t>(r);
      EXPECT_LT(std::abs(y[at] - expected[at]), 8.9e-5 * std::sqrt(w_norm * x_norm));
    }
  }
}

TEST(Strips, NanAndInfinityStayInTheirRow) {
  const RandomTensor tensor(DType::kQ4_1, 33, 96, 2);
  ThreadPool pool(1);
  const WeightMatrix weight = make_weight(tensor.view, WeightStorage::kPacked, pool);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    std::vector<float> x(3 * 96, 1.0f);
    x[96 + 40] = bad;
    for (Isa isa : kIsas) {
      if (!isa_available(isa)) continue;
      const std::vector<float> y = multiply(weight, nullptr, x, 3, isa);
      for (size_t r = 0; r < 33; ++r) {
        EXPECT_TRUE(std::isfinite(y[r]));
        EXPECT_TRUE(std::isnan(y[33 + r])) << isa_name(isa);
        EXPECT_EQ(y[66 + r], y[r]);
      }
    }
  }
}

// 1 / scale would overflow: they count as zero, not as whatever that gives.
TEST(Strips, InputsBelowTheSmallestScaleAreZero) {
  const RandomTensor tensor(DType::kQ4_0, 16, 64, 2);
  ThreadPool pool(1);
  const WeightMatrix weight = make_weight(tensor.view, WeightStorage::kPacked, pool);
  for (float tiny : {1e-35f, 1e-37f, 1e-44f}) {
    for (Isa isa : kIsas) {
      if (!isa_available(isa)) continue;
      const std::vector<float> x(64, tiny);
      for (float y : multiply(weight, nullptr, x, 1, isa)) EXPECT_EQ(y, 0.0f) << isa_name(isa);
    }
  }
}

// What every instruction set must agree on, from the definition.
TEST(StripInputs, AreQuantizedAsDefined) {
  SplitMix64 rng(4);
  std::vector<float> x = random_floats(rng, 32 * 200);
  for (size_t i = 0; i < x.size(); i += 3) x[i] *= 1e3f;
  for (size_t i = 0; i < 32; ++i) x[i] = 0.0f;
  for (size_t i = 32; i < 64; ++i) x[i] = 2.0f;
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    std::vector<StripInput> inputs(200);
    strip_kernels(isa).quantize(x.data(), std::ssize(x), inputs.data());
    for (size_t b = 0; b < inputs.size(); ++b) {
      float max = 0;
      for (size_t c = 0; c < 32; ++c) max = std::max(max, std::abs(x[32 * b + c]));
      const float inverse = max > 0 ? 32639.0f / max : 0.0f;
      int32_t sums[2] = {};
      for (size_t c = 0; c < 32; ++c) {
        const auto code = static_cast<int32_t>(std::nearbyint(x[32 * b + c] * inverse));
        EXPECT_LE(std::abs(code), 32639);
        sums[c / 16] += code;
      }
      EXPECT_EQ(inputs[b].half_sums[0], sums[0]) << isa_name(isa) << " block " << b;
      EXPECT_EQ(inputs[b].half_sums[1], sums[1]) << isa_name(isa) << " block " << b;
      EXPECT_EQ(inputs[b].scale, max * (1.0f / 32639.0f)) << isa_name(isa) << " block " << b;
      EXPECT_EQ(inputs[b].sum, inputs[b].scale * static_cast<float>(sums[0] + sums[1]));
    }
  }
}

}  // namespace
}  // namespace lowkey
