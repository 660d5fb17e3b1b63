#include "tune/pareto.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/rng.h"

namespace lowkey::tune {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// On a coarse grid, so that equal costs, equal losses and equal points are common.
std::vector<CostLoss> random_points(SplitMix64& rng) {
  std::vector<CostLoss> points(rng.below(30));
  const uint64_t steps = 2 + rng.below(20);
  for (CostLoss& point : points) {
    point = {static_cast<double>(rng.below(steps)), static_cast<double>(rng.below(steps))};
  }
  return points;
}

TEST(Pareto, FrontIsWhatNothingDominates) {
  SplitMix64 rng(1);
  for (int round = 0; round < 2000; ++round) {
    const std::vector<CostLoss> points = random_points(rng);
    std::vector<size_t> expected;
    for (size_t i = 0; i < points.size(); ++i) {
      bool stays = true;
      for (size_t j = 0; j < points.size(); ++j) {
        if (dominates(points[j], points[i]) || (j < i && points[j] == points[i])) stays = false;
      }
      if (stays) expected.push_back(i);
    }
    std::sort(expected.begin(), expected.end(),
              [&](size_t a, size_t b) { return points[a].cost < points[b].cost; });
    ASSERT_EQ(pareto_front(points), expected) << "round " << round;
  }
}

TEST(Pareto, DominationNeedsOneToBeBetter) {
  EXPECT_TRUE(dominates({1, 1}, {1, 2}));
  EXPECT_TRUE(dominates({0, 1}, {1, 1}));
  EXPECT_FALSE(dominates({1, 1}, {1, 1}));
  EXPECT_FALSE(dominates({0, 2}, {1, 1}));
}

TEST(Pareto, EqualPointsLeaveTheFirst) {
  EXPECT_THAT(pareto_front(std::vector<CostLoss>{{2, 1}, {1, 2}, {1, 2}, {2, 1}, {2, 2}}),
              ElementsAre(1, 0));
  EXPECT_THAT(pareto_front({}), IsEmpty());
}

TEST(Pareto, HypervolumeCountsTheCellsThatAPointDominates) {
  SplitMix64 rng(2);
  for (int round = 0; round < 500; ++round) {
    const std::vector<CostLoss> points = random_points(rng);
    const CostLoss reference = {static_cast<double>(rng.below(20)),
                                static_cast<double>(rng.below(20))};
    // Points lie on whole numbers: the area is a number of unit cells.
    int cells = 0;
    for (int x = 0; x < reference.cost; ++x) {
      for (int y = 0; y < reference.loss; ++y) {
        cells += std::any_of(points.begin(), points.end(),
                             [&](const CostLoss& p) { return p.cost <= x && p.loss <= y; });
      }
    }
    ASSERT_EQ(hypervolume(points, reference), cells) << "round " << round;
  }
}

TEST(Pareto, HypervolumeByHand) {
  const std::vector<CostLoss> points = {{1, 4}, {2, 2}, {3, 3}, {4, 1}, {9, 0}};
  EXPECT_DOUBLE_EQ(hypervolume(points, {5, 5}), 4 * 1 + 3 * 2 + 1 * 1);
  EXPECT_EQ(hypervolume(points, {1, 5}), 0);
}

}  // namespace
}  // namespace lowkey::tune
