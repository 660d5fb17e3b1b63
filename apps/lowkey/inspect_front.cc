#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "inspect.h"
#include "kv_cost.h"
#include "model/kv_shape.h"
#include "recipe/front.h"
#include "table.h"
#include "tensor_summary.h"
#include "units.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kQualities = {Quality::kLossless, Quality::kBalanced, Quality::kCompact};

// Which promises this point is picked for.
std::string picked_for(const Front& front, const FrontPoint& point) {
  std::string names;
  for (const Quality quality : kQualities) {
    if (point_for(front, quality) != &point) continue;
    if (!names.empty()) names += ", ";
    names += quality_name(quality);
  }
  return names;
}

// Where a model says its shape: what a recipe costs there, at the length that was asked for.
class FrontCosts {
 public:
  FrontCosts(const Front& front, const InspectOptions& options)
      : ctx_(options.ctx.value_or(front.ctx)) {
    if (options.model) {
      const ModelFile model = ModelFile::open(*options.model);
      shape_ = kv_shape(model.config());
      other_ = other_model(front, front_model_name(model.path()), shape_->num_layers);
    } else if (options.ctx && *options.ctx != front.ctx) {
      fail(ErrorCode::kInvalidArgument,
           "{}: its bytes were counted at {} tokens; for another --ctx give the --model",
           options.path, front.ctx);
    }
  }

  void count(FrontPoint& point, const Front& front) const {
    if (!shape_) return;
    const KvCost cost = kv_cost(recipe_of(point, front), *shape_, ctx_);
    point.stored_bits = cost.stored_bits;
    point.bytes_per_token = cost.bytes_per_token;
  }

  int64_t ctx() const { return ctx_; }
  const std::optional<std::string>& other() const { return other_; }

 private:
  int64_t ctx_;
  std::optional<KvShape> shape_;
  std::optional<std::string> other_;
};

std::string points_table(const Front& front, const std::vector<FrontPoint>& points,
                         const Terminal& terminal) {
  constexpr auto kRight = Table::Align::kRight;
  const bool task = std::any_of(points.begin(), points.end(),
                                [](const FrontPoint& point) { return point.task_accuracy; });
  std::vector<Table::Column> columns = {
      {"code", kRight},     {"stored", kRight}, {"B/token", kRight}, {"KL", kRight},
      {"held-out", kRight}, {"ppl", kRight},    {"held-out", kRight}};
  if (task) columns.push_back({"task", kRight});
  columns.push_back({"for"});
  columns.push_back({"recipe"});
  Table table(columns);
  for (const FrontPoint& point : points) {
    std::vector<std::string> cells = {
        fmt::format("{:.2f}", point.code_bits),
        fmt::format("{:.2f}", point.stored_bits),
        with_separators(std::llround(point.bytes_per_token)),
        fmt::format("{:.4f}", point.kl),
        fmt::format("{:.4f}", point.kl_heldout),
        fmt::format("{:+.2f}%", point.ppl_delta_percent),
        fmt::format("{:+.2f}%", point.ppl_delta_percent_heldout),
    };
    if (task) {
      cells.push_back(point.task_accuracy ? fmt::format("{:.1f}%", 100 * *point.task_accuracy)
                                          : "-");
    }
    cells.push_back(picked_for(front, point));
    cells.push_back(point.recipe.starts_with('{') ? "(JSON)" : point.recipe);
    table.add_row(std::move(cells));
  }
  return table.text(terminal);
}

Json front_json(const Front& front, const FrontCosts& costs) {
  Json json;
  json["kind"] = "front";
  json["front"] = Json::parse(front_to_json(front));
  for (const Quality quality : kQualities) {
    const FrontPoint* const point = point_for(front, quality);
    json["use"][std::string(quality_name(quality))] =
        point ? Json(point - front.points.data()) : Json();
  }
  if (costs.other()) json["warning"] = *costs.other();
  return json;
}

}  // namespace

std::string inspect_front(const InspectOptions& options, const Terminal& terminal) {
  Front front = read_front(options.path);
  if (!options.kv.empty()) {
    fail(ErrorCode::kInvalidArgument, "{}: is a front of recipes: --kv needs a model as PATH",
         options.path);
  }
  const FrontCosts costs(front, options);
  for (FrontPoint& point : front.points) costs.count(point, front);
  for (FrontPoint& point : front.references) costs.count(point, front);
  front.ctx = costs.ctx();
  if (options.json) return front_json(front, costs).dump(2) + "\n";

  Facts facts = {{"model", front.model}};
  if (front.num_layers != 0) facts.emplace_back("layers", fmt::format("{}", front.num_layers));
  if (!front.command.empty()) facts.emplace_back("made by", front.command);
  std::string out = facts_text("Front " + options.path, facts, terminal);
  out += fmt::format("\n{}", points_table(front, front.points, terminal));
  if (!front.references.empty()) {
    out += fmt::format("\n{}\n{}",
                       paint(terminal, Ink::kBold, "Uniform recipes, measured the same way"),
                       points_table(front, front.references, terminal));
  }
  out += fmt::format(
      "\nCode and stored bits per number, stored and bytes at {} tokens. KL (nats) and perplexity\n"
      "against the 16-bit cache; held-out: on text that took no part in the search.\n"
      "As a recipe: --kv {}; lowkey inspect of that shows it whole.\n",
      with_separators(costs.ctx()), reference_to(options.path, front, front.points.front()));
  for (const Quality quality : kQualities) {
    if (!point_for(front, quality)) {
      out += fmt::format("No point is {}: {}.\n", quality_name(quality), quality_promise(quality));
    }
  }
  if (costs.other()) out += fmt::format("Warning: {}.\n", *costs.other());
  return out;
}

}  // namespace lowkey
