#include <cmath>
#include <nlohmann/json.hpp>

#include "recipe/json_node.h"
#include "recipe/names.h"
#include "recipe/recipe.h"
#include "recipe/short_form.h"

namespace lowkey {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kVersion = 1;
constexpr int kMaxDepth = 8;  // a recipe nests 5 deep

SideRecipe read_side(const JsonNode& node) {
  node.expect_fields({"bits", "axis", "group_size", "quantizer", "scales", "transform"});
  SideRecipe side;
  side.bits = node["bits"].integer(2, 32);
  if (!is_recipe_bits(side.bits)) node["bits"].refuse("{}: 2, 3, 4, 8, 16 or 32", side.bits);
  // A packed side says both; for others they mean nothing, and are kept if they are there.
  if (side.packed() || node.has("axis")) side.axis = node["axis"].choice<QuantAxis>();
  if (side.packed() || node.has("group_size")) {
    const JsonNode group = node["group_size"];
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

LayerRule read_rule(const JsonNode& node) {
  node.expect_fields({"layers", "k", "v", "heads", "residual_length", "window", "key_rope"});
  LayerRule rule;
  if (!parse_layer_span(node["layers"].text(), rule)) {
    node["layers"].refuse("'{}' names no layers: \"7\", \"0-3\" or \"*\" (the rest), from 0 to {}",
                          node["layers"].text(), kMaxLayers - 1);
  }
  rule.layer.k = read_side(node["k"]);
  rule.layer.v = read_side(node["v"]);
  if (node.has("heads")) {
    for (const JsonNode& head : node["heads"].elements()) {
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

Provenance read_provenance(const JsonNode& node) {
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

KvRecipe read_recipe(const JsonNode& node) {
  // The version first: a newer file has fields that are unknown here, and that is not its fault.
  if (node.has("lowkey_front")) {
    node.refuse(
        "a front of several recipes: say which, as {}@3.25 (the most code bits) or "
        "@balanced",
        node.source());
  }
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
  for (const JsonNode& rule : node["layers"].elements()) recipe.rules.push_back(read_rule(rule));
  if (recipe.rules.empty()) node["layers"].refuse("no layers: at least one entry");
  if (node.has("intact_prefix"))
    recipe.intact_prefix = node["intact_prefix"].integer(0, kMaxIntactPrefix);
  if (node.has("protect")) recipe.protect = node["protect"].integer(0, kMaxIntactPrefix);
  if (node.has("score_correction")) recipe.score_correction = node["score_correction"].boolean();
  if (node.has("prefill")) recipe.prefill = node["prefill"].choice<PrefillMode>();
  if (node.has("calibration")) {
    const JsonNode calibration = node["calibration"];
    calibration.expect_fields({"file", "sha256"});
    recipe.calibration = CalibrationRef{.file = calibration["file"].text(), .sha256 = {}};
    if (recipe.calibration->file.empty()) calibration["file"].refuse("names no file");
    if (calibration.has("sha256")) recipe.calibration->sha256 = calibration["sha256"].sha256();
  }
  if (node.has("provenance")) recipe.provenance = read_provenance(node["provenance"]);
  return recipe;
}

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
  const StrictJson document(json, source_name, kMaxDepth);
  return read_recipe(document.root());
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
    if (!recipe.calibration->sha256.empty()) {
      json["calibration"]["sha256"] = recipe.calibration->sha256;
    }
  }
  if (recipe.provenance != Provenance{}) json["provenance"] = provenance_json(recipe.provenance);
  try {
    return json.dump(2) + "\n";
  } catch (const OrderedJson::exception&) {
    fail(ErrorCode::kInvalidArgument, "recipe: its name, command or file is not valid UTF-8");
  }
}

}  // namespace lowkey
