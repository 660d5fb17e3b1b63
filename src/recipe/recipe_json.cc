#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "recipe/names.h"
#include "recipe/recipe.h"
#include "recipe/short_form.h"

namespace lowkey {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kVersion = 1;
constexpr int kMaxDepth = 8;  // a recipe nests 5 deep
constexpr size_t kSha256Digits = 64;

std::string join(std::span<const std::string_view> words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

std::string_view type_name(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return "an array";
    case Json::value_t::string: return "a string";
    case Json::value_t::boolean: return "true or false";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned: return "an integer";
    case Json::value_t::number_float: return "a number";
    default: return "null";
  }
}

// A value, where it is, and whom to blame: every complaint is "SOURCE: PATH: what".
class Node {
 public:
  Node(const Json& value, std::string_view source, std::string path)
      : value_(&value), source_(source), path_(std::move(path)) {}

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    const std::string what = fmt::format(format, std::forward<Args>(args)...);
    if (path_.empty()) fail(ErrorCode::kInvalidArgument, "{}: {}", source_, what);
    fail(ErrorCode::kInvalidArgument, "{}: {}: {}", source_, path_, what);
  }

  // An object with these fields and no others.
  void expect_fields(std::initializer_list<std::string_view> known) const {
    expect(value_->is_object(), "an object");
    for (const auto& [key, unused] : value_->items()) {
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        child(key).refuse("unknown field; known: {}", join({known.begin(), known.size()}));
      }
    }
  }

  bool has(const char* key) const { return value_->contains(key); }
  Node operator[](const char* key) const {
    if (!has(key)) child(key).refuse("missing");
    return child(key);
  }

  std::vector<Node> elements() const {
    expect(value_->is_array(), "an array");
    std::vector<Node> nodes;
    for (size_t i = 0; i < value_->size(); ++i) {
      nodes.emplace_back((*value_)[i], source_, fmt::format("{}[{}]", path_, i));
    }
    return nodes;
  }

  std::vector<std::pair<std::string, Node>> members() const {
    expect(value_->is_object(), "an object");
    std::vector<std::pair<std::string, Node>> nodes;
    for (const auto& [key, unused] : value_->items()) nodes.emplace_back(key, child(key));
    return nodes;
  }

  const std::string& text() const {
    expect(value_->is_string(), "a string");
    return value_->get_ref<const std::string&>();
  }

  bool boolean() const {
    expect(value_->is_boolean(), "true or false");
    return value_->get<bool>();
  }

  double number() const {
    expect(value_->is_number(), "a number");
    return value_->get<double>();
  }

  int32_t integer(int32_t min, int32_t max) const {
    expect(value_->is_number_integer(), "an integer");
    // Unsigned numbers beyond int64 must not wrap into the range.
    const bool huge = value_->is_number_unsigned() && value_->get<uint64_t>() > INT32_MAX;
    const int64_t value = huge ? INT64_MAX : value_->get<int64_t>();
    if (value < min || value > max) {
      refuse("{} is out of range: {} to {}", value_->dump(), min, max);
    }
    return static_cast<int32_t>(value);
  }

  template <typename E>
  E choice() const {
    std::vector<std::string_view> names;
    for (const EnumName<E>& entry : kEnumNames<E>) {
      if (text() == entry.name) return entry.value;
      names.push_back(entry.name);
    }
    refuse("unknown value '{}'; known: {}", text(), join(names));
  }

  std::string sha256() const {
    const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    if (text().size() != kSha256Digits || !std::all_of(text().begin(), text().end(), is_digit)) {
      refuse("not a SHA-256: 64 digits 0-9a-f");
    }
    return text();
  }

  bool is_string() const { return value_->is_string(); }
  std::string_view source() const { return source_; }

 private:
  Node child(const std::string& key) const {
    static const Json kNull;
    const auto found = value_->is_object() ? value_->find(key) : value_->end();
    return Node(found == value_->end() ? kNull : *found, source_,
                path_.empty() ? key : path_ + "." + key);
  }

  void expect(bool right, std::string_view wanted) const {
    if (!right) refuse("expected {}, found {}", wanted, type_name(*value_));
  }

  const Json* value_;
  std::string_view source_;
  std::string path_;
};

SideRecipe read_side(const Node& node) {
  node.expect_fields({"bits", "axis", "group_size", "quantizer", "scales", "transform"});
  SideRecipe side;
  side.bits = node["bits"].integer(2, 32);
  if (!is_recipe_bits(side.bits)) node["bits"].refuse("{}: 2, 3, 4, 8, 16 or 32", side.bits);
  // A packed side says both; for others they mean nothing, and are kept if they are there.
  if (side.packed() || node.has("axis")) side.axis = node["axis"].choice<QuantAxis>();
  if (side.packed() || node.has("group_size")) {
    const Node group = node["group_size"];
    if (group.is_string()) {
      if (group.text() != "head")
        group.refuse("unknown value '{}'; known: head, or a number", group.text());
      side.group_size = kGroupIsHeadDim;
    } else {
      side.group_size = group.integer(1, kMaxHeadDim);
    }
  }
  if (node.has("quantizer")) side.quantizer = node["quantizer"].choice<Quantizer>();
  if (node.has("scales")) side.scales = node["scales"].choice<ScaleChoice>();
  if (node.has("transform")) side.transform = node["transform"].choice<Transform>();
  return side;
}

LayerRule read_rule(const Node& node) {
  node.expect_fields({"layers", "k", "v", "heads", "residual_length", "window", "key_rope"});
  LayerRule rule;
  if (!parse_layer_span(node["layers"].text(), rule)) {
    node["layers"].refuse("'{}' names no layers: \"7\", \"0-3\" or \"*\" (the rest), from 0 to {}",
                          node["layers"].text(), kMaxLayers - 1);
  }
  rule.layer.k = read_side(node["k"]);
  rule.layer.v = read_side(node["v"]);
  if (node.has("heads")) {
    for (const Node& head : node["heads"].elements()) {
      head.expect_fields({"head", "k", "v"});
      const int32_t index = head["head"].integer(0, kMaxKvHeads - 1);
      const HeadRecipe recipe{.k = read_side(head["k"]), .v = read_side(head["v"])};
      if (!rule.layer.heads.emplace(index, recipe).second)
        head["head"].refuse("head {} is given twice", index);
    }
  }
  if (node.has("residual_length"))
    rule.layer.residual_length = node["residual_length"].integer(0, kMaxResidualLength);
  if (node.has("window")) rule.layer.window = node["window"].choice<WindowRule>();
  if (node.has("key_rope")) rule.layer.key_rope = node["key_rope"].choice<KeyRope>();
  return rule;
}

Provenance read_provenance(const Node& node) {
  node.expect_fields({"model_sha256", "data_sha256", "command", "metrics"});
  Provenance provenance;
  if (node.has("model_sha256")) provenance.model_sha256 = node["model_sha256"].sha256();
  if (node.has("data_sha256")) provenance.data_sha256 = node["data_sha256"].sha256();
  if (node.has("command")) provenance.command = node["command"].text();
  if (node.has("metrics")) {
    for (const auto& [name, value] : node["metrics"].members()) {
      provenance.metrics.emplace(name, value.number());
    }
  }
  return provenance;
}

KvRecipe read_recipe(const Node& node) {
  // The version first: a newer file has fields that are unknown here, and that is not its fault.
  if (!node.has("lowkey_recipe"))
    node.refuse("not a recipe: \"lowkey_recipe\": {} is missing", kVersion);
  if (const int32_t version = node["lowkey_recipe"].integer(1, INT32_MAX); version != kVersion) {
    fail(ErrorCode::kUnsupported, "{}: recipe version {}; this program reads version {}",
         node.source(), version, kVersion);
  }
  node.expect_fields({"lowkey_recipe", "name", "layers", "intact_prefix", "protect",
                      "score_correction", "prefill", "calibration", "provenance"});
  KvRecipe recipe;
  if (node.has("name")) recipe.name = node["name"].text();
  for (const Node& rule : node["layers"].elements()) recipe.rules.push_back(read_rule(rule));
  if (recipe.rules.empty()) node["layers"].refuse("no layers: at least one entry");
  if (node.has("intact_prefix"))
    recipe.intact_prefix = node["intact_prefix"].integer(0, kMaxIntactPrefix);
  if (node.has("protect")) recipe.protect = node["protect"].integer(0, kMaxIntactPrefix);
  if (node.has("score_correction")) recipe.score_correction = node["score_correction"].boolean();
  if (node.has("prefill")) recipe.prefill = node["prefill"].choice<PrefillMode>();
  if (node.has("calibration")) {
    const Node calibration = node["calibration"];
    calibration.expect_fields({"file", "sha256"});
    recipe.calibration = CalibrationRef{.file = calibration["file"].text(),
                                        .sha256 = calibration["sha256"].sha256()};
  }
  if (node.has("provenance")) recipe.provenance = read_provenance(node["provenance"]);
  return recipe;
}

// Refuses what the library would let through: keys given twice (the last would win) and deep
// nesting.
class StrictKeys {
 public:
  explicit StrictKeys(std::string_view source) : source_(source) {}

  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) {
      fail(ErrorCode::kInvalidArgument, "{}: nested deeper than {}", source_, kMaxDepth);
    }
    const auto level = static_cast<size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      keys_[level + 1].clear();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_[level].insert(key).second) {
        fail(ErrorCode::kInvalidArgument, "{}: field '{}' is given twice in one object", source_,
             key);
      }
    }
    return true;
  }

 private:
  std::string_view source_;
  std::array<std::set<std::string>, kMaxDepth + 2> keys_;
};

OrderedJson side_json(const SideRecipe& side) {
  const SideRecipe plain;
  OrderedJson json;
  json["bits"] = side.bits;
  if (side.packed() || side.axis != plain.axis) json["axis"] = enum_name(side.axis);
  if (side.packed() || side.group_size != plain.group_size) {
    if (side.group_size == kGroupIsHeadDim) {
      json["group_size"] = "head";
    } else {
      json["group_size"] = side.group_size;
    }
  }
  if (side.quantizer != plain.quantizer) json["quantizer"] = enum_name(side.quantizer);
  if (side.scales != plain.scales) json["scales"] = enum_name(side.scales);
  if (side.transform != plain.transform) json["transform"] = enum_name(side.transform);
  return json;
}

OrderedJson rule_json(const LayerRule& rule) {
  const LayerRecipe& layer = rule.layer;
  OrderedJson json;
  json["layers"] = layer_span_text(rule);
  json["k"] = side_json(layer.k);
  json["v"] = side_json(layer.v);
  for (const auto& [index, head] : layer.heads) {
    OrderedJson head_json;
    head_json["head"] = index;
    head_json["k"] = side_json(head.k);
    head_json["v"] = side_json(head.v);
    json["heads"].push_back(std::move(head_json));
  }
  if (layer.residual_length != 0) json["residual_length"] = layer.residual_length;
  if (layer.window != WindowRule::kKivi) json["window"] = enum_name(layer.window);
  if (layer.key_rope != KeyRope::kAfter) json["key_rope"] = enum_name(layer.key_rope);
  return json;
}

OrderedJson provenance_json(const Provenance& provenance) {
  OrderedJson json;
  if (!provenance.model_sha256.empty()) json["model_sha256"] = provenance.model_sha256;
  if (!provenance.data_sha256.empty()) json["data_sha256"] = provenance.data_sha256;
  if (!provenance.command.empty()) json["command"] = provenance.command;
  for (const auto& [name, value] : provenance.metrics) {
    if (!std::isfinite(value)) {
      fail(ErrorCode::kInvalidArgument, "recipe: provenance.metrics.{}: {} is not finite", name,
           value);
    }
    json["metrics"][name] = value;
  }
  return json;
}

}  // namespace

KvRecipe recipe_from_json(std::string_view json, std::string_view source_name) {
  Json parsed;
  try {
    parsed = Json::parse(json, StrictKeys(source_name));
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 3, column 5: ..." without its tag.
    std::string_view what = error.what();
    if (const size_t tag = what.find("] "); tag != what.npos) what.remove_prefix(tag + 2);
    fail(ErrorCode::kInvalidArgument, "{}: not JSON: {}", source_name, what);
  }
  return read_recipe(Node(parsed, source_name, ""));
}

std::string recipe_to_json(const KvRecipe& recipe) {
  OrderedJson json;
  json["lowkey_recipe"] = kVersion;
  if (!recipe.name.empty()) json["name"] = recipe.name;
  json["layers"] = OrderedJson::array();
  for (const LayerRule& rule : recipe.rules) json["layers"].push_back(rule_json(rule));
  json["intact_prefix"] = recipe.intact_prefix;
  if (recipe.protect != 0) json["protect"] = recipe.protect;
  if (recipe.score_correction) json["score_correction"] = true;
  json["prefill"] = enum_name(recipe.prefill);
  if (recipe.calibration) {
    json["calibration"]["file"] = recipe.calibration->file;
    json["calibration"]["sha256"] = recipe.calibration->sha256;
  }
  if (recipe.provenance != Provenance{}) json["provenance"] = provenance_json(recipe.provenance);
  try {
    return json.dump(2) + "\n";
  } catch (const OrderedJson::exception&) {
    fail(ErrorCode::kInvalidArgument, "recipe: its name, command or file is not valid UTF-8");
  }
}

}  // namespace lowkey
