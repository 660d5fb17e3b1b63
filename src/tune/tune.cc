#include "tune/tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "recipe/bytes.h"

namespace lowkey::tune {
namespace {

// Below this, what a cache loses is less than what bf16 does to the same model (docs/tune.md).
constexpr double kNegligibleKl = 0.001;

KvRecipe uniform(const LayerRecipe& layer, int32_t intact_prefix) {
  return recipe_of_layers(std::span(&layer, 1), intact_prefix);
}

std::vector<LayerGroup> one_by_one(std::span<const std::vector<int32_t>> kept) {
  std::vector<LayerGroup> groups;
  for (size_t layer = 0; layer < kept.size(); ++layer) {
    groups.push_back({{static_cast<int32_t>(layer)}, kept[layer]});
  }
  return groups;
}

// `count` of the indices 0..size-1, evenly spread, both ends among them.
std::vector<size_t> evenly(size_t size, size_t count) {
  std::vector<size_t> chosen;
  if (size <= count) {
    chosen.resize(size);
    std::iota(chosen.begin(), chosen.end(), size_t{0});
    return chosen;
  }
  for (size_t i = 0; i < count; ++i) chosen.push_back(i * (size - 1) / (count - 1));
  return chosen;
}

class Tuner {
 public:
  Tuner(const TuneOptions& options, const KvShape& shape, Trials& trials,
        const ProgressFn& progress)
      : options_(options), shape_(shape), trials_(trials), progress_(progress) {
    for (const LayerCandidate& candidate : options.candidates) {
      const ResolvedRecipe recipe =
          resolve_recipe(uniform(candidate.layer, options.intact_prefix), shape);
      costs_.push_back(options.cost == CostKind::kCodeBits
                           ? lowkey::code_bits(recipe)
                           : lowkey::stored_bits(recipe, options.ctx));
    }
  }

  TuneResult run(std::span<const std::vector<double>> e_o) {
    prune(e_o);
    measure_references();
    measure_alone();
    measure_from_below();
    search_front();
    publish();
    return std::move(result_);
  }

 private:
  using LayerChoice = std::vector<int32_t>;  // candidate per layer; -1: 16 bits

  const LayerRecipe& layer_of(int32_t candidate) const {
    static const LayerRecipe kPlain;
    return candidate < 0 ? kPlain : options_.candidates[static_cast<size_t>(candidate)].layer;
  }

  std::string recipe_text(const LayerChoice& choice) const {
    std::vector<LayerRecipe> layers;
    for (int32_t candidate : choice) layers.push_back(layer_of(candidate));
    return recipe_to_string(recipe_of_layers(layers, options_.intact_prefix));
  }

  ResolvedRecipe resolved(const std::string& recipe) const {
    return resolve_recipe(parse_recipe(recipe), shape_);
  }

  // Candidates of all layers from those of the variables.
  LayerChoice spread(std::span<const int32_t> assignment) const {
    LayerChoice choice(static_cast<size_t>(shape_.num_layers), -1);
    for (size_t v = 0; v < variables_.size(); ++v) {
      for (int32_t layer : variables_[v].layers) {
        choice[static_cast<size_t>(layer)] = variables_[v].kept[static_cast<size_t>(assignment[v])];
      }
    }
    return choice;
  }

  LayerChoice alone(const LayerGroup& variable, int32_t candidate) const {
    LayerChoice choice(static_cast<size_t>(shape_.num_layers), -1);
    for (int32_t layer : variable.layers) choice[static_cast<size_t>(layer)] = candidate;
    return choice;
  }

  // Which of a variable's kept candidates costs least, or most.
  int32_t extreme(const LayerGroup& variable, bool dearest) const {
    size_t best = 0;
    for (size_t i = 1; i < variable.kept.size(); ++i) {
      const double a = costs_[static_cast<size_t>(variable.kept[i])];
      const double b = costs_[static_cast<size_t>(variable.kept[best])];
      if (dearest ? a > b : a < b) best = i;
    }
    return static_cast<int32_t>(best);
  }

  void prune(std::span<const std::vector<double>> e_o) {
    std::vector<std::vector<CandidateError>> tables;
    std::vector<int32_t> all(options_.candidates.size());
    std::iota(all.begin(), all.end(), 0);
    for (const std::vector<double>& errors : e_o) {
      auto& table = tables.emplace_back();
      for (size_t c = 0; c < errors.size(); ++c) table.push_back({costs_[c], errors[c]});
      result_.kept.push_back(options_.prune ? std::vector<int32_t>() : all);
    }
    if (options_.prune) result_.kept = prune_layers(tables);
    result_.groups = cluster_layers(tables, result_.kept, options_.cluster);
    variables_ =
        options_.granularity == Granularity::kGroup ? result_.groups : one_by_one(result_.kept);
  }

  double loss(const Measurement& m) const { return loss_of(m, result_.reference, options_.loss); }

  std::vector<Measurement> measure(const std::vector<std::string>& recipes, std::string_view what,
                                   MeasuredPoint::Kind kind) {
    std::vector<Job> jobs;
    for (const std::string& recipe : recipes) jobs.push_back({DataSet::kCalibration, recipe});
    std::vector<Measurement> measured = trials_.measure(jobs, what, progress_);
    for (size_t i = 0; i < recipes.size(); ++i) {
      const ResolvedRecipe recipe = resolved(recipes[i]);
      result_.trials.push_back({kind, lowkey::code_bits(recipe),
                                lowkey::stored_bits(recipe, options_.ctx), measured[i].kl});
    }
    return measured;
  }

  void measure_references() {
    std::vector<std::string> recipes = {"16"};
    recipes.insert(recipes.end(), options_.references.begin(), options_.references.end());
    std::vector<Job> jobs;
    for (const std::string& recipe : recipes) jobs.push_back({DataSet::kHeldout, recipe});
    const auto on_calibration =
        measure(recipes, "measuring uniform recipes", MeasuredPoint::Kind::kReference);
    const auto heldout = trials_.measure(jobs, "measuring uniform recipes, held out", progress_);
    result_.trials.erase(result_.trials.begin());  // 16 bits is no point of any plot
    result_.reference = on_calibration[0];
    result_.reference_heldout = heldout[0];
    for (size_t i = 1; i < recipes.size(); ++i) {
      result_.front.references.push_back(point(recipes[i], on_calibration[i], heldout[i]));
    }
  }

  // Every variable at every candidate it kept, the others in 16 bits: the surrogate's prior. Its
  // dearest is measured for all variables at once; alone it would drown in rounding.
  void measure_alone() {
    std::vector<std::string> recipes;
    LayerChoice dearest(static_cast<size_t>(shape_.num_layers), -1);
    for (const LayerGroup& variable : variables_) {
      const int32_t most = extreme(variable, true);
      for (size_t i = 0; i < variable.kept.size(); ++i) {
        if (static_cast<int32_t>(i) == most) continue;
        recipes.push_back(recipe_text(alone(variable, variable.kept[i])));
        result_.sensitivity.push_back({variable.layers, variable.kept[i], false, 0});
      }
      for (int32_t layer : variable.layers) {
        dearest[static_cast<size_t>(layer)] = variable.kept[static_cast<size_t>(most)];
      }
    }
    recipes.push_back(recipe_text(dearest));
    const auto measured =
        measure(recipes, "perturbing one layer at a time", MeasuredPoint::Kind::kSensitivity);
    const double all_dearest = std::max(0.0, loss(measured.back()));
    size_t at = 0;
    for (const LayerGroup& variable : variables_) {
      const int32_t most = extreme(variable, true);
      auto& prior = prior_.emplace_back();
      for (size_t i = 0; i < variable.kept.size(); ++i) {
        if (static_cast<int32_t>(i) == most) {
          prior.push_back(all_dearest / static_cast<double>(variables_.size()));
        } else {
          result_.sensitivity[at].kl = measured[at].kl;
          prior.push_back(std::max(0.0, loss(measured[at])));
          ++at;
        }
      }
    }
  }

  // The other direction: all at their cheapest, one raised. The search starts from these.
  void measure_from_below() {
    Assignment low;
    for (const LayerGroup& variable : variables_) low.push_back(extreme(variable, false));
    starts_.push_back(low);
    add_uniform_starts();
    std::vector<std::string> recipes = {recipe_text(spread(low))};
    for (size_t v = 0; v < variables_.size(); ++v) {
      Assignment raised = low;
      raised[v] = extreme(variables_[v], true);
      if (raised == low) continue;
      recipes.push_back(recipe_text(spread(raised)));
      result_.sensitivity.push_back(
          {variables_[v].layers, variables_[v].kept[static_cast<size_t>(raised[v])], true, 0});
      starts_.push_back(std::move(raised));
    }
    const auto measured =
        measure(recipes, "raising one layer at a time", MeasuredPoint::Kind::kSensitivity);
    const size_t first = result_.sensitivity.size() - (measured.size() - 1);
    for (size_t i = 1; i < measured.size(); ++i) {
      result_.sensitivity[first + i - 1].kl = measured[i].kl;
    }
  }

  // Every candidate for all layers, where each of them kept it: what the search must beat.
  void add_uniform_starts() {
    for (int32_t candidate = 0; candidate < std::ssize(options_.candidates); ++candidate) {
      Assignment everywhere;
      for (const LayerGroup& variable : variables_) {
        const auto kept = std::find(variable.kept.begin(), variable.kept.end(), candidate);
        if (kept == variable.kept.end()) break;
        everywhere.push_back(static_cast<int32_t>(kept - variable.kept.begin()));
      }
      if (everywhere.size() == variables_.size()) starts_.push_back(std::move(everywhere));
    }
  }

  void search_front() {
    SearchSpace space;
    for (const LayerGroup& variable : variables_) {
      auto& choices = space.variables.emplace_back();
      const double share =
          static_cast<double>(variable.layers.size()) / static_cast<double>(shape_.num_layers);
      for (int32_t candidate : variable.kept) {
        choices.push_back({costs_[static_cast<size_t>(candidate)] * share});
      }
    }
    SearchOptions options;
    options.algorithm = options_.algorithm;
    options.seed = options_.seed;
    options.per_round = std::min(options_.per_round, options_.trials);
    options.rounds = std::max(1, options_.trials / std::max(1, options.per_round));
    options.min_cost = options_.min_cost;
    options.max_cost = options_.max_cost;
    options.max_loss = options_.max_loss;
    options.start = starts_;
    if (options_.loss == LossKind::kKl) options.negligible_loss = kNegligibleKl;
    int64_t asked = 0;
    const int64_t expected = std::ssize(starts_) + options.rounds * options.per_round;
    const SearchResult found =
        search(space, Surrogate(prior_), options,
               [&](const std::vector<Assignment>& assignments) {
                 std::vector<std::string> recipes;
                 for (const Assignment& assignment : assignments) {
                   recipes.push_back(recipe_text(spread(assignment)));
                 }
                 const auto measured =
                     measure(recipes, fmt::format("searching, {} of {}", asked, expected),
                             MeasuredPoint::Kind::kSearch);
                 asked += std::ssize(assignments);
                 std::vector<double> losses;
                 for (const Measurement& m : measured) losses.push_back(std::max(0.0, loss(m)));
                 return losses;
               },
               {});
    result_.rank_correlation = found.rank_correlation;
    result_.gamma = found.gamma;
    result_.search_trials = std::ssize(found.trials);
    for (size_t index : found.front) {
      front_.push_back(recipe_text(spread(found.trials[index].assignment)));
    }
  }

  // Both sets' numbers of the front's points; on the calibration set they are known.
  void publish() {
    std::vector<Job> jobs;
    std::vector<Job> heldout;
    for (size_t index : evenly(front_.size(), static_cast<size_t>(options_.max_points))) {
      jobs.push_back({DataSet::kCalibration, front_[index]});
      heldout.push_back({DataSet::kHeldout, front_[index]});
    }
    const auto measured = trials_.measure(jobs, "", progress_);
    const auto again = trials_.measure(heldout, "measuring the front on held-out text", progress_);
    for (size_t i = 0; i < jobs.size(); ++i) {
      result_.front.points.push_back(point(jobs[i].recipe, measured[i], again[i]));
    }
    std::stable_sort(
        result_.front.points.begin(), result_.front.points.end(),
        [](const FrontPoint& a, const FrontPoint& b) { return a.code_bits < b.code_bits; });
    result_.front.ctx = options_.ctx;
  }

  FrontPoint point(const std::string& text, const Measurement& m,
                   const Measurement& heldout) const {
    const ResolvedRecipe recipe = resolved(text);
    FrontPoint point;
    point.recipe = text;
    point.code_bits = lowkey::code_bits(recipe);
    point.stored_bits = lowkey::stored_bits(recipe, options_.ctx);
    point.bytes_per_token = static_cast<double>(bytes_at(recipe, options_.ctx).total()) /
                            static_cast<double>(options_.ctx);
    point.kl = m.kl;
    point.kl_ci = m.kl_ci;
    point.top1_agreement = m.top1_agreement;
    point.ppl = m.ppl;
    point.ppl_delta_percent = (m.ppl / result_.reference.ppl - 1) * 100;
    point.task_accuracy = m.task_accuracy;
    point.kl_heldout = heldout.kl;
    point.kl_heldout_ci = heldout.kl_ci;
    point.ppl_heldout = heldout.ppl;
    point.ppl_delta_percent_heldout = (heldout.ppl / result_.reference_heldout.ppl - 1) * 100;
    point.top1_agreement_heldout = heldout.top1_agreement;
    return point;
  }

  const TuneOptions& options_;
  const KvShape& shape_;
  Trials& trials_;
  const ProgressFn& progress_;
  std::vector<double> costs_;  // bits of a layer at each candidate
  std::vector<LayerGroup> variables_;
  std::vector<std::vector<double>> prior_;
  std::vector<Assignment> starts_;
  std::vector<std::string> front_;
  TuneResult result_;
};

}  // namespace

double loss_of(const Measurement& m, const Measurement& reference, LossKind kind) {
  switch (kind) {
    case LossKind::kKl: return m.kl;
    case LossKind::kPerplexity: return std::log(m.ppl / reference.ppl);
    // Accuracy moves in steps; between equals the smaller divergence decides.
    case LossKind::kTask:
      return reference.task_accuracy.value_or(0) - m.task_accuracy.value_or(0) + 0.01 * m.kl;
  }
  return m.kl;
}

TuneResult tune(const TuneOptions& options, const KvShape& shape,
                std::span<const std::vector<double>> e_o, Trials& trials,
                const ProgressFn& progress) {
  if (options.candidates.empty()) fail(ErrorCode::kInvalidArgument, "no candidates to choose from");
  if (std::ssize(e_o) != shape.num_layers) {
    fail(ErrorCode::kInvalidArgument, "errors of {} layers for a model of {}", e_o.size(),
         shape.num_layers);
  }
  for (const std::vector<double>& errors : e_o) {
    if (errors.size() != options.candidates.size()) {
      fail(ErrorCode::kInvalidArgument, "errors of {} candidates where there are {}", errors.size(),
           options.candidates.size());
    }
  }
  if (options.trials < 1 || options.per_round < 1 || options.max_points < 2) {
    fail(ErrorCode::kInvalidArgument,
         "{} trials, {} per round, {} points: at least 1, 1 and 2 are needed", options.trials,
         options.per_round, options.max_points);
  }
  return Tuner(options, shape, trials, progress).run(e_o);
}

}  // namespace lowkey::tune
