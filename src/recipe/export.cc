#include "recipe/export.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace lowkey {
namespace {

bool same_bits(const HeadRecipe& a, const HeadRecipe& b) {
  return a.k.bits == b.k.bits && a.v.bits == b.v.bits;
}

void check_bits(int32_t bits, const char* side, size_t layer) {
  if (bits == 2 || bits == 4 || bits == 8) return;
  fail(ErrorCode::kInvalidArgument,
       "layer {}: {} of {} bits: KVTuner's files hold 2, 4 and 8 (its codes are signed bytes)",
       layer, side, bits);
}

std::string bits_lines(const HeadRecipe& head, int indent) {
  return fmt::format("{0:{1}}nbits_key: {2}\n{0:{1}}nbits_value: {3}\n", "", indent, head.k.bits,
                     head.v.bits);
}

bool same_storage(const ResolvedRecipe& a, const ResolvedRecipe& b) {
  const auto same_layer = [](const ResolvedLayer& x, const ResolvedLayer& y) {
    return x.heads == y.heads && x.residual_length == y.residual_length && x.window == y.window;
  };
  return a.intact_prefix == b.intact_prefix && a.prefill == b.prefill &&
         std::equal(a.layers.begin(), a.layers.end(), b.layers.begin(), b.layers.end(), same_layer);
}

}  // namespace

std::string recipe_to_kvtuner_yaml(const ResolvedRecipe& recipe) {
  bool per_head = false;
  for (size_t i = 0; i < recipe.layers.size(); ++i) {
    for (const HeadRecipe& head : recipe.layers[i].heads) {
      check_bits(head.k.bits, "keys", i);
      check_bits(head.v.bits, "values", i);
      per_head |= !same_bits(head, recipe.layers[i].heads.front());
    }
  }
  std::string yaml;
  for (size_t i = 0; i < recipe.layers.size(); ++i) {
    const std::vector<HeadRecipe>& heads = recipe.layers[i].heads;
    yaml += fmt::format("{}:\n", i);
    if (!per_head) {
      yaml += bits_lines(heads.front(), 2);
      continue;
    }
    for (size_t h = 0; h < heads.size(); ++h) {
      yaml += fmt::format("  {}:\n{}", h, bits_lines(heads[h], 4));
    }
  }
  return yaml;
}

std::optional<ImportPreset> kvtuner_preset(const ResolvedRecipe& recipe) {
  const std::string yaml = recipe_to_kvtuner_yaml(recipe);
  for (const ImportPreset preset : {ImportPreset::kKivi, ImportPreset::kPerToken}) {
    try {
      const KvRecipe read = recipe_from_kvtuner_yaml(yaml, "", preset);
      if (same_storage(resolve_recipe(read, recipe.shape), recipe)) return preset;
    } catch (const Error&) {
      // Groups of 32 do not divide every head_dim: then this preset is not it.
    }
  }
  return std::nullopt;
}

}  // namespace lowkey
