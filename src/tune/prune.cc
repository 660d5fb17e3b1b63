#include "tune/prune.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "tune/pareto.h"

namespace lowkey::tune {

std::vector<int32_t> prune_layer(std::span<const CandidateError> table) {
  if (table.empty()) fail(ErrorCode::kInvalidArgument, "there are no candidates to prune");
  std::vector<CostLoss> points;
  for (size_t i = 0; i < table.size(); ++i) {
    if (!std::isfinite(table[i].bits) || !std::isfinite(table[i].e_o)) {
      fail(ErrorCode::kNumeric, "candidate {}: {} bits with output error {}: not finite numbers", i,
           table[i].bits, table[i].e_o);
    }
    points.push_back({table[i].bits, table[i].e_o});
  }
  std::vector<int32_t> kept;
  for (size_t i : pareto_front(points)) kept.push_back(static_cast<int32_t>(i));
  std::sort(kept.begin(), kept.end());
  return kept;
}

std::vector<std::vector<int32_t>> prune_layers(
    std::span<const std::vector<CandidateError>> tables) {
  std::vector<std::vector<int32_t>> kept;
  for (size_t layer = 0; layer < tables.size(); ++layer) {
    try {
      kept.push_back(prune_layer(tables[layer]));
    } catch (const Error& error) {
      fail(error.code(), "layer {}: {}", layer, error.what());
    }
  }
  return kept;
}

}  // namespace lowkey::tune
