// Rounded activations and rotations: what simulated models compute, against plain loops and against
// the models they must equal.
#include "model/simulation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/hadamard_matrix.h"
#include "core/rng.h"
#include "model/kv_shape.h"
#include "model/model_support.h"
#include "model/random_model.h"
#include "model/simulated_ops.h"
#include "recipe/recipe.h"

namespace lowkey {
namespace {

using test::largest_difference;
using test::RandomModel;
using test::small_config;
using test::some_tokens;

at::Tensor random_rows(int64_t rows, int64_t cols, uint64_t seed = 3) {
  SplitMix64 rng(seed);
  at::Tensor x = at::empty({rows, cols}, at::kFloat);
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data_ptr<float>()[i] = static_cast<float>(4 * rng.uniform() - 1);
  }
  return x;
}

// As the header of simulated_ops.h says it, number by number.
std::vector<float> rounded_by_hand(const at::Tensor& x, int bits, bool symmetric, float clip) {
  std::vector<float> out;
  const int64_t cols = x.size(1);
  for (int64_t r = 0; r < x.size(0); ++r) {
    const float* row = x.const_data_ptr<float>() + r * cols;
    const float lowest = *std::min_element(row, row + cols);
    const float largest = *std::max_element(row, row + cols);
    const auto steps = static_cast<float>((1 << bits) - 1);
    const auto half = static_cast<float>((1 << (bits - 1)) - 1);
    const float minimum = symmetric ? 0 : lowest * clip;
    const float scale = symmetric ? std::max(std::abs(lowest), std::abs(largest)) * clip / half
                                  : (largest * clip - minimum) / steps;
    for (int64_t c = 0; c < cols; ++c) {
      const float code = scale > 0 ? std::nearbyint((row[c] - minimum) / scale) : 0;
      const float clamped =
          symmetric ? std::clamp(code, -half - 1, half) : std::clamp(code, 0.0f, steps);
      out.push_back(clamped * scale + minimum);
    }
  }
  return out;
}

TEST(Simulation, RoundsEachRowAsAPlainLoopDoes) {
  at::Tensor x = random_rows(7, 50);
  x[2].zero_();
  x[3].fill_(-2.5f);
  x[4][7] = 1000.0f;  // an outlier, for the clip
  ModelConfig config = small_config();
  for (int bits : {2, 3, 4, 8}) {
    for (bool symmetric : {true, false}) {
      for (double clip : {1.0, 0.9}) {
        SCOPED_TRACE(fmt::format("{} bits, symmetric {}, clip {}", bits, symmetric, clip));
        config.activation_bits = bits;
        config.activation_symmetric = symmetric;
        config.activation_clip = clip;
        const at::Tensor y = rounded_activations(config, x);
        const std::vector<float> expected =
            rounded_by_hand(x, bits, symmetric, static_cast<float>(clip));
        ASSERT_EQ(y.numel(), std::ssize(expected));
        for (size_t i = 0; i < expected.size(); ++i) {
          ASSERT_FLOAT_EQ(y.const_data_ptr<float>()[i], expected[i]) << i;
        }
      }
    }
  }
}

TEST(Simulation, SixteenBitsAreLeftAlone) {
  const at::Tensor x = random_rows(3, 8);
  EXPECT_TRUE(rounded_activations(small_config(), x).is_same(x));
}

TEST(Simulation, GradientsPassStraightThroughWhereNothingIsClipped) {
  ModelConfig config = small_config();
  config.activation_bits = 4;
  config.activation_clip = 0.5;
  const at::Tensor plain = random_rows(4, 16);
  const at::Tensor expected = rounded_activations(config, plain);
  const at::Tensor x = plain.clone().requires_grad_(true);
  const at::Tensor y = rounded_activations(config, x);
  EXPECT_TRUE(at::equal(y, expected)) << "training must start at the very values of inference";
  const at::Tensor weights = random_rows(4, 16, 9);
  (y * weights).sum().backward();
  const at::Tensor scale = plain.abs().amax(1, true) * 0.5 / 7;
  const at::Tensor codes = at::round(plain / scale);
  const at::Tensor inside = at::logical_and(codes >= -8, codes <= 7).to(at::kFloat);
  EXPECT_GT((1 - inside).sum().item<float>(), 0);
  EXPECT_TRUE(at::equal(x.grad(), weights * inside));
}

TEST(Simulation, TurnsPartsAsTheRotationOfWeightsDoes) {
  ModelConfig config = small_config();
  config.hadamard_qk = config.hadamard_down = true;
  config.head_dim = 128;           // two factors of Sylvester's
  config.intermediate_size = 576;  // 36 * 16
  const Rotations rotations(config);
  for (const auto& [size, parts] : {std::pair<int64_t, int64_t>{128, 3}, {576, 1}}) {
    const at::Tensor x = random_rows(5, size * parts);
    const at::Tensor y = rotations.turned(x, parts);
    const HadamardRotation rotation(size, "size");
    for (int64_t part = 0; part < 5 * parts; ++part) {
      const float* from = x.const_data_ptr<float>() + part * size;
      std::vector<double> expected(from, from + size);
      rotation.turn(expected);
      for (int64_t i = 0; i < size; ++i) {
        ASSERT_NEAR(y.const_data_ptr<float>()[part * size + i], expected[static_cast<size_t>(i)],
                    1e-5);
      }
    }
  }
}

TEST(Simulation, SaysWhatIsSimulated) {
  ModelConfig config = small_config();
  EXPECT_FALSE(is_simulated(config));
  EXPECT_EQ(simulation_text(config), "");
  config.hadamard_v = true;  // lies in the weights alone
  EXPECT_FALSE(is_simulated(config));
  config.activation_bits = 4;
  EXPECT_TRUE(is_simulated(config));
  EXPECT_EQ(simulation_text(config),
            "activations rounded to 4 bits per token (simulated in floats)");
  config.hadamard_qk = true;
  EXPECT_NE(simulation_text(config).find(", Hadamard rotations ("), std::string::npos);
}

TEST(Simulation, RefusesASizeThatCannotBeRotated) {
  ModelConfig config = small_config();
  config.hadamard_down = true;
  config.intermediate_size = 92;
  const RandomModel source(config);
  ThreadPool pool(1);
  EXPECT_THROW(Model(source.weights(WeightStorage::kF32, pool), pool), Error);
}

// A model in memory, its logits of one prompt in pieces.
class Simulated {
 public:
  explicit Simulated(ModelWeights weights, ThreadPool& pool) : model_(std::move(weights), pool) {}

  std::vector<float> logits(const std::vector<int32_t>& tokens, int64_t chunk,
                            const std::string& recipe = "32") {
    KvCache cache(resolve_recipe(parse_recipe(recipe), kv_shape(model_.config())));
    KvSequence sequence = cache.new_sequence();
    return test::logits_of(model_, test::run(model_, sequence, tokens, chunk));
  }

 private:
  Model model_;
};

class SimulatedModel : public ::testing::Test {
 protected:
  SimulatedModel() {
    config_ = small_config();
    config_.head_dim = config_.rope.dim = 32;
    config_.intermediate_size = 96;  // 12 * 8
    tokens_ = some_tokens(60, config_.vocab_size);
  }

  std::vector<float> logits(const ModelConfig& config, int64_t chunk,
                            const std::string& recipe = "32") {
    const RandomModel source(config_);
    ModelWeights weights = source.weights(WeightStorage::kF32, pool_);
    weights.config = config;
    return Simulated(std::move(weights), pool_).logits(tokens_, chunk, recipe);
  }

  ThreadPool pool_{2};
  ModelConfig config_;
  std::vector<int32_t> tokens_;
};

TEST_F(SimulatedModel, RotatedQueriesAndKeysGiveTheSameScores) {
  ModelConfig turned = config_;
  turned.hadamard_qk = true;
  const std::vector<float> plain = logits(config_, 60);
  EXPECT_LE(largest_difference(logits(turned, 60), plain), 1e-3);
  EXPECT_LE(largest_difference(logits(turned, 7), plain), 1e-3) << "decode rotates likewise";
  // On a packed cache it is other keys that are rounded.
  EXPECT_GT(largest_difference(logits(turned, 60, "2"), logits(config_, 60, "2")), 1e-2);
}

TEST_F(SimulatedModel, WeightsOfDownMustHoldItsRotation) {
  ModelConfig turned = config_;
  turned.hadamard_down = true;
  const std::vector<float> plain = logits(config_, 60);
  EXPECT_GT(largest_difference(logits(turned, 60), plain), 0.1);

  const RandomModel source(config_);
  const HadamardRotation rotation(config_.intermediate_size, "MLP size");
  std::map<std::string, std::vector<float>> folded;
  std::map<std::string, TensorView> views;
  const FindTensor find = [&](std::string_view name) -> const TensorView* {
    const TensorView* view = source.find()(name);
    if (!name.ends_with("down.weight")) return view;
    const std::string key(name);
    std::vector<float>& values = folded[key];
    values.resize(static_cast<size_t>(view->rows() * view->cols()));
    dequantize_rows(*view, 0, view->rows(), values.data());
    for (int64_t r = 0; r < view->rows(); ++r) {
      float* row = values.data() + r * view->cols();
      std::vector<double> exact(row, row + view->cols());
      rotation.turn(exact);
      std::copy(exact.begin(), exact.end(), row);
    }
    TensorView& out = views[key] = *view;
    out.data = std::as_bytes(std::span(values));
    return &out;
  };
  ModelWeights weights = make_weights(turned, find, 1, WeightStorage::kF32, pool_, {});
  Simulated model(std::move(weights), pool_);
  EXPECT_LE(largest_difference(model.logits(tokens_, 60), plain), 1e-3);
  EXPECT_LE(largest_difference(model.logits(tokens_, 1), plain), 1e-3);
}

double root_mean_square(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) squares += std::pow(double{a[i]} - double{b[i]}, 2);
  return std::sqrt(squares / static_cast<double>(a.size()));
}

TEST_F(SimulatedModel, RoundedActivationsCostLessTheMoreBitsThereAre) {
  const std::vector<float> plain = logits(config_, 60);
  double before = 1e9;
  for (int bits : {2, 4, 8}) {
    ModelConfig rounded = config_;
    rounded.activation_bits = bits;
    const std::vector<float> at_once = logits(rounded, 60);
    const double error = root_mean_square(at_once, plain);
    EXPECT_LT(error, before / 2) << bits;
    EXPECT_GT(error, 0) << bits;
    before = error;
    // Token by token it is the same rows that are rounded; a last bit may tip a code over.
    EXPECT_LE(root_mean_square(logits(rounded, 1), at_once), 0.1 * error + 1e-5) << bits;
  }
}

}  // namespace
}  // namespace lowkey
