#pragma once
// Intra-layer pruning (arXiv 2502.04420, section 4): of the ways to store one layer, those that
// some other way beats in both memory and error need no search. Torch-free, pure.
#include <cstdint>
#include <span>
#include <vector>

namespace lowkey::tune {

// One candidate on one layer. `bits` per number may count codes alone (as the paper does) or all
// that is stored; one table must not mix them.
struct CandidateError {
  double bits = 0;
  double e_o = 0;  // relative error of the layer's attention output, mean
};

// Indices of the candidates on the Pareto front of (bits, e_o), in the table's order. Of equal ones
// the first stays. Throws Error kNumeric on NaN and infinity, kInvalidArgument on an empty table.
std::vector<int32_t> prune_layer(std::span<const CandidateError> table);

// The same for every layer; tables[layer][candidate]. An error names the layer.
std::vector<std::vector<int32_t>> prune_layers(std::span<const std::vector<CandidateError>> tables);

}  // namespace lowkey::tune
