#include "model_options.h"

#include <fmt/format.h>

#include "core/cpu.h"

namespace lowkey {

WeightStorage weight_storage(WeightsOption option) {
  switch (option) {
    case WeightsOption::kAuto: return best_weight_storage();
    case WeightsOption::kF32: return WeightStorage::kF32;
    case WeightsOption::kBf16: return WeightStorage::kBF16;
    case WeightsOption::kFile: return WeightStorage::kFile;
  }
  return WeightStorage::kF32;
}

ResolvedRecipe recipe_for(const std::string& text, const Engine& engine) {
  ResolvedRecipe recipe = resolve_recipe(parse_recipe(text), engine.kv_shape());
  recipe.label = text;
  return recipe;
}

std::string describe_engine(Engine& engine, WeightStorage weights) {
  return fmt::format("{} kernels, {} thread{}, {} weights", isa_name(active_isa()),
                     engine.pool().num_threads(), engine.pool().num_threads() == 1 ? "" : "s",
                     weight_storage_name(weights));
}

}  // namespace lowkey
