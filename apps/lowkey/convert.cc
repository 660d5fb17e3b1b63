#include "convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "core/error.h"
#include "core/files.h"
#include "engine/prefix_file.h"
#include "inspect.h"
#include "model/kv_shape.h"
#include "recipe/bytes.h"
#include "recipe/candidates.h"
#include "recipe/export.h"
#include "recipe/front.h"
#include "recipe/json_node.h"

namespace lowkey {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{16} << 20;
constexpr int32_t kUsualHeadDim = 128;  // where no model says: that of most

bool is_yaml(const std::string& path) {
  return path.ends_with(".yaml") || path.ends_with(".yml");
}

std::string_view preset_name(ImportPreset preset) {
  return preset == ImportPreset::kKivi ? "kivi" : "per-token";
}

// Published presets carry their mode in their name: MODEL_kivi_KVTuner4_1.yaml.
std::optional<ImportPreset> preset_in_name(const std::string& path) {
  std::string name = std::filesystem::path(path).filename().string();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool kivi = name.find("kivi") != name.npos;
  const bool per_token = name.find("pertoken") != name.npos || name.find("per-token") != name.npos;
  if (kivi == per_token) return std::nullopt;
  return kivi ? ImportPreset::kKivi : ImportPreset::kPerToken;
}

ImportPreset preset_of(const ConvertOptions& options) {
  if (options.as) return *options.as;
  if (const auto preset = preset_in_name(options.input)) return *preset;
  fail(ErrorCode::kInvalidArgument,
       "{}: says bits only: --as kivi (keys per channel, values per token, groups of 32, newest 32 "
       "tokens exact) or --as per-token (one group per token and head, none exact)",
       options.input);
}

// A recipe, and how many layers it is for where that is known (else 0).
struct Source {
  KvRecipe recipe;
  int32_t num_layers = 0;
};

Source read_foreign(const ConvertOptions& options, const std::string& text) {
  const ImportPreset preset = preset_of(options);
  Source source;
  source.recipe = is_yaml(options.input) ? recipe_from_kvtuner_yaml(text, options.input, preset)
                                         : recipe_from_modelopt_json(text, options.input, preset);
  source.recipe.name = std::filesystem::path(options.input).stem().string();
  return source;
}

Source read_source(const ConvertOptions& options) {
  const std::string& input = options.input;
  if (is_yaml(input)) return read_foreign(options, read_file(input, kMaxFileBytes));
  if (input.ends_with(".json")) {
    const std::string text = read_file(input, kMaxFileBytes);
    if (json_format(text) == JsonFormat::kModelOpt) return read_foreign(options, text);
  }
  if (options.as) {
    fail(ErrorCode::kInvalidArgument,
         "{}: --as is for KVTuner's and ModelOpt's files; this recipe says all of it", input);
  }
  if (const auto reference = parse_front_reference(input)) {
    const FrontChoice choice = choose_point(*reference);
    return {choice.recipe(), choice.front.num_layers};
  }
  return {parse_recipe(input), 0};
}

// What the recipe is applied to; nothing if nobody says how many layers there are.
std::optional<KvShape> shape_for(const Source& source, const ConvertOptions& options) {
  if (options.model) return kv_shape(ModelFile::open(*options.model).config());
  KvShape shape{.num_layers = source.num_layers, .num_kv_heads = 1, .head_dim = kUsualHeadDim};
  bool rest = false;
  int32_t most_layers = 0;
  for (const LayerRule& rule : source.recipe.rules) {
    rest |= rule.rest;
    if (!rule.rest) most_layers = std::max(most_layers, rule.last + 1);
    // One head more than any that is named: without a model nobody knows how many there are, and
    // the one more has the bits of the rest.
    if (!rule.layer.heads.empty()) {
      shape.num_kv_heads = std::max(shape.num_kv_heads, rule.layer.heads.rbegin()->first + 2);
    }
  }
  if (shape.num_layers == 0 && !rest) shape.num_layers = most_layers;
  if (shape.num_layers == 0) return std::nullopt;
  return shape;
}

bool names_heads(const KvRecipe& recipe) {
  return std::any_of(recipe.rules.begin(), recipe.rules.end(),
                     [](const LayerRule& rule) { return !rule.layer.heads.empty(); });
}

std::string to_kvtuner(const Source& source, const ConvertOptions& options, std::string& said) {
  const auto shape = shape_for(source, options);
  if (!shape) {
    fail(ErrorCode::kInvalidArgument,
         "{}: KVTuner's files list every layer, and a recipe with a rest does not say how many: "
         "--model MODEL does",
         options.input);
  }
  if (names_heads(source.recipe) && !options.model) {
    fail(ErrorCode::kInvalidArgument,
         "{}: KVTuner's files list every KV head, and the recipe does not say how many: --model "
         "MODEL does",
         options.input);
  }
  const ResolvedRecipe resolved = [&] {
    try {
      return resolve_recipe(source.recipe, *shape, prefix_tokens(source.recipe));
    } catch (const Error& error) {
      if (options.model) throw;
      fail(error.code(), "{} (for head_dim {}: --model MODEL says which it is)", error.what(),
           kUsualHeadDim);
    }
  }();
  std::string yaml = recipe_to_kvtuner_yaml(resolved);
  ResolvedRecipe without_prefix = resolved;
  without_prefix.intact_prefix = 0;
  if (const auto preset = kvtuner_preset(without_prefix); !preset) {
    said +=
        "Bits only: axes, groups, windows and intact prefix are not in it, and differ from both\n"
        "of KVTuner's modes.\n";
  } else {
    said += fmt::format("Bits only: the same recipe again with --as {}", preset_name(*preset));
    if (resolved.intact_prefix > 0)
      said += fmt::format(", but for its +i{}", resolved.intact_prefix);
    said += ".\n";
  }
  return yaml;
}

// "c325.json: 32 layers, 3.25 code bits": as much of it as is known.
std::string summary(const Source& source, const ConvertOptions& options) {
  const auto shape = shape_for(source, options);
  if (!shape) return fmt::format("{}: written\n", *options.output);
  std::string out = fmt::format("{}: {} layers", *options.output, shape->num_layers);
  if (options.model) {
    out +=
        fmt::format(", {:.2f} code bits",
                    code_bits(resolve_recipe(source.recipe, *shape, prefix_tokens(source.recipe))));
  } else if (!names_heads(source.recipe)) {
    double bits = 0;
    int32_t left = shape->num_layers;
    const LayerRule* rest = nullptr;
    for (const LayerRule& rule : source.recipe.rules) {
      if (rule.rest) {
        rest = &rule;
        continue;
      }
      const int32_t layers = rule.last - rule.first + 1;
      bits += layers * code_bits(rule.layer);
      left -= layers;
    }
    if (rest) bits += left * code_bits(rest->layer);
    out += fmt::format(", {:.2f} code bits", bits / shape->num_layers);
  }
  return out + "\n";
}

// A recipe's file names its prefix from where it lies itself.
KvRecipe beside(const Source& source, const std::filesystem::path& output) {
  KvRecipe recipe = source.recipe;
  if (!recipe.calibration) return recipe;
  const std::filesystem::path prefix = recipe.calibration->file;
  const std::filesystem::path folder = std::filesystem::absolute(output).parent_path();
  if (prefix.is_relative()) {
    recipe.calibration->file =
        std::filesystem::absolute(prefix).lexically_relative(folder).string();
  }
  return recipe;
}

}  // namespace

std::string convert(const ConvertOptions& options) {
  const Source source = read_source(options);
  const bool to_stdout = !options.output || *options.output == "-";
  if (to_stdout) {
    if (options.model) {
      resolve_recipe(source.recipe, *shape_for(source, options), prefix_tokens(source.recipe));
    }
    return recipe_to_json(source.recipe);
  }
  const std::string& output = *options.output;
  if (!is_yaml(output) && !output.ends_with(".json")) {
    fail(ErrorCode::kInvalidArgument,
         "{}: a recipe is written as .json, KVTuner's file as .yaml: no other ending is known",
         output);
  }
  std::string said = summary(source, options);
  const std::string contents =
      is_yaml(output) ? to_kvtuner(source, options, said) : recipe_to_json(beside(source, output));
  write_file_atomically(output, contents);
  return said;
}

int convert_verb(const ConvertOptions& options) {
  const std::string text = convert(options);
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0) fail(ErrorCode::kIo, "cannot write to standard output");
  return 0;
}

}  // namespace lowkey
