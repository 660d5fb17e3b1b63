#include "plan_front.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "memory_plan.h"
#include "recipe/front.h"
#include "recipe_text.h"
#include "table.h"
#include "units.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;
constexpr auto kRight = Table::Align::kRight;

std::string bytes_text(int64_t bytes) {
  return human_bytes(static_cast<uint64_t>(bytes));
}

std::string tokens_text(int64_t ctx, int64_t batch) {
  if (batch == 1) return fmt::format("{} tokens", with_separators(ctx));
  return fmt::format("{} sequences of {} tokens", with_separators(batch), with_separators(ctx));
}

std::string loss_text(const FrontPoint& point) {
  return fmt::format("KL {:.4f}, perplexity {:+.2f}% on held-out text", point.kl_heldout,
                     point.ppl_delta_percent_heldout);
}

// A point on the planned model.
struct Row {
  const FrontPoint* point;
  MemoryPlan plan;
  MemoryNeed need;
};

// Layers that are stored alike and follow each other, and what each of them takes.
struct LayerRun {
  size_t first, last;
  const ResolvedLayer* layer;
  KvBytes each;  // of all sequences
};

bool alike(const ResolvedLayer& a, const ResolvedLayer& b) {
  return a.heads == b.heads && a.residual_length == b.residual_length && a.window == b.window;
}

std::vector<LayerRun> layer_runs(const ResolvedRecipe& recipe, int64_t ctx, int64_t batch) {
  std::vector<LayerRun> runs;
  for (size_t i = 0; i < recipe.layers.size(); ++i) {
    const ResolvedLayer& layer = recipe.layers[i];
    if (!runs.empty() && alike(*runs.back().layer, layer)) {
      runs.back().last = i;
      continue;
    }
    ResolvedRecipe alone = recipe;
    alone.layers = {layer};
    alone.shape.num_layers = 1;
    const KvBytes one = bytes_at(alone, ctx);
    runs.push_back({i, i, &layer, {one.pages * batch, one.windows * batch, one.prefix * batch}});
  }
  return runs;
}

// One text where all heads agree, else each head's bits.
std::string heads_text(const ResolvedLayer& layer, SideRecipe HeadRecipe::*side) {
  const auto same = [&](const HeadRecipe& head) { return head.*side == layer.heads[0].*side; };
  if (std::all_of(layer.heads.begin(), layer.heads.end(), same)) {
    return side_text(layer.heads[0].*side);
  }
  std::string text = "bits by head:";
  for (const HeadRecipe& head : layer.heads) text += fmt::format(" {}", (head.*side).bits);
  return text;
}

class FrontPlan {
 public:
  FrontPlan(const PlannedModel& model, const PlanOptions& options)
      : model_(model),
        options_(options),
        file_(front_path(*options.front).string()),
        front_(read_front(file_)),
        ctx_(planned_context(model, options)),
        memory_(*options.memory) {
    std::vector<const FrontPoint*> fitting;
    for (const FrontPoint& point : front_.points) {
      const MemoryPlan plan(recipe_of(point, front_), model.config, model.weight_bytes);
      rows_.push_back({&point, plan, plan.need(ctx_, options.batch)});
      if (fits(rows_.back())) fitting.push_back(&point);
    }
    const FrontPoint* const best = least_loss(front_, fitting);
    for (const Row& row : rows_) {
      if (row.point == best) chosen_ = &row;
      if (!smallest_ || row.need.total() < smallest_->need.total()) smallest_ = &row;
    }
    const MemoryPlan plain(parse_recipe("16"), model.config, model.weight_bytes);
    plain_fits_ = plain.need(ctx_, options.batch).total() <= memory_;
    other_ = other_model(front_, model.file_name, model.config.num_layers);
  }

  std::string text(const Terminal& terminal) const {
    std::string out = planned_model_text(model_, terminal);
    out += fmt::format("\n{}\n{}",
                       paint(terminal, Ink::kBold,
                             fmt::format("What fits {} at {}, of {}", bytes_text(memory_),
                                         tokens_text(ctx_, options_.batch), file_)),
                       points_table(terminal));
    if (chosen_) {
      out += fmt::format("\n{}\n{}", paint(terminal, Ink::kBold, choice_text()),
                         layers_table(terminal));
      out += fmt::format("Use it: --kv {}\n", reference(*chosen_));
      if (plain_fits_) out += "16 bits fit as well: nothing needs to be quantized.\n";
    } else {
      out += "\n" + refusal_text();
    }
    out += "KL (nats) and perplexity against the 16-bit cache, on held-out text.\n";
    out += planned_total_text(model_, ctx_);
    if (other_) out += fmt::format("Warning: {}: {}.\n", file_, *other_);
    return out;
  }

  std::string json() const {
    Json json = planned_model_json(model_, options_, ctx_);
    json["front"] = file_;
    json["points"] = Json::array();
    for (const Row& row : rows_) {
      json["points"].push_back({{"kv", reference(row)},
                                {"recipe", row.point->recipe},
                                {"code_bits", row.point->code_bits},
                                {"stored_bits", stored_bits(row.plan.recipe(), ctx_)},
                                {"kl_heldout", row.point->kl_heldout},
                                {"ppl_delta_percent_heldout", row.point->ppl_delta_percent_heldout},
                                {"kv_bytes", row.need.kv.total()},
                                {"weight_bytes", row.need.weights},
                                {"workspace_bytes", row.need.workspace},
                                {"total_bytes", row.need.total()},
                                {"fits", fits(row)},
                                {"longest_ctx", row.plan.longest_ctx(memory_, options_.batch)},
                                {"largest_batch", row.plan.largest_batch(memory_, ctx_)}});
    }
    json["point"] = chosen_ ? Json(chosen_ - rows_.data()) : Json();
    json["smallest"] = smallest_ - rows_.data();
    json["fits_16bit"] = plain_fits_;
    json["layers"] = Json::array();
    if (chosen_) {
      for (const LayerRun& run : layer_runs(chosen_->plan.recipe(), ctx_, options_.batch)) {
        for (size_t i = run.first; i <= run.last; ++i) json["layers"].push_back(layer_json(i, run));
      }
    }
    if (other_) json["warning"] = *other_;
    return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  }

 private:
  bool fits(const Row& row) const { return row.need.total() <= memory_; }

  std::string reference(const Row& row) const { return reference_to(file_, front_, *row.point); }

  std::string choice_text() const {
    return fmt::format("{:.2f} code bits lose least of what fits: {}", chosen_->point->code_bits,
                       loss_text(*chosen_->point));
  }

  // What the smallest point has room for.
  std::string refusal_text() const {
    std::string out = fmt::format("None fits: the smallest, {:.2f} code bits, needs {}.\n",
                                  smallest_->point->code_bits, bytes_text(smallest_->need.total()));
    const int64_t ctx = smallest_->plan.longest_ctx(memory_, options_.batch);
    const int64_t batch = smallest_->plan.largest_batch(memory_, ctx_);
    if (ctx == 0 && batch == 0) {
      return out + fmt::format("Weights alone are {}: not even one token fits.\n",
                               bytes_text(model_.weight_bytes));
    }
    out += fmt::format("On it {} hold", bytes_text(memory_));
    if (ctx > 0) out += fmt::format(" {}", tokens_text(ctx, options_.batch));
    if (ctx > 0 && batch > 0) out += ", or";
    if (batch > 0) out += fmt::format(" {}", tokens_text(ctx_, batch));
    return out + ".\n";
  }

  std::string points_table(const Terminal& terminal) const {
    const auto count = [](int64_t n) { return n == 0 ? "-" : with_separators(n); };
    Table table({{"fits"},
                 {"code", kRight},
                 {"stored", kRight},
                 {"KV cache", kRight},
                 {"total", kRight},
                 {"KL", kRight},
                 {"ppl", kRight},
                 {"max ctx", kRight},
                 {"max batch", kRight}});
    for (const Row& row : rows_) {
      table.add_row({&row == chosen_ ? "use"
                     : fits(row)     ? "yes"
                                     : "no",
                     fmt::format("{:.2f}", row.point->code_bits),
                     fmt::format("{:.2f}", stored_bits(row.plan.recipe(), ctx_)),
                     bytes_text(row.need.kv.total()), bytes_text(row.need.total()),
                     fmt::format("{:.4f}", row.point->kl_heldout),
                     fmt::format("{:+.2f}%", row.point->ppl_delta_percent_heldout),
                     count(row.plan.longest_ctx(memory_, options_.batch)),
                     count(row.plan.largest_batch(memory_, ctx_))});
    }
    return table.text(terminal);
  }

  std::string layers_table(const Terminal& terminal) const {
    Table table({{"layers"},
                 {"keys"},
                 {"values"},
                 {"window", kRight},
                 {"bytes/layer", kRight},
                 {"bytes", kRight}});
    for (const LayerRun& run : layer_runs(chosen_->plan.recipe(), ctx_, options_.batch)) {
      const ResolvedLayer& layer = *run.layer;
      const auto layers = static_cast<int64_t>(run.last - run.first + 1);
      table.add_row(
          {layers == 1 ? fmt::format("{}", run.first) : fmt::format("{}-{}", run.first, run.last),
           heads_text(layer, &HeadRecipe::k), heads_text(layer, &HeadRecipe::v),
           window_text(layer.heads[0], layer.residual_length, layer.window),
           with_separators(run.each.total()), with_separators(layers * run.each.total())});
    }
    table.add_row({"all", "", "", "", "", with_separators(chosen_->need.kv.total())});
    return table.text(terminal);
  }

  static Json layer_json(size_t index, const LayerRun& run) {
    Json json;
    json["layer"] = index;
    for (const HeadRecipe& head : run.layer->heads) {
      json["k_bits"].push_back(head.k.bits);
      json["v_bits"].push_back(head.v.bits);
    }
    json["residual_length"] = run.layer->residual_length;
    json["page_bytes"] = run.each.pages;
    json["window_bytes"] = run.each.windows;
    json["prefix_bytes"] = run.each.prefix;
    json["bytes"] = run.each.total();
    return json;
  }

  const PlannedModel& model_;
  const PlanOptions& options_;
  std::string file_;
  Front front_;
  int64_t ctx_;
  int64_t memory_;
  std::vector<Row> rows_;
  const Row* chosen_ = nullptr;  // none fits
  const Row* smallest_ = nullptr;
  bool plain_fits_ = false;
  std::optional<std::string> other_;
};

}  // namespace

std::string plan_front(const PlannedModel& model, const PlanOptions& options,
                       const Terminal& terminal) {
  LOWKEY_CHECK(options.front && options.memory, "the command line sees to both");
  const FrontPlan plan(model, options);
  return options.json ? plan.json() : plan.text(terminal);
}

}  // namespace lowkey
