#include "model_options.h"

#include <fmt/format.h>

#include "core/cpu.h"
#include "engine/prefix_file.h"
#include "model/simulation.h"

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

KvRecipe checked_recipe(const std::string& text) {
  KvRecipe recipe = parse_recipe(text);
  prefix_tokens(recipe);
  return recipe;
}

CacheSpec recipe_for(const std::string& text, const Engine& engine) {
  CacheSpec spec = cache_spec(parse_recipe(text), engine.file());
  spec.recipe.label = text;
  return spec;
}

// How steps are computed otherwise than by our kernels, behind a comma; empty if they are not.
static std::string other_ways(Engine& engine) {
  if (const std::string text = simulation_text(engine.model().config()); !text.empty()) {
    return ", " + text;
  }
  return engine.model().prefill_bytes() > 0 ? ", prompts in bf16" : "";
}

std::string describe_kernels(Engine& engine) {
  return fmt::format("{} kernels, {} weights{}", isa_name(active_isa()),
                     weight_storage_name(engine.weight_storage()), other_ways(engine));
}

std::string describe_engine(Engine& engine) {
  return fmt::format("{} kernels, {} thread{}, {} weights{}", isa_name(active_isa()),
                     engine.pool().num_threads(), engine.pool().num_threads() == 1 ? "" : "s",
                     weight_storage_name(engine.weight_storage()), other_ways(engine));
}

}  // namespace lowkey
