#include "core/rng.h"

#include <gtest/gtest.h>

#include <vector>

namespace lowkey {
namespace {

// The reference implementation's numbers (Vigna's splitmix64.c, seed 1234567).
TEST(SplitMix64, ReferenceNumbers) {
  SplitMix64 rng(1234567);
  for (uint64_t expected : {6457827717110365317ull, 3203168211198807973ull, 9817491932198370423ull,
                            4593380528125082431ull, 16408922859458223821ull}) {
    EXPECT_EQ(rng.next(), expected);
  }
  EXPECT_EQ(SplitMix64(0).next(), 0xe220a8397b1dcdafull);
}

TEST(SplitMix64, UniformIsTheTop53Bits) {
  SplitMix64 a(5), b(5);
  double sum = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double u = a.uniform();
    ASSERT_EQ(u, static_cast<double>(b.next() >> 11) / 9007199254740992.0);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / 100'000, 0.5, 5 * 0.2887 / 316.2);  // five standard errors
}

TEST(SplitMix64, BelowStaysBelowAndReachesAll) {
  SplitMix64 rng(6);
  std::vector<int> counts(7);
  for (int i = 0; i < 70'000; ++i) ++counts.at(rng.below(7));
  for (int count : counts) EXPECT_NEAR(count, 10'000, 5 * 92.6);  // five standard deviations
  EXPECT_EQ(rng.below(1), 0u);
  for (int i = 0; i < 1000; ++i) EXPECT_LT(rng.below(UINT64_MAX), UINT64_MAX);
}

}  // namespace
}  // namespace lowkey
