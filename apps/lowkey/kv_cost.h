#pragma once
// What recipes cost on a model: the table that inspect prints and, with more columns, others may.
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "recipe/recipe.h"
#include "terminal.h"

namespace lowkey {

struct KvCost {
  std::string recipe;  // as asked for
  double code_bits = 0;
  double stored_bits = 0;   // at ctx tokens
  int64_t total_bytes = 0;  // at ctx tokens, as allocated
  double bytes_per_token = 0;
  double compression = 0;  // 16-bit bytes / these, at ctx
};

// prefix_tokens: of the prefix's file that the recipe names. Throws Error as resolve_recipe.
KvCost kv_cost(const KvRecipe& recipe, const KvShape& shape, int64_t ctx,
               int64_t prefix_tokens = 0);

std::string kv_cost_text(const std::vector<KvCost>& costs, int64_t ctx, const Terminal& terminal);
nlohmann::ordered_json kv_cost_json(const std::vector<KvCost>& costs);

}  // namespace lowkey
