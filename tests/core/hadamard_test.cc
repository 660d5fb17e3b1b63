#include "core/hadamard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "core/rng.h"

namespace lowkey {
namespace {

std::vector<float> random_floats(size_t n, uint64_t seed) {
  SplitMix64 rng(seed);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(2 * rng.uniform() - 1);
  return x;
}

TEST(Hadamard, IsTheMatrixOfSigns) {
  for (const size_t n : {1, 2, 4, 64, 128}) {
    const std::vector<float> x = random_floats(n, n);
    std::vector<float> y = x;
    hadamard(y);
    for (size_t i = 0; i < n; ++i) {
      double sum = 0;
      for (size_t j = 0; j < n; ++j) sum += std::popcount(i & j) % 2 == 0 ? x[j] : -x[j];
      EXPECT_NEAR(y[i], sum / std::sqrt(static_cast<double>(n)), 1e-5) << n << ' ' << i;
    }
  }
}

TEST(Hadamard, UndoesItself) {
  const std::vector<float> x = random_floats(256, 7);
  std::vector<float> y = x;
  hadamard(y);
  EXPECT_GT(std::abs(y[0] - x[0]), 1e-3f);
  hadamard(y);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], 1e-5);
}

TEST(HadamardDeathTest, OtherSizesAreBugs) {
  std::vector<float> x(48);
  EXPECT_DEATH(hadamard(x), "48 numbers");
}

}  // namespace
}  // namespace lowkey
