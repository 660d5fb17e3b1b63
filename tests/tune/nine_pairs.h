#pragma once
// Tables of the paper's nine pairs, planted so that a known set survives pruning.
#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "tune/prune.h"

namespace lowkey::tune::test {

inline const std::vector<std::string> kNinePairs = {"KV8", "K8V4", "K4V8", "K8V2", "K2V8",
                                                    "KV4", "K4V2", "K2V4", "KV2"};
inline const std::vector<double> kNinePairBits = {8, 6, 6, 5, 5, 4, 3, 3, 2};

inline int32_t pair_index(const std::string& label) {
  const auto at = std::find(kNinePairs.begin(), kNinePairs.end(), label);
  if (at == kNinePairs.end()) throw std::invalid_argument(label);
  return static_cast<int32_t>(at - kNinePairs.begin());
}

// Sorted, as prune_layer gives them.
inline std::vector<int32_t> pair_indices(const std::vector<std::string>& labels) {
  std::vector<int32_t> indices;
  for (const std::string& label : labels) indices.push_back(pair_index(label));
  std::sort(indices.begin(), indices.end());
  return indices;
}

// Survivors have the given errors; every other pair is worse than the survivor with the most bits
// not above its own.
inline std::vector<CandidateError> planted_table(const std::map<std::string, double>& survivors) {
  std::vector<CandidateError> table;
  for (size_t i = 0; i < kNinePairs.size(); ++i) {
    const double bits = kNinePairBits[i];
    if (const auto own = survivors.find(kNinePairs[i]); own != survivors.end()) {
      table.push_back({bits, own->second});
      continue;
    }
    double best = 1e9;
    for (const auto& [label, e_o] : survivors) {
      if (kNinePairBits[static_cast<size_t>(pair_index(label))] <= bits) best = std::min(best, e_o);
    }
    table.push_back({bits, 1.1 * best + 0.001});
  }
  return table;
}

}  // namespace lowkey::tune::test
