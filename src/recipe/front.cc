#include "recipe/front.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "recipe/json_node.h"
#include "recipe/short_form.h"

namespace lowkey {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kVersion = 1;
constexpr int kMaxDepth = 4;  // a front nests 3 deep
constexpr uint64_t kMaxFileBytes = uint64_t{64} << 20;
constexpr double kAny = std::numeric_limits<double>::infinity();

// Every number of a point: reading, writing and the schema follow this order and these bounds.
struct NumberField {
  const char* name;
  double FrontPoint::*member;
  double least, most;
};
constexpr NumberField kNumbers[] = {
    {"code_bits", &FrontPoint::code_bits, 0, 32},
    {"stored_bits", &FrontPoint::stored_bits, 0, kAny},
    {"bytes_per_token", &FrontPoint::bytes_per_token, 0, kAny},
    {"kl", &FrontPoint::kl, -kAny, kAny},
    {"kl_ci", &FrontPoint::kl_ci, 0, kAny},
    {"top1_agreement", &FrontPoint::top1_agreement, 0, 1},
    {"ppl", &FrontPoint::ppl, 0, kAny},
    {"ppl_delta_percent", &FrontPoint::ppl_delta_percent, -kAny, kAny},
    {"kl_heldout", &FrontPoint::kl_heldout, -kAny, kAny},
    {"kl_heldout_ci", &FrontPoint::kl_heldout_ci, 0, kAny},
    {"ppl_heldout", &FrontPoint::ppl_heldout, 0, kAny},
    {"ppl_delta_percent_heldout", &FrontPoint::ppl_delta_percent_heldout, -kAny, kAny},
    {"top1_agreement_heldout", &FrontPoint::top1_agreement_heldout, 0, 1},
};

// No file names: a front is data, it must not make the program open other files.
KvRecipe parse_point_recipe(std::string_view text) {
  return text.starts_with('{') ? recipe_from_json(text, "recipe") : parse_short_form(text);
}

FrontPoint read_point(const JsonNode& node) {
  std::vector<std::string_view> known = {"recipe", "task_accuracy"};
  for (const NumberField& field : kNumbers) known.emplace_back(field.name);
  node.expect_fields(known);
  FrontPoint point;
  const JsonNode recipe = node["recipe"];
  point.recipe = recipe.text();
  try {
    parse_point_recipe(point.recipe);
  } catch (const Error& error) {
    fail(error.code(), "{}: {}", recipe.where(), error.what());
  }
  for (const NumberField& field : kNumbers) {
    point.*field.member = node[field.name].number(field.least, field.most);
  }
  if (node.has("task_accuracy")) point.task_accuracy = node["task_accuracy"].number(0, 1);
  return point;
}

Front read_front_node(const JsonNode& node) {
  // The version first: a newer file has fields that are unknown here, and that is not its fault.
  if (!node.has("lowkey_front")) {
    node.refuse("not a front of recipes: \"lowkey_front\": {} is missing", kVersion);
  }
  if (const int32_t version = node["lowkey_front"].integer(1, INT32_MAX); version != kVersion) {
    fail(ErrorCode::kUnsupported, "{}: front version {}; this program reads version {}",
         node.source(), version, kVersion);
  }
  node.expect_fields({"lowkey_front", "model", "model_sha256", "data_sha256", "command",
                      "num_layers", "ctx", "points", "references"});
  Front front;
  front.model = node["model"].text();
  if (node.has("model_sha256")) front.model_sha256 = node["model_sha256"].sha256();
  if (node.has("data_sha256")) front.data_sha256 = node["data_sha256"].sha256();
  if (node.has("command")) front.command = node["command"].text();
  if (node.has("num_layers")) front.num_layers = node["num_layers"].integer(1, kMaxLayers);
  front.ctx = node["ctx"].integer(1, static_cast<int32_t>(kMaxTokens));
  for (const JsonNode& point : node["points"].elements()) {
    front.points.push_back(read_point(point));
    const size_t n = front.points.size();
    if (n > 1 && front.points[n - 1].code_bits < front.points[n - 2].code_bits) {
      point["code_bits"].refuse("{} after {}: points are listed by ascending code bits",
                                front.points[n - 1].code_bits, front.points[n - 2].code_bits);
    }
  }
  if (front.points.empty()) node["points"].refuse("no points: at least one");
  if (node.has("references")) {
    for (const JsonNode& point : node["references"].elements()) {
      front.references.push_back(read_point(point));
    }
  }
  return front;
}

OrderedJson point_json(const FrontPoint& point, const std::string& path) {
  OrderedJson json;
  const auto put = [&](const char* name, double value) {
    if (!std::isfinite(value)) {
      fail(ErrorCode::kInvalidArgument, "front: {}.{}: {} is not finite", path, name, value);
    }
    json[name] = value;
  };
  json["recipe"] = point.recipe;
  for (const NumberField& field : kNumbers) put(field.name, point.*field.member);
  if (point.task_accuracy) put("task_accuracy", *point.task_accuracy);
  return json;
}

}  // namespace

Front front_from_json(std::string_view json, std::string_view source_name) {
  const StrictJson document(json, source_name, kMaxDepth);
  return read_front_node(document.root());
}

std::string front_to_json(const Front& front) {
  OrderedJson json;
  json["lowkey_front"] = kVersion;
  json["model"] = front.model;
  if (!front.model_sha256.empty()) json["model_sha256"] = front.model_sha256;
  if (!front.data_sha256.empty()) json["data_sha256"] = front.data_sha256;
  if (!front.command.empty()) json["command"] = front.command;
  if (front.num_layers != 0) json["num_layers"] = front.num_layers;
  json["ctx"] = front.ctx;
  const auto put = [&](const char* name, const std::vector<FrontPoint>& points) {
    json[name] = OrderedJson::array();
    for (size_t i = 0; i < points.size(); ++i) {
      json[name].push_back(point_json(points[i], fmt::format("{}[{}]", name, i)));
    }
  };
  put("points", front.points);
  put("references", front.references);
  std::string text;
  try {
    text = json.dump(2) + "\n";
  } catch (const OrderedJson::exception&) {
    fail(ErrorCode::kInvalidArgument, "front: its model, command or a recipe is not valid UTF-8");
  }
  front_from_json(text, "front");
  return text;
}

std::filesystem::path front_path(const std::filesystem::path& file_or_folder) {
  constexpr const char* kName = "front.json";
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(file_or_folder, ignored);
  std::filesystem::path file =
      folder ? (file_or_folder / kName).lexically_normal() : file_or_folder;
  if (!std::filesystem::exists(file, ignored)) {
    fail(ErrorCode::kNotFound, "{}: no {}; 'lowkey tune MODEL' makes one", file_or_folder.string(),
         folder ? "front.json in this folder" : "such front");
  }
  if (file.extension() != ".json") {
    fail(ErrorCode::kInvalidArgument,
         "{}: a front is a .json file, or a folder with a front.json in it", file.string());
  }
  return file;
}

Front read_front(const std::filesystem::path& file) {
  return front_from_json(read_file(file, kMaxFileBytes), file.string());
}

KvRecipe recipe_of(const FrontPoint& point, const Front& front) {
  KvRecipe recipe = parse_point_recipe(point.recipe);
  if (recipe.provenance == Provenance{}) {
    recipe.provenance = {.model_sha256 = front.model_sha256,
                         .data_sha256 = front.data_sha256,
                         .command = front.command,
                         .metrics = {}};
    for (const NumberField& field : kNumbers) {
      recipe.provenance.metrics.emplace(field.name, point.*field.member);
    }
    if (point.task_accuracy) {
      recipe.provenance.metrics.emplace("task_accuracy", *point.task_accuracy);
    }
  }
  return recipe;
}

std::string front_model_name(const std::filesystem::path& model) {
  // "folder/" has no last part; "." has none worth knowing.
  std::error_code unknown;
  std::filesystem::path whole = std::filesystem::absolute(model, unknown).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();
  return whole.filename().string();
}

std::optional<std::string> other_model(const Front& front, std::string_view model_name,
                                       int32_t num_layers) {
  if (front.num_layers != 0 && front.num_layers != num_layers) {
    return fmt::format("made for {} with {} layers, not for {} with {}", front.model,
                       front.num_layers, model_name, num_layers);
  }
  if (!front.model.empty() && !model_name.empty() && front.model != model_name) {
    return fmt::format("made for {}, not for {}", front.model, model_name);
  }
  return std::nullopt;
}

}  // namespace lowkey
