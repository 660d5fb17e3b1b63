#pragma once
// Recipes as other projects' per-layer precision files. Torch-free, pure.
#include <optional>
#include <string>

#include "recipe/import.h"
#include "recipe/recipe.h"

namespace lowkey {

// KVTuner's per-layer file, byte for byte as its authors lay theirs out; their per-head file, with
// a level of KV heads in every layer, where heads of a layer differ. Such files say bits and
// nothing else: axis, groups, windows and the intact prefix are lost (kvtuner_preset says whether
// anything is). Throws Error kInvalidArgument naming the layer where its bits are not 2, 4 or 8:
// their codes are int8 and their backends take no others.
std::string recipe_to_kvtuner_yaml(const ResolvedRecipe& recipe);

// The preset with which recipe_from_kvtuner_yaml reads exactly this storage back from that file;
// nothing if neither does.
std::optional<ImportPreset> kvtuner_preset(const ResolvedRecipe& recipe);

}  // namespace lowkey
