#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "engine/prefix_file.h"
#include "inspect.h"
#include "kv_cost.h"
#include "model/kv_shape.h"
#include "recipe/bytes.h"
#include "recipe/names.h"
#include "recipe/short_form.h"
#include "recipe_text.h"
#include "table.h"
#include "tensor_summary.h"
#include "units.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kUsualContext = 4096;
constexpr int32_t kUsualHeadDim = 128;  // where no model says: that of most

// The bits of one head of one rule: a cache of that head alone, so that every row says what it
// costs.
struct RowBits {
  double code = 0;
  std::optional<double> stored;  // nothing: it does not fit this head_dim, or cannot be stored yet
};

RowBits row_bits(const KvRecipe& recipe, const LayerRule& rule, const HeadRecipe& head,
                 int32_t head_dim, int64_t ctx) {
  RowBits bits;
  bits.code = (head.k.bits + head.v.bits) / 2.0;
  KvRecipe alone;
  alone.intact_prefix = recipe.intact_prefix;
  alone.rules = {LayerRule{.rest = true, .layer = rule.layer}};
  alone.rules[0].layer.heads.clear();
  alone.rules[0].layer.k = head.k;
  alone.rules[0].layer.v = head.v;
  try {
    bits.stored = stored_bits(
        resolve_recipe(alone, {.num_layers = 1, .num_kv_heads = 1, .head_dim = head_dim}), ctx);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported && error.code() != ErrorCode::kInvalidArgument)
      throw;
  }
  return bits;
}

// Visits every row of the per-layer table: a rule's heads together, then those that differ.
template <typename Visit>
void for_each_row(const KvRecipe& recipe, Visit visit) {
  for (const LayerRule& rule : recipe.rules) {
    const std::string layers = rule.rest ? "* (the rest)" : layer_span_text(rule);
    visit(rule, layers, std::optional<int32_t>(), HeadRecipe{.k = rule.layer.k, .v = rule.layer.v});
    for (const auto& [index, head] : rule.layer.heads) {
      visit(rule, fmt::format("{}, head {}", layers, index), std::optional<int32_t>(index), head);
    }
  }
}

Facts recipe_facts(const KvRecipe& recipe) {
  Facts facts;
  if (const auto text = short_form(recipe)) facts.emplace_back("short form", *text);
  facts.emplace_back("intact prefix", recipe.intact_prefix == 0
                                          ? (recipe.calibration ? "its file's tokens" : "none")
                                      : recipe.intact_prefix == 1
                                          ? "first token"
                                          : fmt::format("first {} tokens", recipe.intact_prefix));
  facts.emplace_back("prefill", std::string(enum_name(recipe.prefill)));
  if (recipe.protect != 0) facts.emplace_back("protect", fmt::format("{} tokens", recipe.protect));
  if (recipe.score_correction) facts.emplace_back("score correction", "yes");
  if (recipe.calibration) {
    const std::string& sha256 = recipe.calibration->sha256;
    facts.emplace_back(
        "prefix from",
        recipe.calibration->file + (sha256.empty() ? "" : fmt::format(" (sha256 {})", sha256)));
  }
  const Provenance& from = recipe.provenance;
  if (!from.command.empty()) facts.emplace_back("made by", from.command);
  if (!from.model_sha256.empty()) facts.emplace_back("for model", from.model_sha256);
  if (!from.data_sha256.empty()) facts.emplace_back("with data", from.data_sha256);
  for (const auto& [name, value] : from.metrics) {
    facts.emplace_back(name, fmt::format("{:g}", value));
  }
  return facts;
}

Json recipe_json(const KvRecipe& recipe, int32_t head_dim, int64_t ctx,
                 const std::optional<KvCost>& cost) {
  Json json;
  json["kind"] = "recipe";
  json["recipe"] = Json::parse(recipe_to_json(recipe));
  if (const auto text = short_form(recipe)) json["short_form"] = *text;
  json["head_dim"] = head_dim;
  json["ctx"] = ctx;
  for_each_row(recipe, [&](const LayerRule& rule, const std::string&, std::optional<int32_t> index,
                           const HeadRecipe& head) {
    const RowBits bits = row_bits(recipe, rule, head, head_dim, ctx);
    Json row;
    row["layers"] = layer_span_text(rule);
    if (index) row["head"] = *index;
    row["code_bits"] = bits.code;
    row["stored_bits"] = bits.stored ? Json(*bits.stored) : Json();
    json["rows"].push_back(row);
  });
  if (cost) json["kv_cache"] = kv_cost_json({*cost});
  return json;
}

}  // namespace

std::string inspect_recipe(const KvRecipe& recipe, const InspectOptions& options,
                           const Terminal& terminal) {
  if (!options.kv.empty()) {
    fail(ErrorCode::kInvalidArgument, "{}: is a recipe itself: --kv needs a model as PATH",
         options.path);
  }
  const int64_t ctx = options.ctx.value_or(kUsualContext);
  int32_t head_dim = kUsualHeadDim;
  std::optional<KvCost> cost;
  if (options.model) {
    const ModelFile model = ModelFile::open(*options.model);
    head_dim = model.config().head_dim;
    cost = kv_cost(recipe, kv_shape(model.config()), ctx, prefix_tokens(recipe));
  }
  if (options.json) return recipe_json(recipe, head_dim, ctx, cost).dump(2) + "\n";

  constexpr auto kRight = Table::Align::kRight;
  Table table(
      {{"layers"}, {"keys"}, {"values"}, {"window", kRight}, {"code", kRight}, {"stored", kRight}});
  bool all_stored = true;
  for_each_row(recipe, [&](const LayerRule& rule, const std::string& layers, std::optional<int32_t>,
                           const HeadRecipe& head) {
    const RowBits bits = row_bits(recipe, rule, head, head_dim, ctx);
    all_stored &= bits.stored.has_value();
    table.add_row({layers, side_text(head.k), side_text(head.v),
                   window_text(head, rule.layer.residual_length, rule.layer.window),
                   fmt::format("{:.2f}", bits.code),
                   bits.stored ? fmt::format("{:.2f}", *bits.stored) : "-"});
  });
  std::string out = facts_text("Recipe " + (recipe.name.empty() ? options.path : recipe.name),
                               recipe_facts(recipe), terminal);
  out += fmt::format("\n{}", table.text(terminal));
  out += "Code and stored bits per number; stored is codes, scales, windows and whole pages,\n";
  out += fmt::format("at {} tokens, head_dim {}{}.\n", with_separators(ctx), head_dim,
                     options.model ? "" : " (with --model: that model's)");
  if (!all_stored) {
    out += fmt::format("- : not possible with head_dim {}, or not available in this version.\n",
                       head_dim);
  }
  if (cost) out += fmt::format("\n{}", kv_cost_text({*cost}, ctx, terminal));
  return out;
}

}  // namespace lowkey
