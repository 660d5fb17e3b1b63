#include "weights/smoothquant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/model_support.h"
#include "weights/input_maxima.h"
#include "weights/norm_readers.h"
#include "weights/running.h"

namespace lowkey {
namespace {

using test::LoadedModel;
using test::logits_with;
using test::root_mean_square;
using test::some_tokens;

TEST(SmoothingScales, AreThePapersRatio) {
  const std::vector<float> x{16.0f, 1.0f, 0.0f, 4.0f}, w{4.0f, 1.0f, 2.0f, 0.0f};
  const std::vector<float> half = smoothing_scales(x, w, 0.5);
  EXPECT_FLOAT_EQ(half[0], 2.0f);  // sqrt(16) / sqrt(4)
  EXPECT_FLOAT_EQ(half[1], 1.0f);
  EXPECT_FLOAT_EQ(half[2], 1.0f);  // a channel that says nothing
  EXPECT_FLOAT_EQ(half[3], 1.0f);
  EXPECT_FLOAT_EQ(smoothing_scales(x, w, 1.0)[0], 16.0f);
  EXPECT_FLOAT_EQ(smoothing_scales(x, w, 0.0)[0], 0.25f);
}

class Smoothquant : public ::testing::Test {
 protected:
  Smoothquant() : model_(loaded_.file(), loaded_.pool(), {}) {
    tokens_ = some_tokens(60, model_.config.vocab_size);
    options_.method = "smoothquant";
    options_.grid = {.bits = 8, .group = 32};
    options_.activation_bits = 8;
    options_.samples = {some_tokens(40, model_.config.vocab_size, 2),
                        some_tokens(40, model_.config.vocab_size, 3)};
  }

  // Three channels behind each norm that are 80 times the others, as trained models have them: the
  // model's function is what it was.
  void plant_outliers() {
    std::vector<float> scales(static_cast<size_t>(model_.config.hidden_size), 1.0f);
    for (size_t channel : {3, 17, 40}) scales[channel] = 1.0f / 80;
    for (int32_t layer = 0; layer < model_.config.num_layers; ++layer) {
      for (const NormReaders& readers : norm_readers(model_, layer)) {
        move_scales(model_, readers, scales);
      }
    }
  }

  LoadedModel loaded_{test::TinyModelOptions{.attention_bias = true, .mlp_bias = true}};
  FloatModel model_;
  std::vector<int32_t> tokens_;
  QuantizeOptions options_;
};

TEST_F(Smoothquant, MovingScalesKeepsTheModel) {
  const std::vector<float> before = logits_with(model_, tokens_, loaded_.pool());
  plant_outliers();
  EXPECT_LE(test::largest_difference(logits_with(model_, tokens_, loaded_.pool()), before), 1e-4);
}

TEST_F(Smoothquant, SmoothedFloatsComputeTheSame) {
  plant_outliers();
  const std::vector<float> before = logits_with(model_, tokens_, loaded_.pool());
  const std::vector<float> norm = model_.norm_weight("layers.0.attn_norm.weight");
  Quantization quantization{options_, model_, loaded_.pool(), {}};
  smooth_model(quantization);
  EXPECT_LE(test::largest_difference(logits_with(model_, tokens_, loaded_.pool()), before), 1e-4);
  // And the planted channels are no longer far above the rest.
  const std::vector<float> smoothed = model_.norm_weight("layers.0.attn_norm.weight");
  EXPECT_GT(norm[17] / norm[16], 50);
  EXPECT_LT(smoothed[17] / smoothed[16], 5);
}

TEST_F(Smoothquant, BothMaximaAreEqualAtOneHalf) {
  // At alpha 1/2 both sides' largest magnitudes become sqrt(max|X| max|W|).
  plant_outliers();
  Quantization quantization{options_, model_, loaded_.pool(), {}};
  smooth_model(quantization);
  const std::vector<std::string> names{"layers.1.gate.weight"};
  const std::vector<float> x =
      input_maxima(model_.weights(loaded_.pool()), names, options_.samples, loaded_.pool(), {})
          .at(names.front());
  for (int64_t c = 0; c < model_.config.hidden_size; ++c) {
    float w = 0;
    for (const char* name : {"layers.1.gate.weight", "layers.1.up.weight"}) {
      const FloatTensor& matrix = model_.tensor(name);
      for (int64_t r = 0; r < matrix.rows(); ++r) {
        w = std::max(w, std::abs(matrix.values[static_cast<size_t>(r * matrix.cols() + c)]));
      }
    }
    ASSERT_NEAR(x[static_cast<size_t>(c)] / w, 1.0, 1e-3) << c;
  }
}

TEST_F(Smoothquant, CostsLessThanPlainEightBitsWhereChannelsStandOut) {
  plant_outliers();
  const std::vector<float> exact = logits_with(model_, tokens_, loaded_.pool());
  const auto cost = [&](auto quantize) {
    FloatModel model = model_;
    Quantization quantization{options_, model, loaded_.pool(), {}};
    quantize(quantization);
    EXPECT_EQ(quantization.blocks.size(), linear_names(model.config).size());
    EXPECT_EQ(model.config.activation_bits, 8);
    return root_mean_square(test::logits_of_blocks(quantization, tokens_), exact);
  };
  const double smooth = cost(quantize_smoothquant);
  const double plain = cost([](Quantization& quantization) {
    quantization.model.config.activation_bits = 8;
    round_weights(quantization);
  });
  EXPECT_LT(smooth, 0.5 * plain);
}

TEST_F(Smoothquant, RefusesAnAlphaOutOfRange) {
  options_.alpha = 1.5;
  Quantization quantization{options_, model_, loaded_.pool(), {}};
  EXPECT_THROW(quantize_smoothquant(quantization), Error);
}

}  // namespace
}  // namespace lowkey
