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

TEST(LayerNorm, MatchesDoubleWithinRounding) {
  SplitMix64 rng(5);
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (int64_t cols : {2, 31, 32, 33, 77, 768, 4544}) {
      for (float offset : {0.0f, 30.0f}) {  // a mean that a one-pass variance would cancel against
        std::vector<float> x = random_floats(rng, 2 * cols);
        for (float& value : x) value += offset;
        const std::vector<float> weight = random_floats(rng, cols), bias = random_floats(rng, cols);
        std::vector<float> out(x.size()), unbiased(x.size());
        layer_norm(x.data(), weight.data(), bias.data(), 1e-5f, 2, cols, out.data(), isa);
        layer_norm(x.data(), weight.data(), nullptr, 1e-5f, 2, cols, unbiased.data(), isa);
        for (int64_t r = 0; r < 2; ++r) {
          const float* row = x.data() + r * cols;
          double mean = 0, variance = 0;
          for (int64_t c = 0; c < cols; ++c) mean += row[c] / static_cast<double>(cols);
          for (int64_t c = 0; c < cols; ++c) {
            variance += std::pow(row[c] - mean, 2) / static_cast<double>(cols);
          }
          const double factor = 1 / std::sqrt(variance + 1e-5f);
          // The mean is off by the roundings of its chain of sums, relative to the offset; that
          // shifts all values alike. What follows rounds as RmsNorm's does.
          const double chain = static_cast<double>(cols / 32) + 5 + 31;
          const double shift = 1.01 * kUnit * (chain + 2) * (offset + 1) * factor;
          for (int64_t c = 0; c < cols; ++c) {
            const auto i = static_cast<size_t>(r * cols + c);
            const double w = weight[static_cast<size_t>(c)], b = bias[static_cast<size_t>(c)];
            const double normed = (row[c] - mean) * factor * w;
            const double tolerance =
                shift * std::abs(w) + 1.01 * kUnit * (chain + 8) * std::abs(normed);
            ASSERT_NEAR(unbiased[i], normed, tolerance) << isa_name(isa) << " " << cols;
            ASSERT_NEAR(out[i], normed + b, tolerance + kUnit * std::abs(normed + b))
                << isa_name(isa) << " " << cols;
          }
        }
      }
    }
  }
}

TEST(LayerNorm, InPlaceAndConstantRows) {
  std::vector<float> x(40, 3.0f), weight(40, 2.0f), bias(40, 0.5f);
  layer_norm(x.data(), weight.data(), bias.data(), 1e-5f, 1, 40, x.data());
  for (float value : x) EXPECT_EQ(value, 0.5f);
}

struct CurveCase {
  const char* name;
  Curve curve;
  double (*exact)(double);
  // Relative error: that of exp (2e-7) and of a fixed number of roundings, and of the exponent's
  // own rounding, which exp turns into a relative error of its size times half a unit.
  double roundings;
  double (*exponent)(double);
};

const CurveCase kCurves[] = {
    {"silu", Curve::kSilu, [](double x) { return x / (1 + std::exp(-x)); }, 4,
     [](double) { return 0.0; }},
    {"gelu", Curve::kGelu, [](double x) { return 0.5 * x * std::erfc(-x * std::sqrt(0.5)); }, 12,
     [](double x) { return x < 0 ? x * x : 0.0; }},
    {"gelu_tanh", Curve::kGeluTanh,
     [](double x) {
       const double u = std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
       return x / (1 + std::exp(-2 * u));
     },
     6, [](double x) { return x < 0 ? 6 * std::abs(x + 0.044715 * x * x * x) : 0.0; }},
    {"relu", Curve::kRelu, [](double x) { return x > 0 ? x : 0.0; }, 0, [](double) { return 0.0; }},
};

TEST(Activations, MatchDoubleWithinRounding) {
  std::vector<float> x;
  for (float value = -120.0f; value <= 120.0f; value += 0.0137f) x.push_back(value);
  for (float value = -6.0f; value <= 6.0f; value += 0.00061f) x.push_back(value);
  for (float value : {0.0f, -0.0f, 1e-30f, -1e-30f, 1e30f, -1e30f}) x.push_back(value);
  SplitMix64 rng(2);
  const std::vector<float> y = random_floats(rng, static_cast<int64_t>(x.size()));
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (const CurveCase& c : kCurves) {
      std::vector<float> alone = x, gated = x;
      activate(c.curve, alone.data(), static_cast<int64_t>(x.size()), isa);
      gate(c.curve, gated.data(), y.data(), static_cast<int64_t>(x.size()), isa);
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = c.exact(x[i]);
        // Below -87 exp is taken as 0, where the true value is under 1e-36.
        const double relative = 2e-7 + kUnit * (c.roundings + c.exponent(x[i]));
        const double tolerance = relative * std::abs(expected) + 2e-36;
        ASSERT_NEAR(alone[i], expected, tolerance) << isa_name(isa) << " " << c.name << " " << x[i];
        ASSERT_NEAR(gated[i], expected * y[i], tolerance + kUnit * std::abs(expected))
            << isa_name(isa) << " " << c.name << " " << x[i];
      }
    }
  }
}

TEST(Activations, KeepNanAndInfinity) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (const CurveCase& c : kCurves) {
      std::vector<float> x{nan, 1.0f, infinity}, y{1.0f, nan, 1.0f}, alone{nan, infinity};
      gate(c.curve, x.data(), y.data(), 3, isa);
      activate(c.curve, alone.data(), 2, isa);
      EXPECT_TRUE(std::isnan(x[0])) << c.name;
      EXPECT_TRUE(std::isnan(x[1])) << c.name;
      EXPECT_EQ(x[2], infinity) << c.name;
      EXPECT_TRUE(std::isnan(alone[0])) << c.name;
      EXPECT_EQ(alone[1], infinity) << c.name;
    }
  }
}

TEST(Softcap, MatchesDoubleWithinRounding) {
  std::vector<float> x;
  for (float value = -300.0f; value <= 300.0f; value += 0.0173f) x.push_back(value);
  for (float value : {0.0f, -0.0f, 1e-20f, -1e-20f, 1e30f, -1e30f}) x.push_back(value);
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (float cap : {0.5f, 30.0f, 50.0f}) {
      std::vector<float> out = x;
      softcap(out.data(), static_cast<int64_t>(x.size()), cap, isa);
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = cap * std::tanh(double{x[i]} / cap);
        // Beyond 0.625, 1 - exp(-2a) more than halves neither exp's error nor its argument's.
        ASSERT_NEAR(out[i], expected, (4e-7 + 6 * kUnit) * std::abs(expected))
            << isa_name(isa) << " " << cap << " " << x[i];
      }
    }
    std::vector<float> bad{std::numeric_limits<float>::quiet_NaN(),
                           std::numeric_limits<float>::infinity()};
    softcap(bad.data(), 2, 30.0f, isa);
    EXPECT_TRUE(std::isnan(bad[0]));
    EXPECT_EQ(bad[1], 30.0f);
  }
}

TEST(ScaleAndAddScaled, AnyLength) {
  SplitMix64 rng(6);
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    for (int64_t count = 0; count < 70; ++count) {
      const std::vector<float> x = random_floats(rng, count + 1), y = random_floats(rng, count + 1);
      std::vector<float> scaled = x, sum = x;
      scale(scaled.data(), 0.3f, count, isa);
      add_scaled(sum.data(), y.data(), 0.3f, count, isa);
      for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
        EXPECT_EQ(scaled[i], x[i] * 0.3f);
        const double exact = double{x[i]} + double{y[i]} * double{0.3f};
        EXPECT_NEAR(sum[i], exact, kUnit * (std::abs(exact) + std::abs(y[i])));
      }
      EXPECT_EQ(scaled.back(), x.back()) << "wrote beyond the end";
      EXPECT_EQ(sum.back(), x.back()) << "wrote beyond the end";
    }
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
