#include "linear/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "linear/random_weights.h"

namespace lowkey {
namespace {

using test::random_floats;

constexpr double kUnit = 0x1p-24;  // half a unit in the last place, relative

TEST(RmsNorm, MatchesDoubleWithinRounding) {
  SplitMix64 rng(1);
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (int64_t cols : {1, 31, 32, 33, 77, 576, 4096}) {
      const std::vector<float> x = random_floats(rng, 3 * cols);
      const std::vector<float> weight = random_floats(rng, cols);
      std::vector<float> out(x.size());
      rms_norm(x.data(), weight.data(), 1e-5f, 3, cols, out.data(), isa);
      for (int64_t r = 0; r < 3; ++r) {
        double squares = 0;
        for (int64_t c = 0; c < cols; ++c)
          squares += std::pow(x[static_cast<size_t>(r * cols + c)], 2);
        const double factor = 1 / std::sqrt(squares / static_cast<double>(cols) + 1e-5f);
        for (int64_t c = 0; c < cols; ++c) {
          const auto i = static_cast<size_t>(r * cols + c);
          const double expected = x[i] * factor * weight[static_cast<size_t>(c)];
          // The sum of squares has no cancellation: its relative error is that of its longest chain
          // (32 lanes, tree, the ragged end), and the root halves it; then about five roundings.
          const double roundings = static_cast<double>(2 * (cols / 32) + 5 + 2 * 31) / 2 + 6;
          ASSERT_NEAR(out[i], expected, 1.01 * kUnit * roundings * std::abs(expected))
              << isa_name(isa) << " " << cols;
        }
      }
    }
  }
}

TEST(RmsNorm, InPlaceAndZeros) {
  std::vector<float> x(40, 0.0f), weight(40, 2.0f);
  rms_norm(x.data(), weight.data(), 1e-5f, 1, 40, x.data());
  for (float value : x) EXPECT_EQ(value, 0.0f);
  std::fill(x.begin(), x.end(), 3.0f);
  rms_norm(x.data(), weight.data(), 0.0f, 1, 40, x.data());
  for (float value : x) EXPECT_FLOAT_EQ(value, 2.0f);
}

TEST(SiluMul, MatchesDoubleWithinRounding) {
  std::vector<float> gate, up;
  for (float x = -120.0f; x <= 120.0f; x += 0.0137f) gate.push_back(x);
  for (float x : {0.0f, -0.0f, 1e-30f, -1e-30f, 1e30f, -1e30f}) gate.push_back(x);
  SplitMix64 rng(2);
  up = random_floats(rng, static_cast<int64_t>(gate.size()));
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    std::vector<float> out = gate;
    silu_mul(out.data(), up.data(), static_cast<int64_t>(out.size()), isa);
    for (size_t i = 0; i < gate.size(); ++i) {
      const double x = gate[i];
      const double expected = x / (1 + std::exp(-x)) * up[i];
      // exp: 2e-7 (row_kernels-inl.h); sum, quotient and two products: four roundings. Below -87
      // exp is taken as 0, where the true value is under 1e-36.
      ASSERT_NEAR(out[i], expected, (2e-7 + 4 * kUnit) * std::abs(expected) + 2e-36)
          << isa_name(isa) << " x = " << x;
    }
  }
}

TEST(SiluMul, KeepsNanAndInfinity) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    std::vector<float> gate{nan, 1.0f, infinity}, up{1.0f, nan, 1.0f};
    silu_mul(gate.data(), up.data(), 3, isa);
    EXPECT_TRUE(std::isnan(gate[0]));
    EXPECT_TRUE(std::isnan(gate[1]));
    EXPECT_EQ(gate[2], infinity);
  }
}

TEST(Add, AnyLength) {
  SplitMix64 rng(3);
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (int64_t count = 0; count < 70; ++count) {
      const std::vector<float> x = random_floats(rng, count + 1), y = random_floats(rng, count + 1);
      std::vector<float> out = x;
      add(out.data(), y.data(), count, isa);
      for (size_t i = 0; i < static_cast<size_t>(count); ++i) EXPECT_EQ(out[i], x[i] + y[i]);
      EXPECT_EQ(out.back(), x.back()) << "wrote beyond the end";
    }
  }
}

TEST(RotateHeads, TurnsPairsOfHalvesAndLeavesTheRest) {
  const int64_t heads = 3, head_dim = 22, half = 7;  // channels 14-21 are not rotated
  SplitMix64 rng(4);
  const std::vector<float> x = random_floats(rng, heads * head_dim);
  std::vector<float> cos(half), sin(half);
  for (int64_t c = 0; c < half; ++c) {
    cos[static_cast<size_t>(c)] = std::cos(0.3f * static_cast<float>(c));
    sin[static_cast<size_t>(c)] = std::sin(0.3f * static_cast<float>(c));
  }
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    std::vector<float> out = x;
    rotate_heads(out.data(), heads, head_dim, cos.data(), sin.data(), half, isa);
    for (int64_t h = 0; h < heads; ++h) {
      const float* in = x.data() + h * head_dim;
      const float* got = out.data() + h * head_dim;
      for (int64_t c = 0; c < half; ++c) {
        const double angle = 0.3f * static_cast<float>(c);
        const double tolerance = 4 * kUnit * (std::abs(in[c]) + std::abs(in[c + half]));
        EXPECT_NEAR(got[c], in[c] * std::cos(angle) - in[c + half] * std::sin(angle), tolerance);
        EXPECT_NEAR(got[c + half], in[c + half] * std::cos(angle) + in[c] * std::sin(angle),
                    tolerance);
      }
      for (int64_t c = 2 * half; c < head_dim; ++c) EXPECT_EQ(got[c], in[c]);
    }
  }
}

}  // namespace
}  // namespace lowkey
