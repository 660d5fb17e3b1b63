#include "weights/omniquant.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/half.h"
#include "core/rng.h"
#include "model/model_support.h"
#include "weights/running.h"

namespace lowkey {
namespace {

using test::LoadedModel;
using test::logits_with;
using test::root_mean_square;
using test::some_tokens;

at::Tensor random(at::IntArrayRef shape, uint64_t seed, double spread = 1.0) {
  SplitMix64 rng(seed);
  at::Tensor t = at::empty(shape, at::kFloat);
  for (int64_t i = 0; i < t.numel(); ++i) {
    t.data_ptr<float>()[i] = static_cast<float>(spread * (2 * rng.uniform() - 1));
  }
  return t;
}

// Two groups, the second shorter.
constexpr int64_t kRows = 5, kCols = 96;
constexpr int32_t kGroup = 64;

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

struct Range {
  double least, most;
};

Range range_of(const at::Tensor& w, const at::Tensor& upper, const at::Tensor& lower, int64_t r,
               int64_t g) {
  const float* row = w.const_data_ptr<float>() + r * kCols;
  const auto [least, most] =
      std::minmax_element(row + g * kGroup, row + std::min<int64_t>((g + 1) * kGroup, kCols));
  return {*least * sigmoid(lower[r][g].item<double>()),
          *most * sigmoid(upper[r][g].item<double>())};
}

TEST(LearnedRounding, GivesTheNumbersThatBlocksHold) {
  ThreadPool pool(2);
  const at::Tensor w = random({kRows, kCols}, 1);
  const at::Tensor upper = random({kRows, 2}, 2, 3), lower = random({kRows, 2}, 3, 3);
  for (int32_t bits : {2, 3, 4, 8}) {
    SCOPED_TRACE(bits);
    const WeightGrid grid{.bits = bits, .group = kGroup};
    const at::Tensor rounded = learned_rounding(grid, w, upper, lower).contiguous();
    std::vector<GroupParams> params;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t g = 0; g < 2; ++g) {
        const Range range = range_of(w, upper, lower, r, g);
        params.push_back(
            params_between(grid, static_cast<float>(range.least), static_cast<float>(range.most)));
      }
    }
    const BlockMatrix blocks =
        round_to_nearest(grid, w.const_data_ptr<float>(), kRows, kCols, pool, params);
    std::vector<float> decoded(static_cast<size_t>(kRows * kCols));
    decode_blocks(blocks, decoded.data(), pool);
    for (size_t i = 0; i < decoded.size(); ++i) {
      ASSERT_NEAR(rounded.const_data_ptr<float>()[i], decoded[i], 1e-6) << i;
    }
  }
}

// The function whose gradient "straight through" means: every rounding is an addition of what it
// added at the point of interest, and what is clipped stays clipped. In double precision, element
// by element.
class Surrogate {
 public:
  Surrogate(const WeightGrid& grid, const at::Tensor& w, const at::Tensor& upper,
            const at::Tensor& lower)
      : grid_(grid) {
    evaluate(w, upper, lower, &offsets_);
  }

  double sum(const at::Tensor& w, const at::Tensor& upper, const at::Tensor& lower,
             const at::Tensor& probe) const {
    const std::vector<double> values = evaluate(w, upper, lower, nullptr);
    double total = 0;
    for (size_t i = 0; i < values.size(); ++i) total += values[i] * probe.data_ptr<float>()[i];
    return total;
  }

 private:
  static double half_of(double x) { return half_to_float(float_to_half(static_cast<float>(x))); }

  std::vector<double> evaluate(const at::Tensor& w, const at::Tensor& upper,
                               const at::Tensor& lower, std::vector<double>* record) const {
    std::vector<double> out;
    size_t next = 0;
    const auto rounded = [&](double x, auto round) {
      if (record != nullptr) {
        record->push_back(round(x) - x);
        return x + record->back();
      }
      return x + offsets_[next++];
    };
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t g = 0; g < 2; ++g) {
        const Range range = range_of(w, upper, lower, r, g);
        const double scale = rounded((range.most - range.least) / grid_.levels(), half_of);
        const double minimum = rounded(range.least, half_of);
        for (int64_t c = g * kGroup; c < std::min<int64_t>((g + 1) * kGroup, kCols); ++c) {
          const double exact = (w.const_data_ptr<float>()[r * kCols + c] - minimum) / scale;
          const double code = rounded(exact, [](double x) { return std::nearbyint(x); });
          // A code at the end of the range is not clipped: moved beyond it, it would be.
          if (code > -0.5 && code < grid_.levels() + 0.5) {
            out.push_back(code * scale + minimum);
            continue;
          }
          out.push_back(std::clamp(code, 0.0, double(grid_.levels())) * scale + minimum);
        }
      }
    }
    return out;
  }

  WeightGrid grid_;
  std::vector<double> offsets_;
};

TEST(LearnedRounding, GradientsAreThoseOfTheSmoothSurrogate) {
  const WeightGrid grid{.bits = 3, .group = kGroup};
  const at::Tensor w = random({kRows, kCols}, 1);
  // Strong clipping: many weights lie outside.
  const at::Tensor upper = random({kRows, 2}, 2, 1), lower = random({kRows, 2}, 3, 1);
  const at::Tensor probe = random({kRows, kCols}, 4);
  const Surrogate surrogate(grid, w, upper, lower);
  at::Tensor leaves[] = {w.clone(), upper.clone(), lower.clone()};
  for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
  const at::Tensor rounded = learned_rounding(grid, leaves[0], leaves[1], leaves[2]);
  (rounded * probe).sum().backward();
  for (int which : {0, 1, 2}) {
    SCOPED_TRACE(which);
    for (uint64_t seed : {11, 12, 13}) {
      const at::Tensor direction = random(leaves[which].sizes(), seed);
      const double slope = (leaves[which].grad() * direction).sum().item<double>();
      constexpr double kStep = 1e-4;
      const auto value = [&](double sign) {
        at::Tensor moved[] = {w, upper, lower};
        moved[which] = moved[which] + sign * kStep * direction;
        return surrogate.sum(moved[0], moved[1], moved[2], probe);
      };
      const double difference = (value(1) - value(-1)) / (2 * kStep);
      EXPECT_NEAR(slope, difference, 1e-2 * (1 + std::abs(difference)));
    }
  }
}

class Omniquant : public ::testing::Test {
 protected:
  Omniquant() : model_(loaded_.file(), loaded_.pool(), {}) {
    // Weights with tails, as trained ones have them: there is something to clip.
    for (const std::string& name : linear_names(model_.config)) {
      for (float& w : model_.edit(name).values) w *= 40 * w * w;
    }
    options_.method = "omniquant";
    options_.grid = {.bits = 3, .group = 32};
    options_.epochs = 15;
    options_.learning_rate = 5e-2;
    for (uint64_t seed : {2, 3, 4, 5}) {
      options_.samples.push_back(some_tokens(24, model_.config.vocab_size, seed));
    }
  }

  LoadedModel loaded_{test::TinyModelOptions{.attention_bias = true}};
  FloatModel model_;
  QuantizeOptions options_;
};

TEST_F(Omniquant, IsNeverWorseThanNearestAndMostlyBetter) {
  for (int32_t bits : {2, 3, 4}) {
    SCOPED_TRACE(bits);
    FloatModel model = model_;
    options_.grid.bits = bits;
    Quantization quantization{options_, model, loaded_.pool(), {}};
    const std::vector<LayerLoss> losses = train_omniquant(quantization);
    ASSERT_EQ(std::ssize(losses), model.config.num_layers);
    double ratio = 0;
    for (const LayerLoss& loss : losses) {
      EXPECT_GT(loss.nearest, 0);
      EXPECT_LE(loss.trained, loss.nearest);
      ratio += loss.trained / loss.nearest / model.config.num_layers;
    }
    EXPECT_LT(ratio, bits < 4 ? 0.9 : 0.97);
    EXPECT_EQ(quantization.blocks.size(), linear_names(model.config).size());
  }
}

// What was measured while training is what the folded model with its blocks computes.
TEST_F(Omniquant, TheModelLeftBehindComputesWhatWasTrained) {
  const auto& tokens = options_.samples.front();
  options_.samples = {tokens};
  const std::vector<float> exact = logits_with(model_, tokens, loaded_.pool());
  FloatModel nearest = model_, trained = model_;
  Quantization plain{options_, nearest, loaded_.pool(), {}};
  round_weights(plain);
  Quantization quantization{options_, trained, loaded_.pool(), {}};
  train_omniquant(quantization);
  // The scales alone change nothing.
  EXPECT_LE(test::largest_difference(logits_with(trained, tokens, loaded_.pool()), exact), 1e-4);
  EXPECT_LT(root_mean_square(test::logits_of_blocks(quantization, tokens), exact),
            0.95 * root_mean_square(test::logits_of_blocks(plain, tokens), exact));
}

TEST_F(Omniquant, LearnsWithRoundedActivationsToo) {
  options_.grid.bits = 4;
  options_.activation_bits = 4;
  Quantization quantization{options_, model_, loaded_.pool(), {}};
  for (const LayerLoss& loss : train_omniquant(quantization)) {
    EXPECT_LE(loss.trained, loss.nearest);
  }
  EXPECT_EQ(model_.config.activation_bits, 4);
}

TEST_F(Omniquant, ThreadsDoNotDecide) {
  options_.epochs = 2;
  const auto blocks_with = [&](int threads) {
    ThreadPool pool(threads);
    FloatModel model = model_;
    Quantization quantization{options_, model, pool, {}};
    train_omniquant(quantization);
    return quantization.blocks.at("layers.1.down.weight").bytes;
  };
  EXPECT_EQ(blocks_with(1), blocks_with(3));
}

TEST_F(Omniquant, SaysWhatItCannotDo) {
  const auto refusal = [&] {
    Quantization quantization{options_, model_, loaded_.pool(), {}};
    try {
      train_omniquant(quantization);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return std::string(error.what());
    }
    return std::string();
  };
  options_.epochs = 0;
  EXPECT_THAT(refusal(), ::testing::HasSubstr("0 epochs"));
  options_.samples.clear();
  EXPECT_THAT(refusal(), ::testing::HasSubstr("--text"));
}

}  // namespace
}  // namespace lowkey
