#include "kv_cost.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "recipe/bytes.h"
#include "table.h"
#include "units.h"

namespace lowkey {

KvCost kv_cost(const KvRecipe& recipe, const KvShape& shape, int64_t ctx, int64_t prefix_tokens) {
  const ResolvedRecipe resolved = resolve_recipe(recipe, shape, prefix_tokens);
  const int64_t plain = bytes_at(resolve_recipe(parse_recipe("16"), shape), ctx).total();
  KvCost cost;
  cost.recipe = resolved.label;
  cost.code_bits = code_bits(resolved);
  cost.stored_bits = stored_bits(resolved, ctx);
  cost.total_bytes = bytes_at(resolved, ctx).total();
  cost.bytes_per_token = static_cast<double>(cost.total_bytes) / static_cast<double>(ctx);
  cost.compression = static_cast<double>(plain) / static_cast<double>(cost.total_bytes);
  return cost;
}

std::string kv_cost_text(const std::vector<KvCost>& costs, int64_t ctx, const Terminal& terminal) {
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"recipe"},
               {"code bits", kRight},
               {"stored bits", kRight},
               {"bytes/token", kRight},
               {fmt::format("at {}", with_separators(ctx)), kRight},
               {"compression", kRight}});
  for (const KvCost& cost : costs) {
    table.add_row({cost.recipe, fmt::format("{:.2f}", cost.code_bits),
                   fmt::format("{:.2f}", cost.stored_bits),
                   with_separators(std::llround(cost.bytes_per_token)),
                   human_bytes(static_cast<uint64_t>(cost.total_bytes)),
                   fmt::format("{:.2f}x", cost.compression)});
  }
  return table.text(terminal);
}

nlohmann::ordered_json kv_cost_json(const std::vector<KvCost>& costs) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const KvCost& cost : costs) {
    json.push_back({{"recipe", cost.recipe},
                    {"code_bits", cost.code_bits},
                    {"stored_bits", cost.stored_bits},
                    {"bytes_per_token", cost.bytes_per_token},
                    {"total_bytes", cost.total_bytes},
                    {"compression", cost.compression}});
  }
  return json;
}

}  // namespace lowkey
