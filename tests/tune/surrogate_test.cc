#include "tune/surrogate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "recipe/errors.h"
#include "tune/cholesky.h"
#include "tune/planted.h"

namespace lowkey::tune {
namespace {

using test::PlantedModel;
using Prior = std::vector<std::vector<double>>;
using ::testing::HasSubstr;

std::vector<Trial> random_trials(const PlantedModel& model, size_t count, uint64_t seed) {
  SplitMix64 rng(seed);
  std::vector<Trial> trials(count);
  for (Trial& trial : trials) {
    for (const auto& choices : model.space.variables) {
      trial.assignment.push_back(static_cast<int32_t>(rng.below(choices.size())));
    }
    trial.loss = model.loss(trial.assignment);
  }
  return trials;
}

double mean_relative_error(const Surrogate& surrogate, const std::vector<Trial>& trials) {
  double sum = 0;
  for (const Trial& trial : trials) {
    sum += std::abs(std::log(surrogate.predict(trial.assignment) / trial.loss));
  }
  return sum / static_cast<double>(trials.size());
}

TEST(Surrogate, KnowsThePriorBeforeAnyTrial) {
  const Surrogate surrogate({{0, .1}, {.02, .3, -.1}});
  EXPECT_DOUBLE_EQ(surrogate.predict(Assignment{1, 1}), .4);
  EXPECT_DOUBLE_EQ(surrogate.predict(Assignment{0, 2}), 0) << "below 0 counts as 0";
  EXPECT_EQ(surrogate.gamma(), 1);
}

TEST(Surrogate, RecoversPlantedAdditiveCosts) {
  PlantedModel model = test::planted_model(6, 1);
  model.pairs.clear();
  model.saturation = 0;
  // Single perturbations off by up to 40%.
  Surrogate surrogate(model.measured_alone(0.4, 9));
  const std::vector<Trial> unseen = random_trials(model, 100, 77);
  const double before = mean_relative_error(surrogate, unseen);
  surrogate.fit(random_trials(model, 80, 3));
  EXPECT_GT(before, 0.03);
  EXPECT_LT(mean_relative_error(surrogate, unseen), 0.01);
  EXPECT_NEAR(surrogate.gamma(), 1, 0.11);
  // The dearest half of the costs, which is what trials can see. A constant may move from one
  // variable to another, differences within a variable may not.
  for (size_t i = 0; i < 6; ++i) {
    const double planted = model.alone[i][4] - model.alone[i][2];
    EXPECT_NEAR(surrogate.share(i, 4) - surrogate.share(i, 2), planted, 0.06 * planted + 2e-3) << i;
  }
}

TEST(Surrogate, FindsHowErrorsAddUp) {
  for (double planted : {0.7, 1.0, 1.6}) {
    PlantedModel model = test::planted_model(6, 2);
    std::vector<Trial> trials = random_trials(model, 100, 4), unseen = random_trials(model, 50, 5);
    for (std::vector<Trial>* list : {&trials, &unseen}) {
      for (Trial& trial : *list) {
        double sum = 0;
        for (size_t i = 0; i < 6; ++i) {
          sum += std::pow(model.alone[i][static_cast<size_t>(trial.assignment[i])], 1 / planted);
        }
        trial.loss = std::pow(sum, planted);
      }
    }
    Surrogate surrogate(model.alone);
    surrogate.fit(trials);
    EXPECT_NEAR(surrogate.gamma(), planted, 0.11);
    EXPECT_LT(mean_relative_error(surrogate, unseen), 0.02) << planted;
  }
}

TEST(Surrogate, LearnsInteractionsThatNoSumHas) {
  const PlantedModel model = test::planted_model(6, 3);
  Surrogate surrogate(model.alone);
  const std::vector<Trial> unseen = random_trials(model, 200, 6);
  const double before = mean_relative_error(surrogate, unseen);
  surrogate.fit(random_trials(model, 120, 7));
  EXPECT_LT(mean_relative_error(surrogate, unseen), 0.25 * before);
}

TEST(Surrogate, ScaleOfThePriorIsLearntFromFewTrials) {
  const PlantedModel model = test::planted_model(30, 4);
  std::vector<std::vector<double>> prior = model.alone;
  for (auto& row : prior) {
    for (double& loss : row) loss *= 0.25;  // another text
  }
  Surrogate surrogate(prior);
  const std::vector<Trial> unseen = random_trials(model, 50, 8);
  EXPECT_GT(mean_relative_error(surrogate, unseen), 0.8);
  surrogate.fit(random_trials(model, 10, 9));
  EXPECT_LT(mean_relative_error(surrogate, unseen), 0.25);
}

TEST(Surrogate, CostsAndPredictionsAreNeverNegative) {
  SplitMix64 rng(10);
  for (int round = 0; round < 20; ++round) {
    Surrogate surrogate({{.01, .5}, {.01, .5}, {.01, .5}});
    std::vector<Trial> trials;  // that contradict the prior, and each other
    for (int t = 0; t < 12; ++t) {
      Assignment a = {int32_t(rng.below(2)), int32_t(rng.below(2)), int32_t(rng.below(2))};
      trials.push_back({a, 0, a[0] == 1 ? 0.0 : rng.uniform()});
    }
    surrogate.fit(trials);
    for (size_t i = 0; i < 3; ++i) {
      for (int32_t c : {0, 1}) EXPECT_GE(surrogate.share(i, c), 0);
    }
    for (int32_t x = 0; x < 8; ++x) {
      const double loss = surrogate.predict(Assignment{x & 1, x >> 1 & 1, x >> 2});
      EXPECT_TRUE(std::isfinite(loss) && loss >= 0) << loss;
    }
  }
}

TEST(Surrogate, FittingAgainForgetsAndRepeats) {
  const PlantedModel model = test::planted_model(6, 5);
  const auto a = random_trials(model, 30, 11), b = random_trials(model, 30, 12);
  Surrogate once(model.alone), twice(model.alone);
  once.fit(b);
  twice.fit(a);
  twice.fit(b);
  for (const Trial& trial : a) {
    EXPECT_EQ(once.predict(trial.assignment), twice.predict(trial.assignment));
  }
}

TEST(Surrogate, RefusesWhatIsNoModel) {
  EXPECT_THAT(complaint([] { Surrogate(Prior{}); }), HasSubstr("no variables"));
  EXPECT_THAT(complaint([] {
                Surrogate(Prior{{.1}, {}});
              }),
              HasSubstr("variable 1 has no choices"));
  EXPECT_THAT(complaint([] { Surrogate(Prior{{NAN}}); }), HasSubstr("numeric: variable 0"));
  Surrogate surrogate(Prior{{.1}});
  EXPECT_THAT(complaint([&] {
                surrogate.fit(std::vector<Trial>{{{0}, 0, INFINITY}});
              }),
              HasSubstr("a trial's loss is inf"));
}

TEST(Spearman, ByHandWithTies) {
  const std::vector<double> a = {1, 2, 3, 4, 5};
  EXPECT_DOUBLE_EQ(spearman(a, std::vector<double>{10, 20, 30, 40, 500}), 1);
  EXPECT_DOUBLE_EQ(spearman(a, std::vector<double>{5, 4, 3, 2, 1}), -1);
  // 1 - 6 * (1 + 1 + 0 + 1 + 1) / (5 * 24)
  EXPECT_DOUBLE_EQ(spearman(a, std::vector<double>{2, 1, 3, 5, 4}), 0.8);
  // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3.5, 3.5: 3.75 / sqrt(4.5 * 4.5).
  EXPECT_NEAR(spearman(std::vector<double>{1, 7, 7, 9}, std::vector<double>{.1, .2, .3, .3}),
              3.75 / 4.5, 1e-15);
  EXPECT_EQ(spearman(a, std::vector<double>(5, 1.0)), 0) << "nothing is ranked";
  EXPECT_EQ(spearman({}, {}), 0);
}

TEST(Cholesky, SolvesAndKnowsTheDeterminant) {
  SplitMix64 rng(13);
  for (size_t n : {1, 2, 7, 40}) {
    std::vector<double> root(n * n), matrix(n * n), x(n), rhs(n);
    for (double& value : root) value = rng.uniform() - 0.5;
    for (double& value : x) value = rng.uniform() - 0.5;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        for (size_t k = 0; k < n; ++k) matrix[i * n + j] += root[i * n + k] * root[j * n + k];
        if (i == j) matrix[i * n + j] += 0.5;
      }
    }
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) rhs[i] += matrix[i * n + j] * x[j];
    }
    const std::vector<double> solved = Cholesky(matrix, n).solve(rhs);
    for (size_t i = 0; i < n; ++i) EXPECT_NEAR(solved[i], x[i], 1e-12);
  }
  // [[4, 2], [2, 5]]: 16.
  EXPECT_NEAR(Cholesky({4, 0, 2, 5}, 2).log_determinant(), std::log(16.0), 1e-15);
}

}  // namespace
}  // namespace lowkey::tune
