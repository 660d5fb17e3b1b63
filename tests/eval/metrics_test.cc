#include "eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/rng.h"

namespace lowkey {
namespace {

TEST(Metrics, KlAndNllAreTheDefinitions) {
  SplitMix64 rng(2);
  for (int round = 0; round < 50; ++round) {
    std::vector<float> p(1000), q(1000);
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] = static_cast<float>(rng.uniform() * 20);
      q[i] = p[i] + static_cast<float>((rng.uniform() - 0.5) * (round % 2 ? 1.0 : 0.001));
    }
    // Straight from the definition in long double.
    auto softmax = [](const std::vector<float>& x) {
      std::vector<long double> y;
      long double sum = 0;
      for (float value : x) sum += expl(value);
      for (float value : x) y.push_back(expl(value) / sum);
      return y;
    };
    const auto P = softmax(p), Q = softmax(q);
    long double kl = 0;
    for (size_t i = 0; i < P.size(); ++i) kl += P[i] * (logl(P[i]) - logl(Q[i]));
    ReferencePrediction reference;
    reference.assign(p);
    const PositionScore score = reference.compare(q, 17);
    // Probabilities are rounded to f32, logit differences are below 1: 1e-7 relative on the sum of
    // |p * difference|.
    EXPECT_NEAR(score.kl, static_cast<double>(kl), 1e-6);
    EXPECT_NEAR(score.nll, static_cast<double>(-logl(Q[17])), 1e-5);
    EXPECT_NEAR(reference.nll(3), static_cast<double>(-logl(P[3])), 1e-5);
  }
}

TEST(Metrics, EqualLogitsHaveNoDivergence) {
  std::vector<float> p = {1, 5, -INFINITY, 5};
  ReferencePrediction reference;
  reference.assign(p);
  const PositionScore score = reference.compare(p, 1);
  EXPECT_EQ(score.kl, 0);
  EXPECT_TRUE(score.same_top);
  std::vector<float> q = {1, 5, -INFINITY, 5.5f};
  EXPECT_FALSE(reference.compare(q, 1).same_top);
}

TEST(Metrics, NanIsAnError) {
  ReferencePrediction reference;
  EXPECT_THROW(reference.assign(std::vector<float>{0, NAN}), Error);
}

TEST(Metrics, SummaryTakesTheTailByNearestRank) {
  std::vector<PositionScore> scores;
  for (int i = 1; i <= 2000; ++i)
    scores.push_back({std::log(10.0), static_cast<double>(i), i % 4 != 0});
  const Summary summary = summarize(scores);
  EXPECT_NEAR(summary.perplexity, 10, 1e-9);
  EXPECT_EQ(summary.kl_p999, 1998);
  EXPECT_EQ(summary.kl_mean, 1000.5);
  EXPECT_EQ(summary.top1_agreement, 0.75);
  EXPECT_EQ(summarize({}).positions, 0);
}

}  // namespace
}  // namespace lowkey
