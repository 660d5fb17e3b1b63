#pragma once
// What is compared in every layer: candidates taken apart into the distinct forms of their keys and
// values, axes, ablation. Torch-free, pure.
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "probe/layer_errors.h"
#include "probe/probe.h"

namespace lowkey {

inline constexpr std::array<int32_t, 3> kAxisBits = {8, 4, 2};

struct AxisForm {
  Side side = Side::kKey;
  QuantAxis axis = QuantAxis::kPerToken;
  int32_t bits = 0;
};

struct CandidateForms {
  std::vector<LayerRecipe> keys, values;  // the other side is 16-bit
  std::vector<ComparedPair> pairs;        // per candidate
  std::vector<int32_t> noise_keys;        // of `keys`: the first of each width, most bits first
  int32_t fewest_bits = kExact;           // of `keys`
};
CandidateForms take_apart(std::span<const LayerCandidate> candidates);

// Keys, then values; per token, then per channel; most bits first.
std::vector<AxisForm> axis_forms();

// Candidates that the whole model is run with: the first of each width that has as many bits for
// keys as for values. Indexes.
std::vector<size_t> depth_candidates(std::span<const LayerCandidate> candidates);

struct AblationForm {
  LayerRecipe layer;
  AblationPoint point;  // what is known beforehand: all but e_o and stored_bits
};
// Forms of equal bits and group stand together. KIVI's axes if a candidate has keys per channel,
// where R is a multiple of the group, else per token with R from 0.
std::vector<AblationForm> ablation_forms(std::span<const LayerCandidate> candidates,
                                         int32_t head_dim);

}  // namespace lowkey
