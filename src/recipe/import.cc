#include "recipe/import.h"

#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "core/error.h"

namespace lowkey {
namespace {

constexpr int32_t kKvTunerKiviGroup = 32;
constexpr int32_t kKvTunerKiviResidual = 32;

struct Bits {
  int32_t k = 0;
  int32_t v = 0;
};

SideRecipe preset_side(int32_t bits, QuantAxis axis, int32_t group_size) {
  SideRecipe side{.bits = bits};
  if (side.packed()) {
    side.axis = axis;
    side.group_size = group_size;
  }
  return side;
}

HeadRecipe preset_head(Bits bits, ImportPreset preset) {
  const bool kivi = preset == ImportPreset::kKivi;
  const int32_t group_size = kivi ? kKvTunerKiviGroup : kGroupIsHeadDim;
  const QuantAxis key_axis = kivi ? QuantAxis::kPerChannel : QuantAxis::kPerToken;
  return {.k = preset_side(bits.k, key_axis, group_size),
          .v = preset_side(bits.v, QuantAxis::kPerToken, group_size)};
}

// heads: bits of every KV head, or of one that stands for all.
LayerRecipe preset_layer(const std::vector<Bits>& heads, ImportPreset preset) {
  LayerRecipe layer;
  const HeadRecipe first = preset_head(heads.front(), preset);
  layer.k = first.k;
  layer.v = first.v;
  bool packed = false;
  for (size_t i = 0; i < heads.size(); ++i) {
    const HeadRecipe head = preset_head(heads[i], preset);
    if (head != first) layer.heads.emplace(static_cast<int32_t>(i), head);
    packed |= head.k.packed() || head.v.packed();
  }
  if (packed && preset == ImportPreset::kKivi) layer.residual_length = kKvTunerKiviResidual;
  return layer;
}

// One rule per run of equal layers.
std::vector<LayerRule> runs(const std::map<int32_t, LayerRecipe>& layers) {
  std::vector<LayerRule> rules;
  for (const auto& [index, layer] : layers) {
    if (!rules.empty() && rules.back().last + 1 == index && rules.back().layer == layer) {
      rules.back().last = index;
    } else {
      rules.push_back(LayerRule{.first = index, .last = index, .layer = layer});
    }
  }
  return rules;
}

std::optional<int32_t> parse_index(std::string_view text, int32_t max) {
  int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0 || value > max) {
    return std::nullopt;
  }
  return value;
}

std::string_view trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// The shape of KVTuner's files and nothing else of YAML.
class KvTunerReader {
 public:
  KvTunerReader(std::string_view yaml, std::string_view source_name) : source_(source_name) {
    split(yaml);
  }

  std::map<int32_t, std::vector<Bits>> read() {
    std::map<int32_t, std::vector<Bits>> layers;
    if (lines_.empty()) fail(ErrorCode::kInvalidArgument, "{}: no layers in it", source_);
    while (next_ < lines_.size()) {
      const Line& line = lines_[next_++];
      const auto index = parse_index(line.key, kMaxLayers - 1);
      if (line.indent != 0 || !index) {
        refuse(line, "expected a layer, such as '0:', from 0 to {}", kMaxLayers - 1);
      }
      if (!layers.emplace(*index, read_layer(line)).second) {
        refuse(line, "layer {} is given twice", *index);
      }
    }
    return layers;
  }

 private:
  struct Line {
    int number = 0;
    size_t indent = 0;
    std::string_view key = {};
    std::string_view value = {};
  };

  template <typename... Args>
  [[noreturn]] void refuse(const Line& line, fmt::format_string<Args...> format,
                           Args&&... args) const {
    fail(ErrorCode::kInvalidArgument, "{}: line {}: {}", source_, line.number,
         fmt::format(format, std::forward<Args>(args)...));
  }

  void split(std::string_view yaml) {
    for (int number = 1; !yaml.empty(); ++number) {
      const size_t end = yaml.find('\n');
      std::string_view text = yaml.substr(0, end);
      yaml.remove_prefix(end == yaml.npos ? yaml.size() : end + 1);
      text = text.substr(0, text.find('#'));
      const std::string_view content = trim(text);
      if (content.empty() || content == "---") continue;
      Line line{number, text.find_first_not_of(' '), {}, {}};
      const size_t colon = content.find(':');
      if (colon == content.npos) refuse(line, "expected 'name: value'");
      line.key = trim(content.substr(0, colon));
      line.value = trim(content.substr(colon + 1));
      lines_.push_back(line);
    }
  }

  std::vector<Bits> read_layer(const Line& parent) {
    if (!parent.value.empty()) return {read_flow(parent)};
    const size_t indent = child_indent(parent);
    if (!parse_index(lines_[next_].key, kMaxKvHeads - 1)) return {read_block(parent, indent)};
    std::vector<Bits> heads;
    while (next_ < lines_.size() && lines_[next_].indent == indent) {
      const Line& line = lines_[next_++];
      const auto head = parse_index(line.key, kMaxKvHeads - 1);
      if (!head || static_cast<size_t>(*head) != heads.size()) {
        refuse(line, "expected head {}: heads are listed from 0 without gaps", heads.size());
      }
      heads.push_back(line.value.empty() ? read_block(line, child_indent(line)) : read_flow(line));
    }
    return heads;
  }

  size_t child_indent(const Line& parent) const {
    if (next_ == lines_.size() || lines_[next_].indent <= parent.indent) {
      refuse(parent, "'{}' has no bits: expected nbits_key and nbits_value", parent.key);
    }
    return lines_[next_].indent;
  }

  Bits read_block(const Line& parent, size_t indent) {
    Bits bits;
    while (next_ < lines_.size() && lines_[next_].indent == indent) {
      const Line& line = lines_[next_++];
      set(line, line.key, line.value, bits);
    }
    return complete(parent, bits);
  }

  // {nbits_key: 8, nbits_value: 4}
  Bits read_flow(const Line& line) const {
    std::string_view text = line.value;
    if (!text.starts_with('{') || !text.ends_with('}')) {
      refuse(line, "expected {{nbits_key: B, nbits_value: B}}, found '{}'", text);
    }
    text = text.substr(1, text.size() - 2);
    Bits bits;
    for (;;) {
      const size_t comma = text.find(',');
      const std::string_view pair = text.substr(0, comma);
      const size_t colon = pair.find(':');
      if (colon == pair.npos) refuse(line, "expected 'name: value', found '{}'", trim(pair));
      set(line, trim(pair.substr(0, colon)), trim(pair.substr(colon + 1)), bits);
      if (comma == text.npos) return complete(line, bits);
      text.remove_prefix(comma + 1);
    }
  }

  void set(const Line& line, std::string_view key, std::string_view value, Bits& bits) const {
    int32_t* const side = key == "nbits_key" ? &bits.k : key == "nbits_value" ? &bits.v : nullptr;
    if (!side) refuse(line, "unknown field '{}'; known: nbits_key, nbits_value", key);
    if (*side != 0) refuse(line, "{} is given twice", key);
    const auto number = parse_index(value, 32);
    if (!number || !is_recipe_bits(*number)) {
      refuse(line, "{}: '{}': 2, 3, 4, 8, 16 or 32", key, value);
    }
    *side = *number;
  }

  Bits complete(const Line& line, Bits bits) const {
    if (bits.k == 0) refuse(line, "'{}' has no nbits_key", line.key);
    if (bits.v == 0) refuse(line, "'{}' has no nbits_value", line.key);
    return bits;
  }

  std::string_view source_;
  std::vector<Line> lines_;
  size_t next_ = 0;
};

// "model.layers.12.self_attn" -> 12.
std::optional<int32_t> layer_of_module(std::string_view module) {
  constexpr std::string_view kLayers = "layers.";
  const size_t at = module.find(kLayers);
  if (at == module.npos) return std::nullopt;
  const std::string_view rest = module.substr(at + kLayers.size());
  return parse_index(rest.substr(0, rest.find('.')), kMaxLayers - 1);
}

std::optional<Bits> modelopt_bits(std::string_view algorithm) {
  if (algorithm == "FP8") return Bits{8, 8};
  if (algorithm == "NVFP4") return Bits{4, 4};
  if (algorithm == "FP8_K_NVFP4_V") return Bits{8, 4};
  return std::nullopt;
}

}  // namespace

KvRecipe recipe_from_kvtuner_yaml(std::string_view yaml, std::string_view source_name,
                                  ImportPreset preset) {
  std::map<int32_t, LayerRecipe> layers;
  for (const auto& [index, heads] : KvTunerReader(yaml, source_name).read()) {
    layers.emplace(index, preset_layer(heads, preset));
  }
  KvRecipe recipe;
  recipe.rules = runs(layers);
  return recipe;
}

KvRecipe recipe_from_modelopt_json(std::string_view json, std::string_view source_name,
                                   ImportPreset preset) {
  using Json = nlohmann::json;
  constexpr const char* kField = "kv_cache_quantized_layers";
  const Json root = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) fail(ErrorCode::kInvalidArgument, "{}: not a JSON object", source_name);
  const Json* map = nullptr;
  for (const Json* place :
       {&root, root.contains("quantization") ? &root["quantization"] : nullptr,
        root.contains("quantization_config") ? &root["quantization_config"] : nullptr}) {
    if (place && place->is_object() && place->contains(kField)) map = &(*place)[kField];
  }
  if (!map || !map->is_object() || map->empty()) {
    fail(ErrorCode::kInvalidArgument, "{}: no {} in it", source_name, kField);
  }
  std::map<int32_t, LayerRecipe> layers;
  for (const auto& [module, entry] : map->items()) {
    const auto index = layer_of_module(module);
    if (!index) {
      fail(ErrorCode::kInvalidArgument,
           "{}: {}.{}: no layer number, as in model.layers.0.self_attn", source_name, kField,
           module);
    }
    const auto found = entry.is_object() ? entry.find("quant_algo") : entry.end();
    const bool named = found != entry.end() && found->is_string();
    const std::string algorithm = named ? found->get<std::string>() : "";
    const auto bits = modelopt_bits(algorithm);
    if (!bits) {
      fail(ErrorCode::kInvalidArgument,
           "{}: {}.{}: quant_algo '{}': known are FP8, NVFP4 and FP8_K_NVFP4_V", source_name,
           kField, module, algorithm);
    }
    if (!layers.emplace(*index, preset_layer({*bits}, preset)).second) {
      fail(ErrorCode::kInvalidArgument, "{}: {}.{}: layer {} is given twice", source_name, kField,
           module, *index);
    }
  }
  KvRecipe recipe;
  recipe.rules = runs(layers);
  recipe.rules.push_back(LayerRule{.rest = true, .layer = {}});
  return recipe;
}

}  // namespace lowkey
