// What AtenOps promises beyond the results of a whole model: autograd can follow its operations.
#include "model/aten_ops.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "linear/random_weights.h"
#include "model/decoder_layer.h"
#include "model/model_support.h"

namespace lowkey {
namespace {

using test::LoadedModel;

class AtenOpsTest : public ::testing::Test {
 protected:
  AtenOpsTest()
      : loaded_({.attention_bias = true, .mlp_bias = true}),
        attention_(loaded_.config(), loaded_.pool()),
        ops_(loaded_.config(), loaded_.pool(), attention_) {}

  // d(sum of f(x) * probe) / dx along a random direction, by autograd and by differences.
  template <typename F>
  void expect_differentiable(int64_t rows, int64_t channels, const F& f) {
    SplitMix64 rng(7);
    const auto random = [&](at::IntArrayRef shape) {
      at::Tensor t = at::empty(shape, at::kFloat);
      for (int64_t i = 0; i < t.numel(); ++i)
        t.data_ptr<float>()[i] = test::uniform(rng, -1.0f, 1.0f);
      return t;
    };
    const at::Tensor x = random({rows, channels}).requires_grad_(true);
    const at::Tensor y = f(x);
    ASSERT_TRUE(y.requires_grad());
    const at::Tensor probe = random(y.sizes()), direction = random(x.sizes());
    (y * probe).sum().backward();
    const double slope = (x.grad() * direction).sum().item<double>();
    const double step = 1e-3;
    const auto value = [&](double sign) {
      const at::Tensor moved = x.detach() + sign * step * direction;
      return (f(moved) * probe).to(at::kDouble).sum().template item<double>();
    };
    const double difference = (value(1) - value(-1)) / (2 * step);
    // The difference quotient itself is good to the step squared and float's rounding over the
    // step.
    EXPECT_NEAR(slope, difference, 2e-2 * (1 + std::abs(difference)));
  }

  LoadedModel loaded_;
  CacheAttention attention_;
  AtenOps ops_;
};

TEST_F(AtenOpsTest, MlpBlockIsDifferentiable) {
  const LayerWeights& weights = loaded_.model().weights().layers[0];
  expect_differentiable(5, loaded_.config().hidden_size, [&](const at::Tensor& x) {
    return mlp_block(ops_, loaded_.config(), weights, x);
  });
}

TEST_F(AtenOpsTest, RopeIsDifferentiable) {
  const auto cache = loaded_.cache("32");
  KvSequence sequence = cache->new_sequence();
  const std::vector<int32_t> tokens{1, 2, 3, 4, 5};
  const StepItem item{&sequence, tokens};
  StepRows step;
  step.assign({&item, 1}, loaded_.config(), RopeTables(loaded_.config()));
  ops_.begin(step);
  const int32_t heads = loaded_.config().num_qo_heads;
  expect_differentiable(5, heads * loaded_.config().head_dim,
                        [&](const at::Tensor& x) { return ops_.rope(x, heads, RopeUse::kMain); });
}

TEST_F(AtenOpsTest, SelectedRowsAreDifferentiable) {
  const std::vector<int64_t> rows{0, 3};
  expect_differentiable(5, 8, [&](const at::Tensor& x) { return ops_.select_rows(x, rows); });
}

TEST_F(AtenOpsTest, OperationsLeaveTheirInputsAlone) {
  const at::Tensor x = at::ones({2, 8}), y = at::ones({2, 8});
  EXPECT_EQ(ops_.add(x, y).sum().item<float>(), 32.0f);
  ops_.gate(x, y);
  ops_.select_rows(x, std::vector<int64_t>{1});
  EXPECT_EQ(x.sum().item<float>(), 16.0f);
}

}  // namespace
}  // namespace lowkey
