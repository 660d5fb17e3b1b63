// Methods on whole models: what they leave behind, and that it is better than rounding to nearest.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/rng.h"
#include "support/paths.h"
#include "support/tiny_model.h"
#include "weights/awq.h"
#include "weights/gptq.h"
#include "weights/layer_inputs.h"
#include "weights/method.h"

namespace lowkey {
namespace {

using ::testing::HasSubstr;
using Samples = std::vector<std::vector<int32_t>>;

class Methods : public testing::Test {
 protected:
  Methods() : pool_(2) {
    test::TinyModel tiny({.seed = 5, .layers = 2});
    tiny.write_hugging_face(folder_.path());
    file_ = std::make_unique<ModelFile>(ModelFile::open(folder_.path()));
    SplitMix64 rng(17);
    for (int sample = 0; sample < 9; ++sample) {
      samples_.emplace_back();
      for (int i = 0; i < 48; ++i) samples_.back().push_back(static_cast<int32_t>(rng.below(290)));
    }
  }

  // With a few channels that are much larger than the rest, as trained models have.
  FloatModel model() {
    FloatModel result(*file_, pool_, {});
    for (int32_t layer = 0; layer < result.config.num_layers; ++layer) {
      for (const char* norm : {"attn_norm", "mlp_norm"}) {
        const std::string name = fmt::format("layers.{}.{}.weight", layer, norm);
        std::vector<float> weight = result.norm_weight(name);
        for (size_t i = 0; i < weight.size(); i += 9) weight[i] *= 12.0f;
        result.set_norm_weight(name, weight);
      }
    }
    return result;
  }

  // The residual streams behind the last layer, of all samples.
  at::Tensor outputs(const FloatModel& model) {
    LayerRunner runner(model, samples_, pool_);
    for (int32_t layer = 0; layer < model.config.num_layers; ++layer) runner.advance();
    return at::cat(at::TensorList(runner.hidden().data(), runner.hidden().size()));
  }

  at::Tensor outputs_of_blocks(const Quantization& done) {
    FloatModel rounded = done.model;
    for (const auto& [name, blocks] : done.blocks)
      decode_blocks(blocks, rounded.edit(name).values.data(), pool_);
    return outputs(rounded);
  }

  // Squared error of the whole model's output under `method`.
  double error_of(const std::string& method, int32_t bits) {
    FloatModel changed = model();
    const at::Tensor reference = outputs(changed);
    const QuantizeOptions options{
        .method = method, .grid = {.bits = bits, .group = 32}, .samples = samples_};
    Quantization done{.options = options, .model = changed, .pool = pool_, .progress = none_};
    quantize_weights(done);
    EXPECT_EQ(done.blocks.size(), linear_names(changed.config).size());
    EXPECT_EQ(done.weight_errors.size(), done.blocks.size());
    return (outputs_of_blocks(done) - reference).square().sum().item<double>();
  }

  test::TempDir folder_;
  ThreadPool pool_;
  std::unique_ptr<ModelFile> file_;
  Samples samples_;
  ProgressFn none_;
};

TEST_F(Methods, GptqAndAwqLoseLessThanRoundingToNearest) {
  for (const int32_t bits : {3, 4}) {
    const double nearest = error_of("rtn", bits);
    EXPECT_LT(error_of("gptq", bits), nearest) << bits;
    EXPECT_LT(error_of("awq", bits), nearest) << bits;
  }
}

TEST_F(Methods, MoreBitsLoseLess) {
  double last = error_of("rtn", 2);
  for (const int32_t bits : {3, 4, 8}) {
    const double error = error_of("rtn", bits);
    EXPECT_LT(error, last) << bits;
    last = error;
  }
}

// Before anything is rounded, scales have changed no output; they have changed the weights.
TEST_F(Methods, AwqFoldsScalesWithoutChangingTheModel) {
  FloatModel changed = model();
  const at::Tensor reference = outputs(changed);
  const std::vector<float> before = changed.tensor("layers.1.attn_norm.weight").values;
  const QuantizeOptions options{
      .method = "awq", .grid = {.bits = 3, .group = 32}, .samples = samples_};
  Quantization done{.options = options, .model = changed, .pool = pool_, .progress = none_};
  awq_weights(done);
  EXPECT_NE(changed.tensor("layers.1.attn_norm.weight").values, before);
  EXPECT_TRUE(changed.tensor("layers.1.attn_norm.weight").changed);
  EXPECT_FALSE(changed.tensor("embed.weight").changed);
  const double error = (outputs(changed) - reference).abs().max().item<double>();
  EXPECT_LT(error, 1e-4 * reference.abs().max().item<double>());
}

// A thread more or less changes sums in their last bits only; the same number, nothing.
TEST_F(Methods, TheSameRunGivesTheSameBlocks) {
  const QuantizeOptions options{
      .method = "gptq", .grid = {.bits = 4, .group = 32}, .samples = samples_};
  std::map<std::string, BlockMatrix, std::less<>> first;
  for (int run = 0; run < 2; ++run) {
    FloatModel changed = model();
    Quantization done{.options = options, .model = changed, .pool = pool_, .progress = none_};
    quantize_weights(done);
    if (run == 0)
      first = std::move(done.blocks);
    else
      for (const auto& [name, blocks] : done.blocks) EXPECT_EQ(blocks.bytes, first.at(name).bytes);
  }
}

// The sums are those of the rows that the hook sees, whatever the number of threads.
TEST_F(Methods, InputsAreSummedOverAllSamples) {
  const FloatModel floats = model();
  ThreadPool one(1);
  LayerRunner runner(floats, samples_, pool_), alone(floats, samples_, one);
  const std::vector<LayerInputs> inputs = runner.inputs_and_advance();
  const std::vector<LayerInputs> same = alone.inputs();
  ASSERT_EQ(inputs.size(), 4u);  // q k v; o; gate up; down
  EXPECT_EQ(inputs[0].linears.size(), 3u);
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(inputs[i].rows, 9 * 48);
    EXPECT_TRUE(at::allclose(inputs[i].gram, same[i].gram, 1e-4, 1e-3));
  }
  EXPECT_EQ(runner.layer(), 1);
  EXPECT_EQ(alone.layer(), 0);
  // q's inputs by hand: the norm of the embedding.
  double sum = 0;
  const FloatTensor& embed = floats.tensor("embed.weight");
  const std::vector<float> norm = floats.norm_weight("layers.0.attn_norm.weight");
  for (const std::vector<int32_t>& sample : samples_) {
    for (const int32_t token : sample) {
      const float* const row = embed.values.data() + token * embed.cols();
      double squares = 0;
      for (int64_t i = 0; i < embed.cols(); ++i) squares += double{row[i]} * row[i];
      const double factor =
          1.0 / std::sqrt(squares / static_cast<double>(embed.cols()) + floats.config.norm_eps);
      sum += std::pow(row[3] * factor * norm[3], 2);
    }
  }
  EXPECT_NEAR(inputs[0].gram[3][3].item<double>(), sum, 1e-4 * sum);
}

TEST_F(Methods, WhatCannotBeIsRefused) {
  FloatModel floats = model();
  const auto message = [&](QuantizeOptions options) {
    Quantization done{.options = options, .model = floats, .pool = pool_, .progress = none_};
    try {
      quantize_weights(done);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(message({.method = "gptq"}), HasSubstr("--text"));
  EXPECT_THAT(message({.method = "magic"}), HasSubstr("not one of rtn"));
  EXPECT_THAT(message({.method = "rtn", .grid = {.bits = 6}}), HasSubstr("2, 3, 4 or 8"));
}

}  // namespace
}  // namespace lowkey
