#include "tune/search.h"

#include <cmath>
#include <set>
#include <utility>

#include "core/error.h"
#include "tune/pareto.h"
#include "tune/propose.h"

namespace lowkey::tune {
namespace {

void check_arguments(const SearchSpace& space, const Surrogate& surrogate,
                     const SearchOptions& options) {
  if (options.rounds < 0 || options.per_round < 1) {
    fail(ErrorCode::kInvalidArgument,
         "a search of {} rounds of {} measurements: at least 1 in each", options.rounds,
         options.per_round);
  }
  if (options.population < 8 || options.generations < 1) {
    fail(ErrorCode::kInvalidArgument,
         "a population of {} over {} generations: at least 8 over 1 are meant", options.population,
         options.generations);
  }
  if (space.variables.size() != surrogate.num_variables()) {
    fail(ErrorCode::kInvalidArgument, "{} variables to search, the surrogate knows {}",
         space.variables.size(), surrogate.num_variables());
  }
  for (size_t i = 0; i < space.variables.size(); ++i) {
    if (space.variables[i].size() != surrogate.num_choices(i)) {
      fail(ErrorCode::kInvalidArgument, "variable {} has {} choices, the surrogate knows {}", i,
           space.variables[i].size(), surrogate.num_choices(i));
    }
    for (const Choice& choice : space.variables[i]) {
      if (!std::isfinite(choice.cost)) {
        fail(ErrorCode::kNumeric, "variable {}: a choice costs {}", i, choice.cost);
      }
    }
  }
  for (const Assignment& assignment : options.start) {
    bool fits = assignment.size() == space.variables.size();
    for (size_t i = 0; fits && i < assignment.size(); ++i) {
      fits = assignment[i] >= 0 && static_cast<size_t>(assignment[i]) < space.variables[i].size();
    }
    if (!fits) fail(ErrorCode::kInvalidArgument, "an assignment to start with has another shape");
  }
}

class Search {
 public:
  Search(const SearchSpace& space, Surrogate surrogate, const SearchOptions& options,
         const EvaluateBatch& evaluate, const ProgressFn& progress)
      : space_(space),
        surrogate_(std::move(surrogate)),
        options_(options),
        evaluate_(evaluate),
        progress_(progress),
        yardstick_(space, surrogate_, options),
        proposer_(space, options, yardstick_),
        rng_(options.seed) {}

  SearchResult run() {
    std::vector<Assignment> batch = first_batch();
    total_ = static_cast<int64_t>(batch.size()) + int64_t{options_.rounds} * options_.per_round;
    measure(batch);
    for (int32_t round = 0; round < options_.rounds; ++round) {
      surrogate_.fit(result_.trials);
      batch = proposer_.propose(surrogate_, result_.trials, measured_, options_.per_round, rng_);
      if (batch.empty()) break;
      measure(batch);
    }
    finish();
    return std::move(result_);
  }

 private:
  std::vector<Assignment> first_batch() const {
    std::vector<Assignment> wanted = options_.start;
    for (bool dearest : {false, true}) wanted.push_back(proposer_.extreme(surrogate_, dearest));
    std::vector<Assignment> batch;
    std::set<Assignment> seen;
    for (Assignment& assignment : wanted) {
      if (!yardstick_.allows_cost(cost_of(space_, assignment))) continue;
      if (seen.insert(assignment).second) batch.push_back(std::move(assignment));
    }
    return batch;
  }

  void measure(const std::vector<Assignment>& batch) {
    report(progress_, "search", static_cast<int64_t>(result_.trials.size()), total_);
    if (batch.empty()) return;
    const std::vector<double> losses = evaluate_(batch);
    LOWKEY_CHECK(losses.size() == batch.size(), "{} losses for {} assignments", losses.size(),
                 batch.size());
    for (size_t i = 0; i < batch.size(); ++i) {
      if (!std::isfinite(losses[i])) {
        fail(ErrorCode::kNumeric, "trial {}: its loss is {}", result_.trials.size(), losses[i]);
      }
      // The surrogate has not seen this batch yet: the prediction is honest.
      result_.predicted.push_back(surrogate_.predict(batch[i]));
      result_.trials.push_back({batch[i], cost_of(space_, batch[i]), losses[i]});
      measured_.insert(batch[i]);
      yardstick_.cover(losses[i]);
    }
    report(progress_, "search", static_cast<int64_t>(result_.trials.size()), total_);
  }

  void finish() {
    std::vector<CostLoss> points;
    std::vector<double> losses;
    std::vector<size_t> allowed;
    for (size_t t = 0; t < result_.trials.size(); ++t) {
      const Trial& trial = result_.trials[t];
      losses.push_back(trial.loss);
      if (!yardstick_.allows(trial.cost, trial.loss)) continue;
      points.push_back({trial.cost, trial.loss});
      allowed.push_back(t);
    }
    for (size_t i : pareto_front(points)) result_.front.push_back(allowed[i]);
    result_.rank_correlation = spearman(result_.predicted, losses);
    if (!result_.trials.empty()) surrogate_.fit(result_.trials);
    result_.gamma = surrogate_.gamma();
  }

  const SearchSpace& space_;
  Surrogate surrogate_;
  const SearchOptions& options_;
  const EvaluateBatch& evaluate_;
  const ProgressFn& progress_;
  Yardstick yardstick_;
  Proposer proposer_;
  SplitMix64 rng_;
  std::set<Assignment> measured_;
  SearchResult result_;
  int64_t total_ = 0;
};

}  // namespace

double cost_of(const SearchSpace& space, std::span<const int32_t> assignment) {
  LOWKEY_CHECK(assignment.size() == space.variables.size(), "{} choices for {} variables",
               assignment.size(), space.variables.size());
  double cost = 0;
  for (size_t i = 0; i < assignment.size(); ++i) {
    cost += space.variables[i][static_cast<size_t>(assignment[i])].cost;
  }
  return cost;
}

SearchResult search(const SearchSpace& space, Surrogate surrogate, const SearchOptions& options,
                    const EvaluateBatch& evaluate, const ProgressFn& progress) {
  check_arguments(space, surrogate, options);
  return Search(space, std::move(surrogate), options, evaluate, progress).run();
}

}  // namespace lowkey::tune
