#pragma once
// The short grammar of recipes (DESIGN §2, docs/formats/recipe.md), in both directions. Torch-free,
// pure.
//
//   recipe = layer | rule {"," rule}, then ["+i" N | "+i@" FILE]
//   rule   = ("*" | N | N "-" N) "=" layer
//   layer  = ["kivi-"] bits ["/" bits] {":" option}      keys first, then values
//   option = "g" size ["/" size] | "r" N | "block"      size = N | "head"; keys first
#include <optional>
#include <string>
#include <string_view>

#include "recipe/recipe.h"

namespace lowkey {

// Throws Error kInvalidArgument with the text, the column and what is allowed there.
KvRecipe parse_short_form(std::string_view text);

// Nothing where the grammar has no words for the recipe. Name and provenance do not count: they say
// nothing about how tokens are stored.
std::optional<std::string> short_form(const KvRecipe& recipe);

// "*", "7" or "0-3". Sets the layers of `rule`, or returns false: not of that form, first > last,
// beyond kMaxLayers.
bool parse_layer_span(std::string_view text, LayerRule& rule);
std::string layer_span_text(const LayerRule& rule);

}  // namespace lowkey
