#pragma once
// What one layer's precision does to the model's predictions, in both directions: taken away from
// it alone, and given back to it alone. Torch-free header.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/progress.h"
#include "eval/metrics.h"
#include "eval/scorer.h"
#include "recipe/candidates.h"

namespace lowkey {

enum class Perturbation : uint8_t {
  kLowered,   // this layer at the candidate, all others in 16 bits
  kRestored,  // this layer in 16 bits, all others at the candidate
};

struct LayerSensitivity {
  int32_t layer = 0;
  std::string candidate;  // its label
  Perturbation direction = Perturbation::kLowered;
  double kl = 0;  // mean over scored tokens, nats
  double ppl_delta_percent = 0;
};

// Layers ascending within a direction, directions within a candidate. Costs about one and a half
// passes over the scorer's documents per layer and candidate. The same bits for any number of
// threads. Throws Error as Scorer::score.
std::vector<LayerSensitivity> layer_sensitivity(Scorer& scorer, const KvShape& shape,
                                                std::span<const LayerCandidate> candidates,
                                                int32_t intact_prefix, const ProgressFn& progress);

}  // namespace lowkey
