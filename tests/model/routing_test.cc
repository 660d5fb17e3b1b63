#include "model/routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "linear/random_weights.h"
#include "support/allocations.h"

namespace lowkey {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::IsEmpty;

TEST(Routing, RowsGoToTheirBestExperts) {
  // Probabilities 0.1, 0.2, 0.3, 0.4 in two orders.
  const auto log = [](double p) { return static_cast<float>(std::log(p)); };
  const std::vector<float> logits{log(.1), log(.2), log(.3), log(.4),
                                  log(.4), log(.3), log(.1), log(.2)};
  Routing routing;
  routing.assign(logits.data(), 2, 4, 2, /*normalize=*/false);
  EXPECT_THAT(routing.rows(0), ElementsAre(1));
  EXPECT_THAT(routing.rows(1), ElementsAre(1));
  EXPECT_THAT(routing.rows(2), ElementsAre(0));
  EXPECT_THAT(routing.rows(3), ElementsAre(0));
  EXPECT_THAT(routing.weights(3), ElementsAre(FloatNear(0.4f, 1e-6f)));
  EXPECT_THAT(routing.weights(1), ElementsAre(FloatNear(0.3f, 1e-6f)));
  routing.assign(logits.data(), 2, 4, 2, /*normalize=*/true);
  EXPECT_THAT(routing.weights(3), ElementsAre(FloatNear(4.0f / 7, 1e-6f)));
  EXPECT_THAT(routing.weights(2), ElementsAre(FloatNear(3.0f / 7, 1e-6f)));
}

TEST(Routing, OfEqualExpertsTheFirstAreChosen) {
  const std::vector<float> logits(3 * 5, 1.0f);
  Routing routing;
  routing.assign(logits.data(), 3, 5, 2, true);
  EXPECT_THAT(routing.rows(0), ElementsAre(0, 1, 2));
  EXPECT_THAT(routing.rows(1), ElementsAre(0, 1, 2));
  EXPECT_THAT(routing.rows(2), IsEmpty());
  EXPECT_THAT(routing.weights(0), ElementsAre(0.5f, 0.5f, 0.5f));
}

TEST(Routing, EveryRowIsPlacedOnceInEachOfItsExperts) {
  SplitMix64 rng(3);
  const std::vector<float> logits = test::random_floats(rng, 200 * 16);
  Routing routing;
  routing.assign(logits.data(), 200, 16, 4, true);
  std::vector<double> total(200);
  std::vector<int> times(200);
  for (int32_t e = 0; e < 16; ++e) {
    const auto rows = routing.rows(e);
    EXPECT_TRUE(std::is_sorted(rows.begin(), rows.end()));
    for (size_t i = 0; i < rows.size(); ++i) {
      ++times[static_cast<size_t>(rows[i])];
      total[static_cast<size_t>(rows[i])] += routing.weights(e)[i];
      // Nobody left out has a larger logit than the smallest chosen; here: at most 3 are larger.
      int larger = 0;
      for (int32_t other = 0; other < 16; ++other) {
        larger += logits[static_cast<size_t>(rows[i] * 16 + other)] >
                  logits[static_cast<size_t>(rows[i] * 16 + e)];
      }
      EXPECT_LT(larger, 4);
    }
  }
  for (size_t row = 0; row < 200; ++row) {
    EXPECT_EQ(times[row], 4);
    EXPECT_NEAR(total[row], 1.0, 1e-6);
  }
}

TEST(Routing, HugeLogitsAndNan) {
  const std::vector<float> logits{1e30f, -1e30f, 3.0f, NAN, 5.0f, 6.0f};
  Routing routing;
  routing.assign(logits.data(), 2, 3, 1, false);
  EXPECT_THAT(routing.rows(0), ElementsAre(0));
  EXPECT_THAT(routing.weights(0), ElementsAre(1.0f));
  EXPECT_THAT(routing.rows(2), ElementsAre(1));
}

TEST(Routing, ReusedItAllocatesNothing) {
  SplitMix64 rng(4);
  const std::vector<float> logits = test::random_floats(rng, 16 * 8);
  Routing routing;
  routing.assign(logits.data(), 16, 8, 2, true);
  const test::AllocationCount count;
  routing.assign(logits.data(), 16, 8, 2, true);
  routing.assign(logits.data(), 3, 8, 2, true);
  EXPECT_EQ(count.since(), 0);
}

}  // namespace
}  // namespace lowkey
