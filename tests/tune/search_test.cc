#include "tune/search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "recipe/errors.h"
#include "tune/pareto.h"
#include "tune/planted.h"

namespace lowkey::tune {
namespace {

using test::PlantedModel;
using ::testing::HasSubstr;

constexpr std::array kBoth = {Algorithm::kNsga2, Algorithm::kMoead};
using Prior = std::vector<std::vector<double>>;
constexpr double kNegligible = 1e-4;

EvaluateBatch measure(const PlantedModel& model) {
  return [&model](const std::vector<Assignment>& batch) { return model.losses(batch); };
}

SearchResult search_in(const PlantedModel& model, const SearchOptions& options,
                       double prior_error = 0.2) {
  const Surrogate prior(model.measured_alone(prior_error, options.seed));
  return search(model.space, prior, options, measure(model), {});
}

// Every assignment of 6 variables with 5 choices.
std::vector<CostLoss> all_points(const PlantedModel& model) {
  std::vector<CostLoss> points;
  Assignment a(6, 0);
  for (;;) {
    points.push_back({cost_of(model.space, a), model.loss(a)});
    size_t i = 0;
    while (i < 6 && ++a[i] == 5) a[i++] = 0;
    if (i == 6) return points;
  }
}

struct Shares {
  double loss = 0;      // of the true front's hypervolume
  double log_loss = 0;  // the same with the log of loss, where every bit width counts alike
};

Shares hypervolume_shares(const std::vector<CostLoss>& all, const std::vector<CostLoss>& found) {
  double worst = 0;
  for (size_t i : pareto_front(all)) worst = std::max(worst, all[i].loss);
  const CostLoss reference = {8.2, 1.05 * worst};
  const auto log_of = [](std::vector<CostLoss> points) {
    for (CostLoss& point : points) point.loss = std::log(point.loss + kNegligible);
    return points;
  };
  const CostLoss log_reference = {8.2, std::log(reference.loss + kNegligible)};
  return {hypervolume(found, reference) / hypervolume(all, reference),
          hypervolume(log_of(found), log_reference) / hypervolume(log_of(all), log_reference)};
}

std::vector<CostLoss> front_points(const SearchResult& result) {
  std::vector<CostLoss> points;
  for (size_t t : result.front) points.push_back({result.trials[t].cost, result.trials[t].loss});
  return points;
}

TEST(Search, FindsThePlantedFront) {
  for (uint64_t planted : {1, 2, 3}) {
    const PlantedModel model = test::planted_model(6, planted);
    const std::vector<CostLoss> all = all_points(model);
    ASSERT_EQ(all.size(), 15625u);
    for (Algorithm algorithm : kBoth) {
      for (uint64_t seed : {1, 2}) {
        SearchOptions options;
        options.algorithm = algorithm;
        options.seed = seed;
        options.rounds = 6;
        const SearchResult result = search_in(model, options);
        ASSERT_LE(result.trials.size(), 200u);
        const Shares shares = hypervolume_shares(all, front_points(result));
        const std::string what =
            fmt::format("model {}, algorithm {}, seed {}: {:.4f} {:.4f}", planted, int(algorithm),
                        seed, shares.loss, shares.log_loss);
        EXPECT_GE(shares.loss, 0.99) << what;
        EXPECT_GE(shares.log_loss, 0.99) << what;
        EXPECT_LE(std::max(shares.loss, shares.log_loss), 1 + 1e-12) << what;
        EXPECT_GT(result.rank_correlation, 0.98) << what;
      }
    }
  }
}

TEST(Search, FindsThePlantedFrontUnderAPoorPrior) {
  const PlantedModel model = test::planted_model(6, 4);
  const std::vector<CostLoss> all = all_points(model);
  for (Algorithm algorithm : kBoth) {
    SearchOptions options;
    options.algorithm = algorithm;
    options.rounds = 12;  // 194 measurements
    const Shares poor = hypervolume_shares(all, front_points(search_in(model, options, 0.9)));
    EXPECT_GE(poor.loss, 0.98) << int(algorithm);
    EXPECT_GE(poor.log_loss, 0.98) << int(algorithm);
    // Every choice costs the same, as far as one knows. What each is worth at the lossless end, a
    // thousandth of that, is then more than 194 measurements tell.
    const Surrogate flat(std::vector(6, std::vector(5, 0.05)));
    const SearchResult result = search(model.space, flat, options, measure(model), {});
    ASSERT_LE(result.trials.size(), 200u);
    EXPECT_GE(hypervolume_shares(all, front_points(result)).loss, 0.98) << int(algorithm);
  }
}

// pagmo by itself, on the planted loss: what the surrogate's corners and neighbours do not help.
TEST(Evolve, BothAlgorithmsFindAFrontUnaided) {
  const PlantedModel model = test::planted_model(6, 1);
  const std::vector<CostLoss> all = all_points(model);
  const std::vector<int32_t> num_choices(6, 5);
  for (Algorithm algorithm : kBoth) {
    const EvolveOptions options{.algorithm = algorithm, .seed = 3};
    const auto objectives = [&](std::span<const int32_t> ranks) -> Objectives {
      const Assignment a(ranks.begin(), ranks.end());
      return {cost_of(model.space, a) / 8, std::log(model.loss(a) + kNegligible) / 8};
    };
    std::vector<CostLoss> found;
    const std::vector<Assignment> last = evolve(num_choices, {}, options, objectives);
    EXPECT_EQ(last, evolve(num_choices, {}, options, objectives)) << "one seed, two results";
    EXPECT_EQ(std::set(last.begin(), last.end()).size(), last.size());
    for (const Assignment& a : last) found.push_back({cost_of(model.space, a), model.loss(a)});
    const Shares shares = hypervolume_shares(all, found);
    EXPECT_GE(shares.loss, 0.98) << int(algorithm);
    EXPECT_GE(shares.log_loss, 0.98) << int(algorithm);
  }
}

TEST(Evolve, VariablesWithoutAChoiceStayWhereTheyAre) {
  const auto objectives = [](std::span<const int32_t> a) -> Objectives {
    return {double(a[1]), double(2 - a[1])};
  };
  for (Algorithm algorithm : kBoth) {
    const EvolveOptions options{.algorithm = algorithm, .population = 8, .generations = 3};
    for (const Assignment& a : evolve(std::vector{1, 3, 1}, {}, options, objectives)) {
      EXPECT_EQ(a[0], 0);
      EXPECT_EQ(a[2], 0);
    }
    EXPECT_EQ(evolve(std::vector{1, 1}, {}, options, objectives),
              (std::vector<Assignment>{{0, 0}}));
  }
}

TEST(Search, SameSettingsSameResult) {
  const PlantedModel model = test::planted_model(6, 2);
  for (Algorithm algorithm : kBoth) {
    SearchOptions options;
    options.algorithm = algorithm;
    options.rounds = 3;
    options.seed = 7;
    const SearchResult a = search_in(model, options), b = search_in(model, options);
    EXPECT_EQ(a.trials, b.trials);
    EXPECT_EQ(a.predicted, b.predicted);
    EXPECT_EQ(a.front, b.front);
    EXPECT_EQ(a.rank_correlation, b.rank_correlation);
    options.seed = 8;
    // The prior is the same: only the search's own seed differs.
    const Surrogate prior(model.measured_alone(0.2, 7));
    EXPECT_NE(search(model.space, prior, options, measure(model), {}).trials, a.trials);
  }
}

TEST(Search, WhatItReturnsWasMeasuredOnceAndPredictedBefore) {
  const PlantedModel model = test::planted_model(6, 3);
  SearchOptions options;
  options.rounds = 4;
  options.per_round = 10;
  options.start = {Assignment(6, 2), Assignment(6, 2), Assignment(6, 3)};
  std::set<Assignment> asked;
  size_t calls = 0;
  int64_t reported = 0;
  const Surrogate prior(model.measured_alone(0.3, 1));
  const SearchResult result = search(
      model.space, prior, options,
      [&](const std::vector<Assignment>& batch) {
        ++calls;
        for (const Assignment& a : batch) EXPECT_TRUE(asked.insert(a).second) << "asked again";
        return model.losses(batch);
      },
      [&](std::string_view, int64_t done, int64_t total) {
        EXPECT_LE(done, total);
        EXPECT_GE(done, reported);
        reported = done;
      });
  EXPECT_EQ(calls, 5u);
  // Two to start with, the two ends, 4 rounds of 10.
  ASSERT_EQ(result.trials.size(), 44u);
  EXPECT_EQ(reported, 44);
  ASSERT_EQ(asked.size(), 44u);
  for (const Trial& trial : result.trials) {
    EXPECT_TRUE(asked.contains(trial.assignment));
    EXPECT_EQ(trial.loss, model.loss(trial.assignment));
    EXPECT_EQ(trial.cost, cost_of(model.space, trial.assignment));
  }
  // The first batch was predicted from the prior alone.
  for (size_t t = 0; t < 4; ++t) {
    EXPECT_EQ(result.predicted[t], prior.predict(result.trials[t].assignment));
  }
  std::vector<double> losses;
  for (const Trial& trial : result.trials) losses.push_back(trial.loss);
  EXPECT_EQ(result.rank_correlation, spearman(result.predicted, losses));
  // The front is the trials' own.
  std::vector<CostLoss> points;
  for (const Trial& trial : result.trials) points.push_back({trial.cost, trial.loss});
  EXPECT_EQ(result.front, pareto_front(points));
}

TEST(Search, BoundsHold) {
  const PlantedModel model = test::planted_model(6, 1);
  for (Algorithm algorithm : kBoth) {
    SearchOptions options;
    options.algorithm = algorithm;
    options.rounds = 4;
    options.min_cost = 3;
    options.max_cost = 4.5;
    const double middle = model.loss(Assignment(6, 2));
    options.max_loss = middle;
    options.start = {Assignment(6, 0), Assignment(6, 2), Assignment(6, 4)};
    const SearchResult result = search_in(model, options);
    EXPECT_EQ(result.trials.size(), 65u) << "one of those to start with, 4 rounds of 16";
    for (const Trial& trial : result.trials) {
      EXPECT_GE(trial.cost, 3 - 1e-6);
      EXPECT_LE(trial.cost, 4.5 + 1e-6);
    }
    ASSERT_FALSE(result.front.empty());
    double least = std::numeric_limits<double>::infinity();
    for (size_t t : result.front) {
      EXPECT_LE(result.trials[t].loss, middle);
      least = std::min(least, result.trials[t].loss);
    }
    EXPECT_LT(least, 0.7 * middle) << "half a bit more than 4 must buy something";
    // As good as exhaustive search within the bounds.
    double best = std::numeric_limits<double>::infinity();
    for (const CostLoss& point : all_points(model)) {
      if (point.cost >= 3 && point.cost <= 4.5) best = std::min(best, point.loss);
    }
    EXPECT_LT(least, 1.02 * best);
  }
}

TEST(Search, ASmallSpaceIsSearchedToItsEnd) {
  PlantedModel model = test::planted_model(2, 1);
  SearchOptions options;
  options.rounds = 10;
  const SearchResult result = search_in(model, options);
  EXPECT_EQ(result.trials.size(), 25u) << "2 variables of 5 choices, each once";
  model = test::planted_model(1, 1);
  model.space.variables[0].resize(1);
  model.alone[0].resize(1);
  EXPECT_EQ(search_in(model, options).trials.size(), 1u);
}

TEST(Search, LossesOfZeroAndEqualCostsAreNoTrouble) {
  // Three ways to store each layer that cost the same; nothing loses anything.
  const SearchSpace space{std::vector(8, std::vector<Choice>(3, Choice{0.5}))};
  const Surrogate prior(std::vector(8, std::vector(3, 0.0)));
  SearchOptions options;
  options.rounds = 3;
  for (Algorithm algorithm : kBoth) {
    options.algorithm = algorithm;
    const SearchResult result = search(
        space, prior, options,
        [](const std::vector<Assignment>& batch) { return std::vector<double>(batch.size(), 0.0); },
        {});
    EXPECT_EQ(result.front.size(), 1u);
    EXPECT_GE(result.trials.size(), 40u);
    EXPECT_EQ(result.rank_correlation, 0);
  }
}

// Layer by layer, 30 layers: a plain greedy that takes single perturbations at their word (from the
// dearest, always the step that loses least per bit) against as many measurements as it has steps.
TEST(Search, PerLayerBeatsAPlainGreedy) {
  double log_ratios = 0;
  int64_t count = 0;
  for (uint64_t planted : {1, 2, 3}) {
    const PlantedModel model = test::planted_model(30, planted);
    const std::vector<std::vector<double>> prior = model.measured_alone(0.5, 1);
    std::vector<CostLoss> greedy;
    Assignment a(30, 0);
    for (bool moved = true; moved;) {
      greedy.push_back({cost_of(model.space, a), model.loss(a)});
      double best = std::numeric_limits<double>::infinity();
      size_t best_variable = 30;
      for (size_t i = 0; i < 30; ++i) {
        const auto now = static_cast<size_t>(a[i]);
        if (now + 1 == prior[i].size()) continue;
        const double saved =
            model.space.variables[i][now].cost - model.space.variables[i][now + 1].cost;
        const double price = (prior[i][now + 1] - prior[i][now]) / saved;
        if (price < best) {
          best = price;
          best_variable = i;
        }
      }
      moved = best_variable < 30;
      if (moved) ++a[best_variable];
    }
    ASSERT_EQ(greedy.size(), 121u);

    SearchOptions options;
    options.algorithm = planted == 2 ? Algorithm::kMoead : Algorithm::kNsga2;
    options.rounds = 12;
    const SearchResult result = search(model.space, Surrogate(prior), options, measure(model), {});
    ASSERT_LE(result.trials.size(), 200u);
    double worst = 0;
    for (const CostLoss& point : front_points(result)) {
      if (point.cost < 2.2 || point.cost > 7) continue;
      // Greedy's curve at the same cost, log-linear between its steps, which descend in cost.
      const auto below = std::find_if(greedy.begin(), greedy.end(),
                                      [&](const CostLoss& g) { return g.cost < point.cost; });
      const CostLoss& low = *below;
      const CostLoss& high = *std::prev(below);
      const double share = (point.cost - low.cost) / (high.cost - low.cost);
      const double level = std::log(low.loss) + share * (std::log(high.loss) - std::log(low.loss));
      log_ratios += std::log(point.loss) - level;
      worst = std::max(worst, std::log(point.loss) - level);
      ++count;
    }
    EXPECT_LT(worst, std::log(1.1)) << "model " << planted;
    EXPECT_GT(result.rank_correlation, 0.97);
  }
  ASSERT_GT(count, 150);
  EXPECT_LT(log_ratios / static_cast<double>(count), std::log(0.95))
      << "on average " << std::exp(log_ratios / static_cast<double>(count)) << " of greedy's loss";
}

// Keys and values of 30 layers apart: 60 variables of 3 choices.
TEST(Search, SixtyVariablesAreSearched) {
  PlantedModel model = test::planted_model(60, 1);
  for (size_t i = 0; i < 60; ++i) {
    model.space.variables[i].resize(3);
    model.alone[i].resize(3);
  }
  SearchOptions options;
  options.rounds = 4;
  const SearchResult result = search_in(model, options);
  EXPECT_EQ(result.trials.size(), 66u);
  EXPECT_GT(result.front.size(), 30u);
  EXPECT_GT(result.rank_correlation, 0.95);
}

TEST(Search, RefusesWhatMakesNoSense) {
  const PlantedModel model = test::planted_model(6, 1);
  const auto refusal = [&](const SearchOptions& options) {
    return complaint([&] { search_in(model, options); });
  };
  SearchOptions options;
  options.max_cost = 1.5;
  EXPECT_THAT(refusal(options), HasSubstr("invalid_argument: nothing costs between 2 and 1.5: what "
                                          "there is to choose from costs 2 to 8"));
  options = {};
  options.per_round = 0;
  EXPECT_THAT(refusal(options), HasSubstr("at least 1 in each"));
  options = {};
  options.population = 4;
  EXPECT_THAT(refusal(options), HasSubstr("a population of 4"));
  options = {};
  options.start = {{0, 0, 0, 0, 0, 5}};
  EXPECT_THAT(refusal(options), HasSubstr("another shape"));
  EXPECT_THAT(
      complaint([&] { search(model.space, Surrogate(Prior{{.1}}), {}, measure(model), {}); }),
      HasSubstr("6 variables to search, the surrogate knows 1"));
  EXPECT_THAT(complaint([&] {
                search(model.space, Surrogate(model.alone), {},
                       [](const std::vector<Assignment>& batch) {
                         return std::vector<double>(batch.size(), NAN);
                       },
                       {});
              }),
              HasSubstr("numeric: trial 0: its loss is nan"));
}

}  // namespace
}  // namespace lowkey::tune
