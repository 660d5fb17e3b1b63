#pragma once
// What a layer may be stored as, when something offline chooses: a named layer recipe per choice.
// Torch-free, pure.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "recipe/recipe.h"

namespace lowkey {

// One choice for a layer. `label` is the papers' name for its bits ("KV4", "K4V2"), with the
// layer's short form behind it where bits alone do not tell two choices of one list apart.
struct LayerCandidate {
  std::string label;
  LayerRecipe layer;
  friend bool operator==(const LayerCandidate&, const LayerCandidate&) = default;
};

// Mean code bits of keys and values.
double code_bits(const LayerRecipe& layer);

// "KV4", "K4V2".
std::string pair_label(int32_t k_bits, int32_t v_bits);

// KVTuner's two modes (arXiv 2502.04420): per-token-asym (one group per token and head) and KIVI
// (keys per channel, values per token, groups of 32).
enum class CandidateMode : uint8_t { kKivi, kPerToken };

struct CandidateSpace {
  std::vector<CandidateMode> modes = {CandidateMode::kKivi};
  std::vector<int32_t> bits = {8, 4, 2};        // of keys and of values: every pair
  std::vector<int32_t> group_sizes = {};        // none: the mode's own
  std::vector<int32_t> value_group_sizes = {};  // none: as keys
  std::vector<int32_t> residual_lengths = {};   // none: the mode's own (KIVI 32, per token 0)
};

// The product of all that, most bits first, without repeats (16/16 has no group and no window).
// Throws Error kInvalidArgument for bits that no recipe has and for an empty list.
std::vector<LayerCandidate> make_candidates(const CandidateSpace& space);

// Short forms of layers ("kivi-4/2:r32", "8/4"), comma-separated. Throws as parse_recipe, and Error
// kInvalidArgument for layer ranges and intact prefixes, which are not a layer's.
std::vector<LayerCandidate> parse_candidates(std::string_view text);

// A recipe of one candidate per layer; neighbouring layers that are alike share a rule, and the
// commonest candidate is the rest ("*").
KvRecipe recipe_of_layers(std::span<const LayerRecipe> layers, int32_t intact_prefix);

}  // namespace lowkey
