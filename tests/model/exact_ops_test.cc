// Exact attention against the model on a cache that rounds nothing, and its gradients against
// differences.
#include "model/exact_ops.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "linear/random_weights.h"
#include "model/decoder_layer.h"
#include "model/kv_shape.h"
#include "model/model_support.h"
#include "model/random_model.h"
#include "recipe/recipe.h"

namespace lowkey {
namespace {

using test::RandomModel;

constexpr int64_t kTokens = 21;
constexpr int64_t kPrefix = 6;

// The residual streams after all layers, and the K and V of the first tokens.
class Recorder : public StepWatcher {
 public:
  explicit Recorder(const ModelConfig& config) : config_(config) {}

  void residual(int32_t layer, const float* x, int64_t rows) override {
    if (layer > 0) streams.push_back(copy(x, {rows, config_.hidden_size}));
  }
  void attention(int32_t, const float*, const float* k, const float* v, int64_t rows) override {
    const std::array<int64_t, 3> shape{rows, config_.num_kv_heads, config_.head_dim};
    prefix.k.push_back(copy(k, shape).narrow(0, 0, kPrefix));
    prefix.v.push_back(copy(v, shape).narrow(0, 0, kPrefix));
  }

  std::vector<at::Tensor> streams;
  ExactPrefix prefix;

 private:
  static at::Tensor copy(const float* x, at::IntArrayRef shape) {
    return at::from_blob(const_cast<float*>(x), shape, at::kFloat).clone();
  }
  const ModelConfig& config_;
};

at::Tensor random(SplitMix64& rng, at::IntArrayRef shape) {
  at::Tensor t = at::empty(shape, at::kFloat);
  for (int64_t i = 0; i < t.numel(); ++i) t.data_ptr<float>()[i] = test::uniform(rng, -1.0f, 1.0f);
  return t;
}

double largest(const at::Tensor& x) {
  return x.abs().max().item<double>();
}

class Loaded {
 public:
  explicit Loaded(ModelConfig config)
      : random_(std::move(config)),
        model_(random_.weights(WeightStorage::kF32, pool_), pool_),
        tokens_(test::some_tokens(kTokens, random_.config().vocab_size)),
        recorder_(random_.config()) {
    KvCache cache(resolve_recipe(parse_recipe("32"), kv_shape(random_.config())));
    KvSequence sequence = cache.new_sequence();
    const StepItem item{&sequence, tokens_, RowsWanted::kAll};
    hidden_ = at::empty({kTokens, random_.config().hidden_size}, at::kFloat);
    model_.forward({&item, 1}, hidden_.data_ptr<float>(),
                   {.backend = Backend::kAten, .watcher = &recorder_});
  }

  const ModelWeights& weights() const { return model_.weights(); }
  Model& model() { return model_; }
  std::span<const int32_t> tokens() const { return tokens_; }
  std::span<const int32_t> after_prefix() const { return tokens().subspan(kPrefix); }
  const ExactPrefix& prefix() const { return recorder_.prefix; }
  const std::vector<at::Tensor>& streams() const { return recorder_.streams; }
  const at::Tensor& hidden() const { return hidden_; }

 private:
  RandomModel random_;
  ThreadPool pool_{2};
  Model model_;
  std::vector<int32_t> tokens_;
  Recorder recorder_;
  at::Tensor hidden_;
};

// Floats summed in another order: a few parts in a million of the largest.
void expect_equal(const at::Tensor& actual, const at::Tensor& expected) {
  EXPECT_LE(largest(actual - expected), 1e-5 * (1 + largest(expected)));
}

TEST(ExactOps, EqualsTheModelOnACacheThatRoundsNothing) {
  for (const auto& [name, apply] : test::config_variations()) {
    SCOPED_TRACE(name);
    ModelConfig config = test::small_config();
    apply(config);
    Loaded loaded(config);
    ExactOps ops(loaded.weights().config);
    const std::vector<at::Tensor> all = layer_outputs(ops, loaded.weights(), loaded.tokens());
    const std::vector<at::Tensor> rest =
        layer_outputs(ops, loaded.weights(), loaded.after_prefix(), loaded.prefix());
    ASSERT_EQ(all.size(), loaded.streams().size());
    for (size_t layer = 0; layer < all.size(); ++layer) {
      const at::Tensor& expected = loaded.streams()[layer];
      expect_equal(all[layer], expected);
      expect_equal(rest[layer], expected.narrow(0, kPrefix, kTokens - kPrefix));
    }
    const at::Tensor hidden = ops.norm(all.back(), loaded.weights().final_norm);
    expect_equal(hidden, loaded.hidden());
    at::Tensor logits = at::empty({kTokens, loaded.weights().head().rows()}, at::kFloat);
    loaded.model().logits(hidden.data_ptr<float>(), kTokens, logits.data_ptr<float>(),
                          Backend::kAten);
    expect_equal(ops.logits(loaded.weights().head(), hidden), logits);
  }
}

// What a weighted sum of all layers' outputs changes by along a direction of the prefix.
struct Probe {
  explicit Probe(const Loaded& l) : loaded(l) {
    SplitMix64 rng(11);
    for (const at::Tensor& k : loaded.prefix().k) {
      directions_k.push_back(random(rng, k.sizes()));
      directions_v.push_back(random(rng, k.sizes()));
      weights.push_back(random(rng, {kTokens - kPrefix, loaded.weights().config.hidden_size}));
    }
  }
  at::Tensor value(ExactOps& ops, const ExactPrefix& prefix) const {
    const auto outputs = layer_outputs(ops, loaded.weights(), loaded.after_prefix(), prefix);
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (size_t i = 0; i < outputs.size(); ++i) {
      sum = sum + (outputs[i] * weights[i]).to(at::kDouble).sum();
    }
    return sum;
  }
  ExactPrefix moved(double by, bool leaves) const {
    ExactPrefix prefix;
    for (size_t i = 0; i < directions_k.size(); ++i) {
      prefix.k.push_back((loaded.prefix().k[i] + by * directions_k[i]).requires_grad_(leaves));
      prefix.v.push_back((loaded.prefix().v[i] + by * directions_v[i]).requires_grad_(leaves));
    }
    return prefix;
  }
  double slope(const ExactPrefix& prefix) const {
    double sum = 0;
    for (size_t i = 0; i < directions_k.size(); ++i) {
      sum += (prefix.k[i].grad() * directions_k[i]).sum().item<double>() +
             (prefix.v[i].grad() * directions_v[i]).sum().item<double>();
    }
    return sum;
  }

  const Loaded& loaded;
  std::vector<at::Tensor> directions_k, directions_v, weights;
};

TEST(ExactOps, GradientsOfThePrefixAreThoseOfDifferences) {
  for (const auto& [name, apply] : test::config_variations()) {
    SCOPED_TRACE(name);
    ModelConfig config = test::small_config();
    apply(config);
    const Loaded loaded(config);
    const Probe probe(loaded);
    ExactOps ops(loaded.weights().config);
    const ExactPrefix leaves = probe.moved(0, true);
    const at::Tensor value = probe.value(ops, leaves);
    // Another step before the gradients are asked for: it must not disturb them.
    layer_outputs(ops, loaded.weights(), loaded.tokens().first(3));
    value.backward();
    const double step = 1e-3;
    const double difference = (probe.value(ops, probe.moved(step, false)).item<double>() -
                               probe.value(ops, probe.moved(-step, false)).item<double>()) /
                              (2 * step);
    // The quotient's own errors: the step squared, and float's rounding over the step.
    EXPECT_NEAR(probe.slope(leaves), difference, 2e-2 * (1 + std::abs(difference)));
  }
}

TEST(ExactOps, TheHookMayReplaceWeights) {
  const Loaded loaded(test::small_config());
  const Linear& changed = loaded.weights().layers[1].mlp.down;
  at::Tensor weight = at::zeros({changed.weight.rows(), changed.weight.cols()}, at::kFloat);
  weight.requires_grad_(true);
  int64_t seen = 0;
  const LinearHook hook = [&](const Linear& linear, LinearTerms& terms) {
    EXPECT_EQ(terms.x.size(1), linear.weight.cols());
    ++seen;
    if (&linear == &changed) terms.weight = weight;
  };
  ExactOps ops(loaded.weights().config, hook);
  const auto outputs = layer_outputs(ops, loaded.weights(), loaded.tokens());
  EXPECT_EQ(seen, 7 * loaded.weights().config.num_layers);
  expect_equal(outputs[0], loaded.streams()[0]);
  EXPECT_GT(largest(outputs[1] - loaded.streams()[1]), 1e-3);
  outputs.back().sum().backward();
  EXPECT_GT(largest(weight.grad()), 0.0);
}

TEST(ExactOps, RefusesTokensOutsideTheVocabulary) {
  ModelConfig config = test::small_config();
  config.max_context = 4;
  ExactOps ops(config);
  EXPECT_THROW(ops.begin(std::vector<int32_t>{config.vocab_size}), Error);
  EXPECT_THROW(ops.begin(std::vector<int32_t>{}), Error);
  EXPECT_THROW(ops.begin(std::vector<int32_t>{1, 2, 3, 4, 5}), Error);
}

}  // namespace
}  // namespace lowkey
