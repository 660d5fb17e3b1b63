#pragma once
// KVTuner (arXiv 2502.04420) from tables of errors to a measured front: prune, group, perturb,
// search, measure again on held-out text. Torch-free: what measures is behind Trials. Belongs to
// one thread.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/progress.h"
#include "recipe/candidates.h"
#include "recipe/front.h"
#include "recipe/recipe.h"
#include "tune/cluster.h"
#include "tune/prune.h"
#include "tune/search.h"
#include "tune/trials.h"

namespace lowkey::tune {

enum class CostKind : uint8_t {
  kCodeBits,    // what the papers count
  kStoredBits,  // all that is allocated, at TuneOptions::ctx tokens
};
enum class LossKind : uint8_t { kKl, kPerplexity, kTask };
enum class Granularity : uint8_t {
  kLayer,  // every layer is a variable: the surrogate makes that affordable
  kGroup,  // every group of alike layers, as in the paper
};

struct TuneOptions {
  std::vector<LayerCandidate> candidates;
  int32_t intact_prefix = 1;
  bool prune = true;
  ClusterOptions cluster;
  Granularity granularity = Granularity::kLayer;
  CostKind cost = CostKind::kCodeBits;
  LossKind loss = LossKind::kKl;
  int64_t ctx = 1024;  // tokens at which stored bits and bytes are counted
  Algorithm algorithm = Algorithm::kNsga2;
  uint64_t seed = 1;
  int32_t trials = 96;      // the search's real evaluations
  int32_t per_round = 12;   // of them, between two fits of the surrogate
  int32_t max_points = 24;  // of the published front
  // Recipes that are measured besides, for comparison.
  std::vector<std::string> references;
  std::optional<double> min_cost, max_cost, max_loss;
};

// One layer (or group) at one candidate, the others in 16 bits; or, from below, all at their
// cheapest and this one raised to its dearest.
struct Sensitivity {
  std::vector<int32_t> layers;
  int32_t candidate = 0;
  bool from_low = false;
  double kl = 0;
};

struct MeasuredPoint {
  enum class Kind : uint8_t { kSensitivity, kSearch, kReference };
  Kind kind = Kind::kSearch;
  double code_bits = 0, stored_bits = 0, kl = 0;
};

struct TuneResult {
  std::vector<std::vector<int32_t>> kept;  // candidates of every layer
  std::vector<LayerGroup> groups;
  std::vector<Sensitivity> sensitivity;
  Measurement reference, reference_heldout;  // 16 bits
  Front front;                               // points and references; model fields are empty
  std::vector<MeasuredPoint> trials;         // everything measured on the calibration set
  double rank_correlation = 0;
  double gamma = 1;
  int64_t search_trials = 0;  // real evaluations by the search, its start included
};

// tables[layer][candidate]: e_o from probe; bits are filled in here. Deterministic in its arguments
// and in what the trials answer. Throws Error kInvalidArgument for options that make no sense (no
// candidates, tables of another shape, bounds that nothing fits).
TuneResult tune(const TuneOptions& options, const KvShape& shape,
                std::span<const std::vector<double>> e_o, Trials& trials,
                const ProgressFn& progress);

// Perplexity, KL or accuracy as a number to be made small.
double loss_of(const Measurement& measurement, const Measurement& reference, LossKind kind);

}  // namespace lowkey::tune
