#include "plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "architectures.h"
#include "core/error.h"
#include "engine/prefix_file.h"
#include "memory_plan.h"
#include "model/kv_shape.h"
#include "plan_front.h"
#include "planned_model.h"
#include "recipe/bytes.h"
#include "table.h"
#include "tensor_summary.h"
#include "units.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;
using Align = Table::Align;

constexpr const char* kUsualRecipes[] = {"16", "8", "4", "kivi-4", "kivi-2"};
constexpr size_t kLongLabel = 16;  // longer recipes are written out below the table

struct Row {
  std::string recipe;
  double code_bits = 0;
  double stored_bits = 0;
  MemoryNeed need;
  double ratio = 0;         // the 16-bit total / this one
  int64_t longest_ctx = 0;  // the next two: within --memory
  int64_t largest_batch = 0;
};

class Report {
 public:
  Report(PlannedModel model, const PlanOptions& options)
      : model_(std::move(model)), options_(options), ctx_(planned_context(model_, options)) {
    const MemoryPlan plain(parse_recipe("16"), model_.config, model_.weight_bytes);
    const auto total16 = static_cast<double>(plain.need(ctx_, options_.batch).total());
    for (const std::string& recipe : options_.kv) rows_.push_back(row(recipe, total16));
    if (!options_.kv.empty()) return;
    for (const char* recipe : kUsualRecipes) {
      try {
        rows_.push_back(row(recipe, total16));
      } catch (const Error& error) {
        // A head_dim that packed formats cannot take, or groups that do not divide it.
        if (error.code() != ErrorCode::kUnsupported && error.code() != ErrorCode::kInvalidArgument)
          throw;
      }
    }
  }

  std::string text(const Terminal& terminal) const {
    std::string out = planned_model_text(model_, terminal);
    std::string heading = fmt::format("Memory at {} tokens", with_separators(ctx_));
    if (options_.batch > 1) heading += fmt::format(" x {}", with_separators(options_.batch));
    if (options_.memory) {
      heading +=
          fmt::format(", and what fits {}", human_bytes(static_cast<uint64_t>(*options_.memory)));
    }
    out += fmt::format("\n{}\n{}", paint(terminal, Ink::kBold, heading), table(terminal));
    out += planned_total_text(model_, ctx_);
    return out;
  }

  std::string json() const {
    Json json = planned_model_json(model_, options_, ctx_);
    json["plans"] = Json::array();
    for (const Row& row : rows_) {
      Json plan = {{"recipe", row.recipe},
                   {"code_bits", row.code_bits},
                   {"stored_bits", row.stored_bits},
                   {"kv_bytes_per_token", bytes_per_token(row)},
                   {"kv_page_bytes", row.need.kv.pages},
                   {"kv_window_bytes", row.need.kv.windows},
                   {"kv_prefix_bytes", row.need.kv.prefix},
                   {"kv_bytes", row.need.kv.total()},
                   {"weight_bytes", row.need.weights},
                   {"workspace_bytes", row.need.workspace},
                   {"total_bytes", row.need.total()},
                   {"ratio_to_16bit", row.ratio}};
      if (options_.memory) {
        plan["longest_ctx"] = row.longest_ctx;
        plan["largest_batch"] = row.largest_batch;
      }
      json["plans"].push_back(std::move(plan));
    }
    return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  }

 private:
  Row row(const std::string& recipe, double total16) const {
    const KvRecipe parsed = parse_recipe(recipe);
    const MemoryPlan plan(parsed, model_.config, model_.weight_bytes, prefix_tokens(parsed));
    Row row;
    row.recipe = recipe;
    row.code_bits = code_bits(plan.recipe());
    row.stored_bits = stored_bits(plan.recipe(), ctx_);
    row.need = plan.need(ctx_, options_.batch);
    row.ratio = total16 / static_cast<double>(row.need.total());
    if (options_.memory) {
      row.longest_ctx = plan.longest_ctx(*options_.memory, options_.batch);
      row.largest_batch = plan.largest_batch(*options_.memory, ctx_);
    }
    return row;
  }

  double bytes_per_token(const Row& row) const {
    return static_cast<double>(row.need.kv.total()) / static_cast<double>(ctx_ * options_.batch);
  }

  std::string table(const Terminal& terminal) const {
    std::vector<Table::Column> columns = {{"recipe"},
                                          {"code", Align::kRight},
                                          {"stored", Align::kRight},
                                          {"B/token", Align::kRight},
                                          {"KV cache", Align::kRight},
                                          {"workspace", Align::kRight},
                                          {"total", Align::kRight},
                                          {"vs 16", Align::kRight}};
    if (options_.memory) {
      columns.push_back({"max ctx", Align::kRight});
      columns.push_back({"max batch", Align::kRight});
    }
    const auto bytes = [](int64_t count) { return human_bytes(static_cast<uint64_t>(count)); };
    const auto count = [](int64_t n) { return n == 0 ? "-" : with_separators(n); };
    Table table(columns);
    Legend legend(kLongLabel);
    for (const Row& row : rows_) {
      std::vector<std::string> cells = {legend.label(row.recipe),
                                        fmt::format("{:.2f}", row.code_bits),
                                        fmt::format("{:.2f}", row.stored_bits),
                                        with_separators(std::llround(bytes_per_token(row))),
                                        bytes(row.need.kv.total()),
                                        bytes(row.need.workspace),
                                        bytes(row.need.total()),
                                        fmt::format("{:.2f}x", row.ratio)};
      if (options_.memory) {
        cells.push_back(count(row.longest_ctx));
        cells.push_back(count(row.largest_batch));
      }
      table.add_row(std::move(cells));
    }
    return table.text(terminal) + legend.text();
  }

  PlannedModel model_;
  const PlanOptions& options_;
  int64_t ctx_;
  std::vector<Row> rows_;
};

// What the well-known models' caches take, at a length where windows show.
std::string architecture_list(const PlanOptions& options, const Terminal& terminal) {
  constexpr int64_t kTokens = 32768;
  const auto gib = [](int64_t bytes) {
    return fmt::format("{:.2f}", static_cast<double>(bytes) / (int64_t{1} << 30));
  };
  Json json = Json::array();
  Table table({{"name"},
               {"layers", Align::kRight},
               {"heads", Align::kRight},
               {"KV heads", Align::kRight},
               {"context", Align::kRight},
               {"parameters", Align::kRight},
               {"B/token", Align::kRight},
               {"32k: 16", Align::kRight},
               {"kivi-2", Align::kRight}});
  for (const Architecture& arch : architectures()) {
    const ModelConfig config = arch.config();
    const KvShape shape = kv_shape(config);
    const auto bytes = [&](const char* recipe) {
      return bytes_at(resolve_recipe(parse_recipe(recipe), shape), kTokens).total();
    };
    const int64_t plain = bytes("16"), packed = bytes("kivi-2");
    // Of a token that every layer still holds.
    const int64_t per_token =
        int64_t{4} * config.num_layers * config.num_kv_heads * config.head_dim;
    const int64_t parameters = parameter_count(config);
    json.push_back({{"name", arch.name},
                    {"architecture", config.architecture},
                    {"num_layers", config.num_layers},
                    {"num_sliding_layers", std::count_if(config.layers.begin(), config.layers.end(),
                                                         [](auto& l) { return l.window > 0; })},
                    {"hidden_size", config.hidden_size},
                    {"intermediate_size", config.intermediate_size},
                    {"vocab_size", config.vocab_size},
                    {"num_qo_heads", config.num_qo_heads},
                    {"num_kv_heads", config.num_kv_heads},
                    {"head_dim", config.head_dim},
                    {"max_context", config.max_context},
                    {"parameters", parameters},
                    {"kv_bytes_per_token", per_token},
                    {"kv_bytes_32k", plain},
                    {"kv_bytes_32k_kivi_2", packed}});
    table.add_row({std::string(arch.name), fmt::format("{}", config.num_layers),
                   fmt::format("{} x {}", config.num_qo_heads, config.head_dim),
                   fmt::format("{}", config.num_kv_heads), with_separators(config.max_context),
                   with_separators(parameters), with_separators(per_token), gib(plain),
                   gib(packed)});
  }
  if (options.json) return json.dump(2) + "\n";
  return table.text(terminal) +
         "\nB/token: of a 16-bit cache, in all layers. 32k: GiB of a sequence of 32,768 tokens, in "
         "16 "
         "bits and\nas kivi-2; layers with a sliding window hold no more than that.\n";
}

}  // namespace

std::string plan(const PlanOptions& options, const Terminal& terminal) {
  if (options.arch == "list") return architecture_list(options, terminal);
  PlannedModel model = planned_model(options);
  if (options.front) return plan_front(model, options, terminal);
  const Report report(std::move(model), options);
  return options.json ? report.json() : report.text(terminal);
}

int plan_verb(const PlanOptions& options) {
  const std::string text = plan(options, detect_terminal(stdout, options.no_color));
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0) fail(ErrorCode::kIo, "cannot write to standard output");
  return 0;
}

}  // namespace lowkey
