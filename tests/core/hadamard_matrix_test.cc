#include "core/hadamard_matrix.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/rng.h"

namespace lowkey {
namespace {

TEST(HadamardMatrix, RowsAreOrthogonalForEveryOrderConstructed) {
  // Paley's first construction, over primes and over 27 and 343; his second, over 5, 9, 13, 17, 25.
  for (int64_t order : {1, 12, 20, 28, 36, 44, 52, 60, 76, 100, 140, 148, 344}) {
    SCOPED_TRACE(order);
    ASSERT_EQ(hadamard_order(order), order);
    const std::vector<int8_t> h = hadamard_matrix(order);
    const auto n = static_cast<size_t>(order);
    ASSERT_EQ(h.size(), n * n);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        int sum = 0;
        for (size_t k = 0; k < n; ++k) sum += h[i * n + k] * h[j * n + k];
        ASSERT_EQ(sum, i == j ? order : 0) << i << ", " << j;
      }
    }
  }
}

TEST(HadamardMatrix, OrderIsTheSmallestThatFits) {
  EXPECT_EQ(hadamard_order(1), 1);
  EXPECT_EQ(hadamard_order(4096), 1);
  EXPECT_EQ(hadamard_order(576), 36);  // SmolLM2-135M
  EXPECT_EQ(hadamard_order(1536), 12);
  EXPECT_EQ(hadamard_order(11008), 344);  // Llama-2-7B: 172 is no order of Paley's
  EXPECT_EQ(hadamard_order(14336), 28);
  EXPECT_EQ(hadamard_order(18944), 148);
  for (int64_t size : {-4, 0, 3, 6, 18, 36 + 2, 4 * 23, 24 * 1025}) {
    EXPECT_EQ(hadamard_order(size), std::nullopt) << size;
  }
}

TEST(HadamardRotation, IsTheKroneckerProductAndKeepsProducts) {
  for (int64_t size : {1, 2, 16, 12, 48, 72, 576}) {
    SCOPED_TRACE(size);
    const auto n = static_cast<size_t>(size);
    const HadamardRotation rotation(size, "size");
    const auto order = static_cast<size_t>(*hadamard_order(size));
    const std::vector<int8_t> h = hadamard_matrix(*hadamard_order(size));
    SplitMix64 rng(5);
    std::vector<double> a(n), b(n);
    for (size_t i = 0; i < n; ++i) {
      a[i] = rng.uniform() - 0.5;
      b[i] = rng.uniform() - 0.5;
    }
    double before = 0, after = 0;
    for (size_t i = 0; i < n; ++i) before += a[i] * b[i];
    const std::vector<double> x = a;
    rotation.turn(a);
    rotation.turn(b);
    const size_t power = n / order;
    for (size_t i = 0; i < n; ++i) {
      after += a[i] * b[i];
      double expected = 0;
      for (size_t j = 0; j < n; ++j) {
        // Sylvester's entry is the parity of the bits that both indices have.
        const int parity = __builtin_popcountll((i % power) & (j % power)) % 2;
        expected += h[i / power * order + j / power] * (parity ? -x[j] : x[j]);
      }
      ASSERT_NEAR(a[i], expected / std::sqrt(static_cast<double>(size)), 1e-12) << i;
    }
    EXPECT_NEAR(after, before, 1e-12);
  }
}

TEST(HadamardRotation, RefusesASizeThereIsNoMatrixFor) {
  try {
    const HadamardRotation rotation(92, "hidden size");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("hidden size of 92"), std::string::npos);
  }
}

}  // namespace
}  // namespace lowkey
