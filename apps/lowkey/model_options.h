#pragma once
// What verbs that load a model have in common.
#include <string>

#include "core/progress.h"
#include "engine/engine.h"
#include "recipe/recipe.h"
#include "verbs.h"

namespace lowkey {

WeightStorage weight_storage(WeightsOption option);

// Short form or file, bound to the model; labelled as the user wrote it.
ResolvedRecipe recipe_for(const std::string& text, const Engine& engine);

// "avx512, 2 threads, bf16 weights": what --verbose prints and results carry.
std::string describe_engine(Engine& engine, WeightStorage weights);

}  // namespace lowkey
