#include "tune/tune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "core/error.h"
#include "core/rng.h"
#include "recipe/bytes.h"
#include "support/paths.h"

namespace lowkey::tune {
namespace {

constexpr KvShape kShape{12, 2, 64};

// A model that is nothing but its sensitivities: every layer's keys and values lose what was
// planted, more where bits are few, and neighbouring layers make each other's errors worse.
class PlantedModel : public JobRunner {
 public:
  explicit PlantedModel(uint64_t seed) {
    SplitMix64 rng(seed);
    for (int32_t layer = 0; layer < kShape.num_layers; ++layer) {
      keys_.push_back(std::exp(4 * rng.uniform() - 7));
      values_.push_back(std::exp(2 * rng.uniform() - 7));
    }
  }

  double kl(const std::string& text) const {
    const ResolvedRecipe recipe = resolve_recipe(parse_recipe(text), kShape);
    double sum = 0, before = 0;
    for (size_t layer = 0; layer < recipe.layers.size(); ++layer) {
      const HeadRecipe& head = recipe.layers[layer].heads[0];
      const double own = keys_[layer] * loss(head.k.bits) + values_[layer] * loss(head.v.bits);
      sum += own + 0.5 * std::sqrt(own * before);
      before = own;
    }
    return sum;
  }

  double e_o(size_t layer, const LayerCandidate& candidate) const {
    return std::sqrt(keys_[layer] * loss(candidate.layer.k.bits) +
                     values_[layer] * loss(candidate.layer.v.bits));
  }

  void run(std::span<const Job> jobs, const DoneFn& done, const ProgressFn&) override {
    for (size_t i = 0; i < jobs.size(); ++i) {
      ++measured[jobs[i]];
      if (interrupt_after > 0 && --interrupt_after == 0) {
        fail(ErrorCode::kCancelled, "interrupted");
      }
      const double value = kl(jobs[i].recipe) * (jobs[i].set == DataSet::kHeldout ? 1.1 : 1.0);
      done(i, {.kl = value,
               .kl_ci = value / 10,
               .kl_p999 = value * 9,
               .ppl = 20 * std::exp(value),
               .top1_agreement = 1 / (1 + value),
               .task_accuracy = {}});
    }
  }

  std::map<Job, int> measured;
  int interrupt_after = 0;

 private:
  static double loss(int32_t bits) { return bits >= 16 ? 0 : std::pow(4.0, 2 - bits); }
  std::vector<double> keys_, values_;
};

TuneOptions some_options() {
  TuneOptions options;
  options.candidates = make_candidates({});
  options.trials = 96;
  options.references = {"kivi-8:r32+i1", "kivi-4:r32+i1", "kivi-2:r32+i1"};
  return options;
}

std::vector<std::vector<double>> tables(const PlantedModel& model, const TuneOptions& options) {
  std::vector<std::vector<double>> e_o;
  for (size_t layer = 0; layer < static_cast<size_t>(kShape.num_layers); ++layer) {
    auto& row = e_o.emplace_back();
    for (const LayerCandidate& candidate : options.candidates) {
      row.push_back(model.e_o(layer, candidate));
    }
  }
  return e_o;
}

TuneResult run(PlantedModel& model, const TuneOptions& options, Journal* journal = nullptr) {
  Trials trials(model, journal);
  return tune(options, kShape, tables(model, options), trials, {});
}

TEST(Tune, PublishesNothingThatWasNotMeasured) {
  PlantedModel model(1);
  const TuneOptions options = some_options();
  const TuneResult result = run(model, options);
  ASSERT_GE(result.front.points.size(), 8u);
  ASSERT_LE(result.front.points.size(), 24u);
  double bits = 0, kl = 1e9;
  for (const FrontPoint& point : result.front.points) {
    EXPECT_TRUE(model.measured.contains(Job{DataSet::kCalibration, point.recipe}));
    EXPECT_TRUE(model.measured.contains(Job{DataSet::kHeldout, point.recipe}));
    EXPECT_EQ(point.kl, model.kl(point.recipe));
    EXPECT_EQ(point.kl_heldout, model.kl(point.recipe) * 1.1);
    const ResolvedRecipe recipe = resolve_recipe(parse_recipe(point.recipe), kShape);
    EXPECT_EQ(recipe.intact_prefix, 1);
    EXPECT_EQ(point.code_bits, code_bits(recipe));
    EXPECT_EQ(point.stored_bits, stored_bits(recipe, options.ctx));
    EXPECT_EQ(point.bytes_per_token * 1024, bytes_at(recipe, 1024).total());
    EXPECT_GT(point.code_bits, bits);
    EXPECT_LT(point.kl, kl);
    bits = point.code_bits;
    kl = point.kl;
  }
  for (const auto& [job, times] : model.measured) EXPECT_EQ(times, 1) << job.recipe;
  ASSERT_EQ(result.front.references.size(), 3u);
  EXPECT_EQ(result.front.references[1].recipe, "kivi-4:r32+i1");
  EXPECT_GT(result.rank_correlation, 0.8);
}

// The front lies below uniform recipes, and below greedy steps from 4 to 2 bits by each layer's own
// loss.
TEST(Tune, BeatsUniformAndGreedy) {
  for (uint64_t seed : {2, 3, 4}) {
    PlantedModel model(seed);
    const TuneResult result = run(model, some_options());
    const auto best_within = [&](double bits) {
      double kl = 1e9;
      for (const FrontPoint& point : result.front.points) {
        if (point.code_bits <= bits + 1e-9) kl = std::min(kl, point.kl);
      }
      return kl;
    };
    EXPECT_LT(best_within(4), 0.6 * model.kl("kivi-4:r32+i1")) << seed;

    std::vector<int32_t> order(static_cast<size_t>(kShape.num_layers));
    std::iota(order.begin(), order.end(), 0);
    const auto alone = [&](int32_t layer) {
      return model.kl(fmt::format("{}=kivi-2:r32,*=16", layer));
    };
    std::sort(order.begin(), order.end(),
              [&](int32_t a, int32_t b) { return alone(a) < alone(b); });
    std::vector<LayerRecipe> layers(order.size(), parse_recipe("kivi-4:r32").rules[0].layer);
    const LayerRecipe low = parse_recipe("kivi-2:r32").rules[0].layer;
    for (size_t step = 0; step + 1 < order.size(); ++step) {
      layers[static_cast<size_t>(order[step])] = low;
      const std::string greedy = recipe_to_string(recipe_of_layers(layers, 1));
      const double bits = code_bits(resolve_recipe(parse_recipe(greedy), kShape));
      EXPECT_LT(best_within(bits), model.kl(greedy)) << "seed " << seed << ", " << bits << " bits";
    }
  }
}

TEST(Tune, SameSettingsSameResult) {
  PlantedModel a(5), b(5);
  TuneOptions options = some_options();
  options.algorithm = Algorithm::kMoead;
  options.granularity = Granularity::kGroup;
  const TuneResult first = run(a, options), second = run(b, options);
  EXPECT_EQ(first.front, second.front);
  EXPECT_EQ(first.groups, second.groups);
  EXPECT_EQ(first.rank_correlation, second.rank_correlation);
}

// Interrupted anywhere, it ends with the same front and measures nothing twice.
TEST(Tune, GoesOnFromTheJournal) {
  const TuneOptions options = some_options();
  PlantedModel whole(6);
  const TuneResult expected = run(whole, options);
  for (int interrupt : {1, 3, 20, 60, 100, 150, 180}) {
    const test::TempDir folder;
    const nlohmann::json settings = {{"seed", 6}};
    std::set<Job> kept;
    {
      PlantedModel model(6);
      model.interrupt_after = interrupt;
      Journal journal(folder.path() / "journal.jsonl", settings);
      EXPECT_THROW(run(model, options, &journal), Error);
      EXPECT_EQ(model.measured.size(), static_cast<size_t>(interrupt));
    }
    PlantedModel model(6);
    Journal journal(folder.path() / "journal.jsonl", settings);
    EXPECT_EQ(journal.records().size(), static_cast<size_t>(interrupt - 1));
    const TuneResult result = run(model, options, &journal);
    EXPECT_EQ(result.front, expected.front);
    EXPECT_EQ(result.rank_correlation, expected.rank_correlation);
    EXPECT_EQ(model.measured.size() + journal.records().size(), whole.measured.size());
  }
}

TEST(Tune, KeepsItsBounds) {
  PlantedModel model(7);
  TuneOptions options = some_options();
  options.min_cost = 2.5;
  options.max_cost = 3.5;
  options.max_loss = 0.5 * model.kl("kivi-2:r32+i1");
  const TuneResult result = run(model, options);
  ASSERT_FALSE(result.front.points.empty());
  for (const FrontPoint& point : result.front.points) {
    EXPECT_GE(point.code_bits, 2.5 - 1e-9);
    EXPECT_LE(point.code_bits, 3.5 + 1e-9);
    EXPECT_LE(point.kl, *options.max_loss);
  }
}

TEST(Tune, CountsStoredBitsWhenAsked) {
  PlantedModel model(8);
  TuneOptions options = some_options();
  options.cost = CostKind::kStoredBits;
  options.candidates = parse_candidates("kivi-4:r32,kivi-4:g64:r64,kivi-2:r32,kivi-2:g64:r64");
  const TuneResult result = run(model, options);
  double bits = 0;
  for (const FrontPoint& point : result.front.points) {
    EXPECT_GT(point.stored_bits, 0);
    bits = std::max(bits, point.stored_bits);
  }
  // The same codes in larger groups cost less: nothing else is on this front.
  EXPECT_LE(bits,
            stored_bits(resolve_recipe(parse_recipe("kivi-4:g64:r64+i1"), kShape), 1024) + 1e-9);
}

TEST(Tune, GroupsAreSearchedAsOne) {
  PlantedModel model(9);
  TuneOptions options = some_options();
  options.granularity = Granularity::kGroup;
  options.cluster.eps = 0.2;
  const TuneResult result = run(model, options);
  EXPECT_LT(result.groups.size(), static_cast<size_t>(kShape.num_layers));
  for (const FrontPoint& point : result.front.points) {
    const ResolvedRecipe recipe = resolve_recipe(parse_recipe(point.recipe), kShape);
    for (const LayerGroup& group : result.groups) {
      for (int32_t layer : group.layers) {
        EXPECT_EQ(recipe.layers[static_cast<size_t>(layer)].heads[0],
                  recipe.layers[static_cast<size_t>(group.layers[0])].heads[0]);
      }
    }
  }
}

TEST(Tune, RefusesWhatMakesNoSense) {
  PlantedModel model(1);
  Trials trials(model, nullptr);
  TuneOptions options = some_options();
  auto e_o = tables(model, options);
  e_o.pop_back();
  EXPECT_THROW(tune(options, kShape, e_o, trials, {}), Error);
  e_o = tables(model, options);
  e_o[3].pop_back();
  EXPECT_THROW(tune(options, kShape, e_o, trials, {}), Error);
  e_o = tables(model, options);
  options.candidates.clear();
  EXPECT_THROW(tune(options, kShape, e_o, trials, {}), Error);
  options = some_options();
  options.max_cost = 1;
  EXPECT_THROW(tune(options, kShape, e_o, trials, {}), Error);
}

TEST(Tune, LossesAreWhatTheyAreCalled) {
  const Measurement plain{.ppl = 20, .task_accuracy = 0.5};
  const Measurement m{.kl = 0.02, .ppl = 22, .task_accuracy = 0.4};
  EXPECT_EQ(loss_of(m, plain, LossKind::kKl), 0.02);
  EXPECT_NEAR(loss_of(m, plain, LossKind::kPerplexity), std::log(1.1), 1e-12);
  EXPECT_NEAR(loss_of(m, plain, LossKind::kTask), 0.1002, 1e-12);
}

}  // namespace
}  // namespace lowkey::tune
