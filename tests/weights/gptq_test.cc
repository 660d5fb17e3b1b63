#include "weights/gptq.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"
#include "weights/layer_inputs.h"
#include "weights/weight_cases.h"

namespace lowkey {
namespace {

using test::decoded;
using test::WeightCase;

constexpr double kTolerance = 1e-3;

at::Tensor matrix(const std::vector<float>& values, int64_t rows, int64_t cols) {
  return at::from_blob(const_cast<float*>(values.data()), {rows, cols}, at::kFloat);
}

at::Tensor gram_of(const WeightCase& c) {
  const at::Tensor x = matrix(c.x, c.tokens, c.cols).to(at::kDouble);
  return at::matmul(x.t(), x).to(at::kFloat);
}

// NumPy's, by elimination on the inverse: no Cholesky factor, no blocks of columns.
TEST(Gptq, EqualsTheIndependentVersion) {
  ThreadPool pool(2);
  for (const WeightCase& c : test::weight_cases()) {
    for (const bool act_order : {false, true}) {
      SCOPED_TRACE(c.grid.text() + (act_order ? " act-order" : ""));
      const BlockMatrix blocks = gptq(c.grid, matrix(c.weight, c.rows, c.cols), gram_of(c),
                                      {.damping = 0.01, .act_order = act_order}, pool);
      EXPECT_THAT(decoded(blocks, pool),
                  testing::Pointwise(testing::FloatNear(kTolerance),
                                     c.values(act_order ? "gptq_act_order" : "gptq")));
    }
  }
}

TEST(Gptq, LosesLessInTheOutputThanRoundingToNearest) {
  ThreadPool pool(1);
  for (const WeightCase& c : test::weight_cases()) {
    SCOPED_TRACE(c.grid.text());
    const at::Tensor weight = matrix(c.weight, c.rows, c.cols), gram = gram_of(c);
    const auto error = [&](const BlockMatrix& blocks) {
      const std::vector<float> values = decoded(blocks, pool);
      return output_error(weight, matrix(values, c.rows, c.cols), gram).difference;
    };
    const double nearest = error(round_to_nearest(c.grid, c.weight.data(), c.rows, c.cols, pool));
    EXPECT_LT(error(gptq(c.grid, weight, gram, {}, pool)), 0.8 * nearest);
  }
}

// With inputs that have nothing to do with each other there is nothing to make up for.
TEST(Gptq, IsRoundingToNearestOnUncorrelatedInputs) {
  ThreadPool pool(1);
  const WeightCase c = test::weight_cases().front();
  const at::Tensor gram = at::eye(c.cols, at::kFloat) * 3.0;
  EXPECT_EQ(gptq(c.grid, matrix(c.weight, c.rows, c.cols), gram, {}, pool).bytes,
            round_to_nearest(c.grid, c.weight.data(), c.rows, c.cols, pool).bytes);
}

TEST(Gptq, RefusesInputsThatAreNotFinite) {
  ThreadPool pool(1);
  const WeightCase c = test::weight_cases().front();
  at::Tensor gram = at::eye(c.cols, at::kFloat);
  gram[3][4] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(gptq(c.grid, matrix(c.weight, c.rows, c.cols), gram, {}, pool), Error);
}

}  // namespace
}  // namespace lowkey
