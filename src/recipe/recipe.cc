#include "recipe/recipe.h"

#include <filesystem>

#include "core/files.h"
#include "recipe/short_form.h"

namespace lowkey {
namespace {
constexpr uint64_t kMaxFileBytes = uint64_t{16} << 20;
}

bool is_recipe_bits(int32_t bits) {
  return bits == 2 || bits == 3 || bits == 4 || bits == 8 || bits == 16 || bits == 32;
}

KvRecipe parse_recipe(std::string_view text) {
  if (text.starts_with('{')) return recipe_from_json(text, "recipe");
  if (!text.ends_with(".json")) return parse_short_form(text);
  const std::filesystem::path path(text);
  KvRecipe recipe = recipe_from_json(read_file(path, kMaxFileBytes), path.string());
  if (recipe.name.empty()) recipe.name = path.stem().string();
  return recipe;
}

std::string recipe_to_string(const KvRecipe& recipe) {
  if (auto text = short_form(recipe)) return *std::move(text);
  return recipe_to_json(recipe);
}

}  // namespace lowkey
