#include "recipe/recipe.h"

#include <filesystem>

#include "core/error.h"
#include "core/files.h"
#include "recipe/front.h"
#include "recipe/json_node.h"
#include "recipe/short_form.h"

namespace lowkey {
namespace {
constexpr uint64_t kMaxFileBytes = uint64_t{16} << 20;

[[noreturn]] void refuse_foreign(std::string_view file, std::string_view whose) {
  fail(ErrorCode::kInvalidArgument,
       "{}: {} files say bits only; to make a recipe of it: lowkey convert {} -o recipe.json", file,
       whose, file);
}

}  // namespace

bool is_recipe_bits(int32_t bits) {
  return bits == 2 || bits == 3 || bits == 4 || bits == 8 || bits == 16 || bits == 32;
}

KvRecipe parse_recipe(std::string_view text) {
  if (text.starts_with('{')) return recipe_from_json(text, "recipe");
  if (const auto reference = parse_front_reference(text)) {
    return choose_point(*reference).recipe();
  }
  if (text.ends_with(".yaml") || text.ends_with(".yml")) {
    refuse_foreign(text, "KVTuner's");
  }
  if (!text.ends_with(".json")) return parse_short_form(text);
  const std::filesystem::path path(text);
  const std::string json = read_file(path, kMaxFileBytes);
  if (json_format(json) == JsonFormat::kModelOpt) refuse_foreign(text, "ModelOpt's");
  KvRecipe recipe = recipe_from_json(json, path.string());
  if (recipe.name.empty()) recipe.name = path.stem().string();
  if (recipe.calibration) {
    // An absolute path stays.
    recipe.calibration->file = (path.parent_path() / recipe.calibration->file).string();
  }
  return recipe;
}

std::string recipe_to_string(const KvRecipe& recipe) {
  if (auto text = short_form(recipe)) return *std::move(text);
  return recipe_to_json(recipe);
}

}  // namespace lowkey
