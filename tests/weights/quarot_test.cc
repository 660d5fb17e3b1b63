// A rotated model computes what the model did, whatever its family; those that cannot be rotated
// are refused by name.
#include "weights/quarot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/hadamard_matrix.h"
#include "model/model_support.h"
#include "support/family_model.h"
#include "weights/running.h"

namespace lowkey {
namespace {

using test::FamilyModel;
using test::LoadedModel;
using test::logits_with;
using test::root_mean_square;
using test::some_tokens;
using test::TempDir;
using test::TinyModelOptions;

// What rotations cannot do, said a second time.
bool can_be_rotated(const ModelConfig& c) {
  return c.norm == NormKind::kRms && !c.post_norms && !c.parallel && !c.learned_positions &&
         std::has_single_bit(static_cast<uint64_t>(c.head_dim)) && hadamard_order(c.hidden_size) &&
         (c.num_experts > 0 || hadamard_order(c.intermediate_size));
}

std::string refusal(FloatModel& model, ThreadPool& pool) {
  try {
    rotate_model(model, 1, pool);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    return error.what();
  }
  return {};
}

TEST(Quarot, EveryFamilyKeepsItsLogitsOrIsRefused) {
  ThreadPool pool(2);
  std::vector<std::string> rotated;
  for (const std::string& name : FamilyModel::names()) {
    SCOPED_TRACE(name);
    const TempDir folder;
    FamilyModel(name).write_hugging_face(folder.path(), "transformers 5");
    const ModelFile file = ModelFile::open(folder.path());
    FloatModel model(file, pool, {});
    if (!can_be_rotated(model.config)) {
      EXPECT_THAT(refusal(model, pool), ::testing::HasSubstr("QuaRot"));
      EXPECT_FALSE(model.config.hadamard_qk);
      continue;
    }
    rotated.push_back(name);
    const std::vector<int32_t> tokens = some_tokens(50, model.config.vocab_size);
    const std::vector<float> plain = logits_with(model, tokens, pool);
    rotate_model(model, 7, pool);
    EXPECT_TRUE(model.config.hadamard_qk && model.config.hadamard_v && model.config.hadamard_down);
    EXPECT_FALSE(model.config.tied_embeddings);
    EXPECT_LE(test::largest_difference(logits_with(model, tokens, pool), plain), 1e-3);
  }
  EXPECT_THAT(rotated, ::testing::SizeIs(::testing::Ge(4)));
}

class QuarotTiny : public ::testing::Test {
 protected:
  // 576 = 36 * 16 and 192 = 12 * 16, as SmolLM2 has them; biases everywhere; a tied head.
  static TinyModelOptions options() {
    return {.hidden = 576,
            .heads = 3,
            .kv_heads = 1,
            .head_dim = 32,
            .ffn = 192,
            .attention_bias = true,
            .mlp_bias = true};
  }
  QuarotTiny() : loaded_(options()), model_(loaded_.file(), loaded_.pool(), {}) {
    tokens_ = some_tokens(60, model_.config.vocab_size);
  }
  std::vector<float> logits(const std::string& recipe = "32") {
    return logits_with(model_, tokens_, loaded_.pool(), recipe);
  }

  LoadedModel loaded_;
  FloatModel model_;
  std::vector<int32_t> tokens_;
};

TEST_F(QuarotTiny, KeepsLogitsAtSizesThatAreNoPowersOfTwo) {
  const std::vector<float> plain = logits();
  rotate_model(model_, 3, loaded_.pool());
  EXPECT_LE(test::largest_difference(logits(), plain), 1e-3);
}

TEST_F(QuarotTiny, PackedCachesCostNoMoreThanBefore) {
  const std::vector<float> exact = logits();
  const std::vector<float> plain8 = logits("8"), plain4 = logits("4");
  rotate_model(model_, 3, loaded_.pool());
  EXPECT_LE(root_mean_square(logits("8"), exact), 1.5 * root_mean_square(plain8, exact));
  EXPECT_LE(root_mean_square(logits("4"), exact), 1.5 * root_mean_square(plain4, exact));
  EXPECT_GT(root_mean_square(logits("4"), exact), 0);
}

TEST_F(QuarotTiny, SpreadsAChannelThatStandsOut) {
  // One channel of the stream a hundred times the others: after the rotation all are alike.
  FloatTensor& embedding = model_.edit("embed.weight");
  for (int64_t r = 0; r < embedding.rows(); ++r) {
    embedding.values[static_cast<size_t>(r * embedding.cols() + 5)] = 100.0f;
  }
  const auto peak = [&] {  // largest over root mean square, of one token's row
    const auto& values = model_.tensor("embed.weight").values;
    double squares = 0, largest = 0;
    for (size_t i = 0; i < 576; ++i) {
      squares += double{values[i]} * double{values[i]};
      largest = std::max(largest, std::abs(double{values[i]}));
    }
    return largest / std::sqrt(squares / 576);
  };
  const double before = peak();
  rotate_model(model_, 3, loaded_.pool());
  EXPECT_GT(before, 15);
  EXPECT_LT(peak(), 3);
}

TEST_F(QuarotTiny, TheSeedDecides) {
  FloatModel other(loaded_.file(), loaded_.pool(), {}), again(loaded_.file(), loaded_.pool(), {});
  rotate_model(model_, 3, loaded_.pool());
  rotate_model(other, 4, loaded_.pool());
  rotate_model(again, 3, loaded_.pool());
  EXPECT_EQ(model_.tensor("layers.0.q.weight").values, again.tensor("layers.0.q.weight").values);
  EXPECT_NE(model_.tensor("layers.0.q.weight").values, other.tensor("layers.0.q.weight").values);
}

TEST_F(QuarotTiny, RefusesToRotateTwice) {
  rotate_model(model_, 3, loaded_.pool());
  EXPECT_THAT(refusal(model_, loaded_.pool()), ::testing::HasSubstr("rotated already"));
}

// W4A4 of a model whose stream has a loud channel: rotated, both are rounded at less cost.
TEST_F(QuarotTiny, RoundsWeightsAndActivationsAtLessCost) {
  for (int32_t r = 0; r < model_.config.vocab_size; ++r) {
    model_.edit("embed.weight").values[static_cast<size_t>(r * 576 + 5)] = 30.0f;
  }
  const std::vector<float> exact = logits();
  QuantizeOptions options;
  options.method = "quarot";
  options.grid = {.bits = 4, .group = 64};
  options.activation_bits = 4;
  options.activation_clip = 0.9;
  const auto cost = [&](auto quantize) {
    FloatModel model = model_;
    Quantization quantization{options, model, loaded_.pool(), {}};
    quantize(quantization);
    EXPECT_EQ(quantization.blocks.size(), linear_names(model.config).size());
    return root_mean_square(test::logits_of_blocks(quantization, tokens_), exact);
  };
  const double rotated = cost(quantize_quarot);
  const double plain = cost([](Quantization& quantization) {
    quantization.model.config.activation_bits = 4;
    quantization.model.config.activation_clip = 0.9;
    round_weights(quantization);
  });
  EXPECT_LT(rotated, 0.8 * plain);
}

}  // namespace
}  // namespace lowkey
