#include "model_options.h"

#include <fmt/format.h>

#include "core/cpu.h"

namespace lowkey {

std::optional<WeightStorage> weight_storage(WeightsOption option) {
  switch (option) {
    case WeightsOption::kAuto: return std::nullopt;
    case WeightsOption::kF32: return WeightStorage::kF32;
    case WeightsOption::kBf16: return WeightStorage::kBF16;
    case WeightsOption::kFile: return WeightStorage::kFile;
    case WeightsOption::kPacked: return WeightStorage::kPacked;
  }
  return std::nullopt;
}

ResolvedRecipe recipe_for(const std::string& text, const Engine& engine) {
  ResolvedRecipe recipe = resolve_recipe(parse_recipe(text), engine.kv_shape());
  recipe.label = text;
  return recipe;
}

std::string describe_kernels(Engine& engine) {
  return fmt::format("{} kernels, {} weights{}", isa_name(active_isa()),
                     weight_storage_name(engine.weight_storage()),
                     engine.model().prefill_bytes() > 0 ? ", prompts in bf16" : "");
}

std::string describe_engine(Engine& engine) {
  return fmt::format("{} kernels, {} thread{}, {} weights{}", isa_name(active_isa()),
                     engine.pool().num_threads(), engine.pool().num_threads() == 1 ? "" : "s",
                     weight_storage_name(engine.weight_storage()),
                     engine.model().prefill_bytes() > 0 ? ", prompts in bf16" : "");
}

}  // namespace lowkey
