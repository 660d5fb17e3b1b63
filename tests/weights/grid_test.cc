#include "weights/grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/half.h"
#include "support/message_of.h"
#include "weights/weight_cases.h"

namespace lowkey {
namespace {

using test::decoded;
using test::message_of;
using test::WeightCase;
using ::testing::HasSubstr;

constexpr double kTolerance = 1e-3;

// NumPy's, in float64 and without blocks.
TEST(RoundToNearest, EqualsTheIndependentVersion) {
  ThreadPool pool(2);
  const std::vector<WeightCase> cases = test::weight_cases();
  ASSERT_EQ(cases.size(), 12u);
  for (const WeightCase& c : cases) {
    SCOPED_TRACE(c.grid.text());
    const BlockMatrix blocks = round_to_nearest(c.grid, c.weight.data(), c.rows, c.cols, pool);
    EXPECT_EQ(blocks.dtype, c.grid.dtype());
    EXPECT_THAT(decoded(blocks, pool),
                testing::Pointwise(testing::FloatNear(kTolerance), c.values("nearest")));
  }
}

// Every weight is within half a scale of what it becomes, and rounding again changes nothing.
TEST(RoundToNearest, ErrorIsHalfAScaleAndRoundingTwiceIsRoundingOnce) {
  ThreadPool pool(1);
  for (const WeightCase& c : test::weight_cases()) {
    SCOPED_TRACE(c.grid.text());
    const BlockMatrix blocks = round_to_nearest(c.grid, c.weight.data(), c.rows, c.cols, pool);
    const std::vector<float> once = decoded(blocks, pool);
    // f16 has 11 bits: of the scale, times the largest code, and of the minimum.
    const float scale =
        2.0f / static_cast<float>(c.grid.symmetric() ? 2 * c.grid.levels() : c.grid.levels());
    for (size_t i = 0; i < once.size(); ++i)
      ASSERT_NEAR(once[i], c.weight[i], scale / 2 + 2 * 0x1p-11f) << i;
    std::vector<GroupParams> params;
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t first = 0; first < c.cols; first += c.grid.group_size(c.cols)) {
        const int64_t count = std::min(c.grid.group_size(c.cols), c.cols - first);
        params.push_back(
            params_of(c.grid, {c.weight.data() + r * c.cols + first, static_cast<size_t>(count)}));
      }
    }
    const BlockMatrix again = round_to_nearest(c.grid, once.data(), c.rows, c.cols, pool, params);
    EXPECT_EQ(again.bytes, blocks.bytes);
  }
}

TEST(RoundToNearest, TakesClippedRanges) {
  ThreadPool pool(1);
  const WeightGrid grid{.bits = 4, .group = 32};
  std::vector<float> weights(32);
  for (int i = 0; i < 32; ++i) weights[static_cast<size_t>(i)] = static_cast<float>(i) - 16.0f;
  const std::vector<GroupParams> params{params_between(grid, -7.5f, 7.5f)};
  const std::vector<float> values =
      decoded(round_to_nearest(grid, weights.data(), 1, 32, pool, params), pool);
  EXPECT_EQ(values.front(), -7.5f);
  EXPECT_EQ(values.back(), 7.5f);
  EXPECT_EQ(values[16], 0.5f);  // 7.5 of 15 codes: to the even one
}

TEST(RoundToNearest, EqualWeightsStayWhatTheyAre) {
  ThreadPool pool(1);
  for (int32_t bits : {2, 3, 4, 8}) {
    const WeightGrid grid{.bits = bits, .group = 32};
    for (float value : {0.0f, 0.25f, -3.0f}) {
      const std::vector<float> weights(64, value);
      for (float out : decoded(round_to_nearest(grid, weights.data(), 1, 64, pool), pool))
        EXPECT_NEAR(out, value, std::fabs(value) * 0x1p-10f) << bits;
    }
  }
}

TEST(RoundToNearest, TakesParametersInFullWhereNoBlockHoldsThem) {
  ThreadPool pool(2);
  const WeightGrid grid{.bits = 3, .group = 32, .f32_params = true};
  std::vector<float> weights(64);
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = 0.01f * static_cast<float>(i * i % 97) - (i < 32 ? 0.3f : 0.1f);
  }
  const BlockMatrix matrix = round_to_nearest(grid, weights.data(), 1, 64, pool);
  EXPECT_EQ(matrix.dtype, DType::kF32);
  const std::vector<float> rounded = decoded(matrix, pool);
  for (size_t group = 0; group < 2; ++group) {
    const auto begin = weights.begin() + static_cast<std::ptrdiff_t>(group) * 32;
    const auto [least, most] = std::minmax_element(begin, begin + 32);
    const float scale = (*most - *least) / 7.0f;
    EXPECT_NE(half_to_float(float_to_half(scale)), scale) << "else this shows nothing";
    for (size_t i = group * 32; i < group * 32 + 32; ++i) {
      const float code = std::nearbyint((weights[i] - *least) / scale);
      EXPECT_EQ(rounded[i], scale * code + *least) << i;
    }
  }
}

TEST(WeightGrid, CountsGroupsWithAShortLastOne) {
  EXPECT_EQ((WeightGrid{4, 128}.num_groups(576)), 5);
  EXPECT_EQ((WeightGrid{4, 64}.num_groups(576)), 9);
  EXPECT_EQ((WeightGrid{4, WeightGrid::kRow}.num_groups(576)), 1);
  EXPECT_EQ((WeightGrid{3, 64}.text()), "W3g64");
  EXPECT_EQ((WeightGrid{8, 0}.text()), "W8");
  EXPECT_TRUE(grid_fits(576));
  EXPECT_FALSE(grid_fits(48));
}

TEST(WeightGrid, RefusesWhatItCannotHold) {
  EXPECT_THAT(message_of([] { check_grid({.bits = 5}); }), HasSubstr("2, 3, 4 or 8"));
  EXPECT_THAT(message_of([] { check_grid({.bits = 4, .group = 48}); }), HasSubstr("48"));
  EXPECT_THAT(message_of([] { check_grid({.bits = 4, .group = -32}); }), HasSubstr("-32"));
  const WeightGrid grid{.bits = 4, .group = 32};
  EXPECT_THAT(message_of([&] { params_between(grid, -1e6f, 1.0f); }), HasSubstr("f16"));
  const std::vector<float> weights{1.0f, std::numeric_limits<float>::quiet_NaN(), 2.0f};
  EXPECT_THAT(message_of([&] { params_of(grid, weights); }), HasSubstr("not a number"));
}

}  // namespace
}  // namespace lowkey
