// PrefillOps operation by operation: what is fused against what it is fused from.
#include "model/prefill_ops.h"

#include <gtest/gtest.h>

#include <cmath>

#include "linear/random_weights.h"
#include "model/decoder_layer.h"
#include "model/model_support.h"

namespace lowkey {
namespace {

using test::LoadedModel;

class PrefillOpsTest : public ::testing::Test {
 protected:
  // Odd sizes of everything: rows that fill no block, an intermediate size that fills no panel.
  static constexpr int64_t kRows = 37;

  PrefillOpsTest()
      : loaded_({.attention_bias = true, .mlp_bias = true}, WeightStorage::kBF16),
        attention_(loaded_.config(), loaded_.pool()),
        cache_(loaded_.cache("16")),
        sequence_(cache_->new_sequence()),
        tokens_(test::some_tokens(kRows, loaded_.config().vocab_size)) {}

  void SetUp() override {
    if (!gemm_available()) GTEST_SKIP() << "no AVX512_BF16 here";
    ops_.emplace(weights(), loaded_.pool(), attention_);
    const StepItem item{&sequence_, tokens_};
    step_.assign({&item, 1}, loaded_.config(), RopeTables(loaded_.config()));
    ops_->begin(step_);
  }

  const ModelWeights& weights() { return loaded_.model().weights(); }
  const LayerWeights& layer() { return weights().layers[1]; }

  RowBuffers::Rows random_rows(int64_t cols, uint64_t seed) {
    RowBuffers::Rows rows = spare_.lend(kRows, cols);
    SplitMix64 rng(seed);
    for (int64_t i = 0; i < rows.count(); ++i) rows.data()[i] = test::uniform(rng, -1.0f, 1.0f);
    return rows;
  }

  static void expect_near(const RowBuffers::Rows& a, const RowBuffers::Rows& b, double relative) {
    ASSERT_EQ(a.count(), b.count());
    double difference = 0, size = 0;
    for (int64_t i = 0; i < a.count(); ++i) {
      difference += std::pow(static_cast<double>(a.data()[i]) - b.data()[i], 2);
      size += std::pow(static_cast<double>(b.data()[i]), 2);
    }
    EXPECT_LE(std::sqrt(difference), relative * std::sqrt(size));
  }

  RowBuffers spare_{kRows * 4096};
  LoadedModel loaded_;
  CacheAttention attention_;
  std::unique_ptr<KvCache> cache_;
  KvSequence sequence_;
  std::vector<int32_t> tokens_;
  StepRows step_;
  std::optional<PrefillOps> ops_;
};

TEST_F(PrefillOpsTest, LinearsOfNormAreLinearsOfTheNorm) {
  const auto x = random_rows(loaded_.config().hidden_size, 1);
  const auto fused = ops_->linears_of_norm(x, layer().attn_norm, layer().q, layer().k, layer().v);
  const auto normed = ops_->norm(x, layer().attn_norm);
  const auto plain = ops_->linears(normed, layer().q, layer().k, layer().v);
  for (size_t i = 0; i < 3; ++i) expect_near(fused[i], plain[i], 0);  // the same bits
}

TEST_F(PrefillOpsTest, AddLinearAddsTheLinear) {
  const int64_t heads = int64_t{loaded_.config().num_qo_heads} * loaded_.config().head_dim;
  const auto y = random_rows(heads, 2);
  const auto fused = ops_->add_linear(random_rows(loaded_.config().hidden_size, 3), y, layer().o);
  const auto plain =
      ops_->add(random_rows(loaded_.config().hidden_size, 3), ops_->linear(y, layer().o));
  expect_near(fused, plain, 1e-6);
}

TEST_F(PrefillOpsTest, GatedMlpIsItsFiveOperations) {
  const auto x = [&] { return random_rows(loaded_.config().hidden_size, 4); };
  const auto fused = ops_->add_silu_mlp(x(), layer().mlp_norm, layer().mlp);
  auto [gate, up] =
      ops_->linears(ops_->norm(x(), layer().mlp_norm), layer().mlp.gate, layer().mlp.up);
  const auto plain =
      ops_->add(x(), ops_->linear(ops_->gate(std::move(gate), up), layer().mlp.down));
  // Where silu's 1e-6 tips a rounding to bf16, a term moves by 2^-8; few do.
  expect_near(fused, plain, 1e-3);
}

TEST_F(PrefillOpsTest, CountsItsCopies) {
  const ModelConfig& config = loaded_.config();
  const int64_t q = int64_t{config.num_qo_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  const auto panels = [](int64_t features) { return (features + 63) / 64 * 64; };
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  const int64_t elements = (panels(q) + 2 * panels(kv)) * hidden + panels(hidden) * q +
                           2 * panels(inner) * hidden + panels(hidden) * inner;
  EXPECT_EQ(ops_->packed_bytes(), 2 * elements * config.num_layers);
  EXPECT_EQ(loaded_.model().prefill_bytes(), ops_->packed_bytes());
}

// Rows nobody wants skip the last layer's attention, and leave the same cache behind.
TEST_F(PrefillOpsTest, StoresTheSameWhateverIsWanted) {
  for (const char* recipe : {"16", "4:r16"}) {
    const auto cache = loaded_.cache(recipe);
    KvSequence all = cache->new_sequence(), none = cache->new_sequence();
    test::run(loaded_.model(), all, tokens_, kRows, Backend::kPrefill);
    const StepItem item{&none, tokens_, RowsWanted::kNone};
    loaded_.model().forward({&item, 1}, nullptr, Backend::kPrefill);
    for (int32_t layer = 0; layer < loaded_.config().num_layers; ++layer) {
      for (Side side : {Side::kKey, Side::kValue}) {
        EXPECT_EQ(none.state_bytes(layer, 0, side), all.state_bytes(layer, 0, side)) << recipe;
      }
    }
  }
}

TEST(PrefillOps, LeavesF32WeightsToTheOthers) {
  LoadedModel floats{test::TinyModelOptions{}};
  EXPECT_FALSE(PrefillOps::suits(floats.model().weights()));
  EXPECT_EQ(floats.model().prefill_bytes(), 0);
}

}  // namespace
}  // namespace lowkey
