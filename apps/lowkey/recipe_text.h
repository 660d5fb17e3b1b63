#pragma once
// What a recipe's parts are called in tables.
#include <string>

#include "recipe/recipe.h"

namespace lowkey {

std::string side_text(const SideRecipe& side);  // "4 bits per channel, g32", "f16"

// The newest tokens kept exact: "32", "64 block", "none"; "-" where nothing is packed.
std::string window_text(const HeadRecipe& head, int32_t residual_length, WindowRule window);

}  // namespace lowkey
