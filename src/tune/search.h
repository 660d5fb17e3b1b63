#pragma once
// The multi-objective search: which assignments of candidates to layers (or groups of layers, or
// their keys and values apart) lie on the front of memory and loss. A surrogate proposes, the
// caller measures; only what was measured is returned. Torch-free.
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "core/progress.h"
#include "tune/evolve.h"
#include "tune/surrogate.h"

namespace lowkey::tune {

struct Choice {
  double cost = 0;  // what it adds to the assignment's: bits times the layers' share, bytes, ...
};

struct SearchSpace {
  std::vector<std::vector<Choice>> variables;  // each with at least one choice
};

double cost_of(const SearchSpace& space, std::span<const int32_t> assignment);

struct SearchOptions {
  Algorithm algorithm = Algorithm::kNsga2;
  uint64_t seed = 1;
  int32_t rounds = 8;
  int32_t per_round = 16;    // measurements
  int32_t population = 100;  // of the evolution on the surrogate, once per round
  int32_t generations = 60;
  // Nothing outside is measured; of what is measured, nothing above max_loss is on the front.
  std::optional<double> max_cost, min_cost;
  std::optional<double> max_loss;
  // Losses far below it are as good as each other: how much of the effort goes to the lossless end.
  // 0: a thousandth of the prior's loss at the cheapest assignment.
  double negligible_loss = 0;
  // Measured first, whatever the surrogate thinks of them, within the bounds on cost; not counted
  // in rounds * per_round. The cheapest and the dearest assignment are always added.
  std::vector<Assignment> start;
};

// Real losses, in order; all assignments of a call are different and were not asked for before.
// Must give the same answers for the same questions; may throw, and the search ends with that.
// Called from the thread that called search().
using EvaluateBatch = std::function<std::vector<double>(const std::vector<Assignment>&)>;

struct SearchResult {
  std::vector<Trial> trials;      // all that was measured, in order
  std::vector<double> predicted;  // the loss each was expected to have before it was measured
  std::vector<size_t> front;      // indices of trials: within all bounds, ascending cost
  double rank_correlation = 0;    // Spearman's, of predicted and measured losses
  double gamma = 1;               // the surrogate's, at the end (see surrogate.h)
};

// Depends on its arguments and on what evaluate() answers, on nothing else: with answers taken from
// a journal it asks the same questions again. Ends early where nothing is left to measure. Throws
// Error kInvalidArgument for options and spaces that make no sense (bounds nothing fits, a
// surrogate of another shape), kNumeric for losses that are not finite.
SearchResult search(const SearchSpace& space, Surrogate surrogate, const SearchOptions& options,
                    const EvaluateBatch& evaluate, const ProgressFn& progress);

}  // namespace lowkey::tune
