#pragma once
// What verbs that load a model have in common.
#include <optional>
#include <string>

#include "cache/intact_prefix.h"
#include "core/progress.h"
#include "engine/engine.h"
#include "recipe/recipe.h"
#include "verbs.h"

namespace lowkey {

// None for auto: the engine chooses.
std::optional<WeightStorage> weight_storage(WeightsOption option);

// What is wrong with a recipe, or with the prefix's file that it names, by itself: to be said at
// once, not after a model is loaded. Throws Error as parse_recipe and read_prefix.
KvRecipe checked_recipe(const std::string& text);

// Short form or file, bound to the model; labelled as the user wrote it.
CacheSpec recipe_for(const std::string& text, const Engine& engine);

// "avx512 kernels, f32 weights": what results depend on.
std::string describe_kernels(Engine& engine);

// "avx512 kernels, 2 threads, packed weights": what --verbose prints and results carry.
std::string describe_engine(Engine& engine);

}  // namespace lowkey
