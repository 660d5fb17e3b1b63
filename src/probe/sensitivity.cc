#include "probe/sensitivity.h"

#include <fmt/format.h>

namespace lowkey {

std::vector<LayerSensitivity> layer_sensitivity(Scorer& scorer, const KvShape& shape,
                                                std::span<const LayerCandidate> candidates,
                                                int32_t intact_prefix, const ProgressFn& progress) {
  const double plain_ppl = summarize(scorer.reference()).perplexity;
  const int64_t total = std::ssize(candidates) * 2 * shape.num_layers * scorer.tokens();
  int64_t done = 0;
  std::vector<LayerSensitivity> all;
  for (const LayerCandidate& candidate : candidates) {
    for (const Perturbation direction : {Perturbation::kLowered, Perturbation::kRestored}) {
      const bool lowered = direction == Perturbation::kLowered;
      for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
        std::vector<LayerRecipe> layers(static_cast<size_t>(shape.num_layers),
                                        lowered ? LayerRecipe() : candidate.layer);
        layers[static_cast<size_t>(layer)] = lowered ? candidate.layer : LayerRecipe();
        const ResolvedRecipe recipe =
            resolve_recipe(recipe_of_layers(layers, intact_prefix), shape);
        const Summary summary =
            summarize(scorer.score(recipe, [&](std::string_view, int64_t part, int64_t) {
              report(
                  progress,
                  fmt::format("{} {} layer {}", candidate.label, lowered ? "in" : "but for", layer),
                  done + part, total);
            }));
        done += scorer.tokens();
        all.push_back({layer, candidate.label, direction, summary.kl_mean,
                       (summary.perplexity / plain_ppl - 1) * 100});
      }
    }
  }
  return all;
}

}  // namespace lowkey
