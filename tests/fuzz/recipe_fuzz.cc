// Every text form of a recipe: parsing either throws lowkey::Error or yields a recipe that survives
// printing, and that resolves to byte counts or to an Error. The first byte picks the form.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "recipe/bytes.h"
#include "recipe/export.h"
#include "recipe/import.h"
#include "recipe/recipe.h"
#include "recipe/short_form.h"

namespace {

lowkey::KvRecipe parse(uint8_t form, std::string_view text) {
  using lowkey::ImportPreset;
  switch (form % 4) {
    case 0: return lowkey::parse_short_form(text);
    case 1: return lowkey::recipe_from_json(text, "fuzz");
    case 2: return lowkey::recipe_from_kvtuner_yaml(text, "fuzz", ImportPreset::kKivi);
    default: return lowkey::recipe_from_modelopt_json(text, "fuzz", ImportPreset::kPerToken);
  }
}

void check_round_trip(const lowkey::KvRecipe& recipe) {
  LOWKEY_CHECK(lowkey::recipe_from_json(lowkey::recipe_to_json(recipe), "fuzz") == recipe);
  lowkey::KvRecipe stored = recipe;
  stored.name.clear();
  stored.provenance = {};
  LOWKEY_CHECK(lowkey::parse_recipe(lowkey::recipe_to_string(stored)) == stored);
}

void check_bytes(const lowkey::KvRecipe& recipe) {
  const lowkey::ResolvedRecipe resolved =
      lowkey::resolve_recipe(recipe, {.num_layers = 4, .num_kv_heads = 2, .head_dim = 64});
  int64_t last = 0;
  for (const int64_t tokens : {0, 1, 127, 128, 129, 70000}) {
    const int64_t total = lowkey::bytes_at(resolved, tokens).total();
    LOWKEY_CHECK(total >= last, "bytes fall from {} to {} at {} tokens", last, total, tokens);
    last = total;
  }
}

// KVTuner's files hold the bits of what they can hold at all.
void check_export(const lowkey::KvRecipe& recipe) {
  constexpr lowkey::KvShape kShape{.num_layers = 4, .num_kv_heads = 2, .head_dim = 64};
  const lowkey::ResolvedRecipe resolved = lowkey::resolve_recipe(recipe, kShape);
  const std::string yaml = lowkey::recipe_to_kvtuner_yaml(resolved);
  const lowkey::ResolvedRecipe read = lowkey::resolve_recipe(
      lowkey::recipe_from_kvtuner_yaml(yaml, "fuzz", lowkey::ImportPreset::kPerToken), kShape);
  LOWKEY_CHECK(lowkey::code_bits(read) == lowkey::code_bits(resolved), "{}", yaml);
  LOWKEY_CHECK(lowkey::recipe_to_kvtuner_yaml(read) == yaml, "{}", yaml);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const lowkey::KvRecipe recipe = parse(data[0], text);
    check_round_trip(recipe);
    check_bytes(recipe);
    check_export(recipe);
  } catch (const lowkey::Error&) {
  }
  return 0;
}
