#pragma once
// Random fronts for round-trip properties.
#include <algorithm>

#include "recipe/front.h"
#include "recipe/random_recipe.h"

namespace lowkey {

class RandomFront {
 public:
  explicit RandomFront(uint64_t seed) : rng_(seed), recipes_(seed + 1) {}

  Front front() {
    Front front;
    front.model = "model \"é\".gguf";
    if (rng_.below(2) == 0) front.model_sha256 = recipes_.provenance().model_sha256;
    if (rng_.below(2) == 0) front.data_sha256 = recipes_.provenance().data_sha256;
    if (rng_.below(2) == 0) front.command = "lowkey tune m\n--text \\t";
    if (rng_.below(2) == 0) front.num_layers = 1 + static_cast<int32_t>(rng_.below(kMaxLayers));
    front.ctx = 1 + static_cast<int64_t>(rng_.below(kMaxTokens));
    for (uint64_t i = 0; i <= rng_.below(5); ++i) front.points.push_back(point());
    for (uint64_t i = 0; i < rng_.below(4); ++i) front.references.push_back(point());
    std::sort(front.points.begin(), front.points.end(),
              [](const auto& a, const auto& b) { return a.code_bits < b.code_bits; });
    return front;
  }

 private:
  FrontPoint point() {
    FrontPoint point;
    point.recipe = recipe_to_string(recipes_.recipe());
    point.code_bits = 32 * rng_.uniform();
    point.stored_bits = 40 * rng_.uniform();
    point.bytes_per_token = 1e6 * rng_.uniform();
    point.kl = rng_.uniform() * 1e-3;
    point.kl_ci = rng_.uniform() * 1e-9;
    point.top1_agreement = rng_.uniform();
    point.ppl = 1 + 1e3 * rng_.uniform();
    point.ppl_delta_percent = rng_.uniform() - 0.5;
    point.kl_heldout = rng_.uniform();
    point.kl_heldout_ci = rng_.uniform();
    point.ppl_heldout = 20;  // an integer that must stay a number
    point.ppl_delta_percent_heldout = -rng_.uniform();
    point.top1_agreement_heldout = 1;
    if (rng_.below(3) == 0) point.task_accuracy = rng_.uniform();
    return point;
  }

  SplitMix64 rng_;
  RandomRecipe recipes_;
};

}  // namespace lowkey
