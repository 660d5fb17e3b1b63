#include "quant/affine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/rng.h"

namespace lowkey {
namespace {

float as_half(double x) {
  return half_to_float(float_to_half(static_cast<float>(x)));
}

// The worst an element may be off: half a step, plus what rounding the step to f16 does at the far
// end of the group.
double bound(AffineParams params, int bits) {
  const double scale = half_to_float(params.scale);
  const double levels = (1 << bits) - 1;
  return scale / 2 + levels * std::max(scale * 0x1p-11, 0x1p-25) * 1.001;
}

TEST(Affine, ErrorIsAtMostHalfAStepPlusRounding) {
  SplitMix64 rng(1);
  for (int bits : {2, 3, 4, 8}) {
    for (int round = 0; round < 2000; ++round) {
      const double spread = std::exp2(rng.uniform() * 24 - 16);
      const double offset = (rng.uniform() - 0.5) * spread * 8;
      std::vector<float> x(32);
      for (float& value : x) value = as_half(offset + (rng.uniform() - 0.5) * spread);
      const AffineParams params = affine_params(x.data(), 32, 1, bits);
      for (float value : x) {
        const float restored = affine_decode(affine_code(value, params, bits), params);
        ASSERT_LE(std::abs(restored - value), bound(params, bits)) << bits << " bits";
      }
    }
  }
}

TEST(Affine, ExtremesOfTheGroupGetTheExtremeCodes) {
  const std::vector<float> x = {-1.0f, 0.25f, 3.0f, 2.0f};
  const AffineParams params = affine_params(x.data(), 4, 1, 2);
  EXPECT_EQ(half_to_float(params.zero_point), -1.0f);
  EXPECT_EQ(half_to_float(params.scale), as_half(4.0 / 3.0));
  EXPECT_EQ(affine_code(-1.0f, params, 2), 0);
  EXPECT_EQ(affine_code(3.0f, params, 2), 3);
  EXPECT_EQ(affine_code(0.25f, params, 2), 1);
}

TEST(Affine, TiesRoundToEven) {
  const std::vector<float> x = {0.0f, 3.0f};
  const AffineParams params = affine_params(x.data(), 2, 1, 2);  // scale 1
  EXPECT_EQ(affine_code(0.5f, params, 2), 0);
  EXPECT_EQ(affine_code(1.5f, params, 2), 2);
  EXPECT_EQ(affine_code(2.5f, params, 2), 2);
}

TEST(Affine, ConstantGroupsComeBackExactly) {
  for (float value : {0.0f, -0.0f, 1.0f, -65504.0f, 65504.0f, as_half(1e-7)}) {
    const std::vector<float> x(32, value);
    for (int bits : {2, 3, 4, 8}) {
      const AffineParams params = affine_params(x.data(), 32, 1, bits);
      EXPECT_EQ(affine_code(value, params, bits), 0);
      EXPECT_EQ(affine_decode(0, params), value);
    }
  }
}

// The step of a tiny group rounds to a subnormal or to zero: codes stay in range, values stay
// finite and near.
TEST(Affine, SubnormalRangesAreDefined) {
  for (double top : {0x1p-24, 0x1p-23, 0x1p-22, 0x1p-20, 0x1p-15}) {
    const std::vector<float> x = {0.0f, as_half(top), as_half(top / 2)};
    for (int bits : {2, 3, 4, 8}) {
      const AffineParams params = affine_params(x.data(), 3, 1, bits);
      for (float value : x) {
        const uint8_t code = affine_code(value, params, bits);
        ASSERT_LT(code, 1 << bits);
        // Where the step vanished, everything becomes the minimum: off by the range, which is below
        // the f16 grid times the number of levels.
        ASSERT_LE(std::abs(affine_decode(code, params) - value),
                  bound(params, bits) + 0x1p-24 * ((1 << bits) - 1));
      }
    }
  }
}

TEST(Affine, WidestRangeDoesNotOverflow) {
  const std::vector<float> x = {-65504.0f, 65504.0f, 0.0f};
  for (int bits : {2, 3, 4, 8}) {
    const AffineParams params = affine_params(x.data(), 3, 1, bits);
    ASSERT_TRUE(std::isfinite(half_to_float(params.scale)));
    ASSERT_TRUE(std::isfinite(affine_decode(affine_code(65504.0f, params, bits), params)));
  }
}

TEST(Affine, StrideWalksColumns) {
  const std::vector<float> x = {1, 100, 2, 200, 3, 300};
  EXPECT_EQ(half_to_float(affine_params(x.data() + 1, 3, 2, 2).zero_point), 100.0f);
}

}  // namespace
}  // namespace lowkey
