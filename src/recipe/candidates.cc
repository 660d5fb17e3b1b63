#include "recipe/candidates.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "recipe/short_form.h"

namespace lowkey {
namespace {

LayerRecipe layer_of(CandidateMode mode, int32_t k_bits, int32_t v_bits, int32_t group_size,
                     int32_t value_group_size, int32_t residual_length) {
  LayerRecipe layer;
  layer.k.bits = k_bits;
  layer.v.bits = v_bits;
  if (mode == CandidateMode::kKivi && layer.k.packed()) layer.k.axis = QuantAxis::kPerChannel;
  if (layer.k.packed()) layer.k.group_size = group_size;
  if (layer.v.packed()) layer.v.group_size = value_group_size;
  if (layer.k.packed() || layer.v.packed()) layer.residual_length = residual_length;
  return layer;
}

std::string layer_text(const LayerRecipe& layer) {
  KvRecipe recipe;
  recipe.rules = {LayerRule{.rest = true, .layer = layer}};
  return short_form(recipe).value_or("");
}

// Two choices with the same bits differ in what their short forms say.
void name_candidates(std::vector<LayerCandidate>& candidates) {
  for (LayerCandidate& candidate : candidates) {
    candidate.label = pair_label(candidate.layer.k.bits, candidate.layer.v.bits);
  }
  std::vector<std::string> names;
  for (const LayerCandidate& candidate : candidates) names.push_back(candidate.label);
  for (LayerCandidate& candidate : candidates) {
    if (std::count(names.begin(), names.end(), candidate.label) > 1) {
      candidate.label += " " + layer_text(candidate.layer);
    }
  }
}

void add_unique(std::vector<LayerCandidate>& candidates, const LayerRecipe& layer) {
  for (const LayerCandidate& candidate : candidates) {
    if (candidate.layer == layer) return;
  }
  candidates.push_back({"", layer});
}

template <typename T>
std::vector<T> or_default(const std::vector<T>& values, T usual) {
  return values.empty() ? std::vector<T>{usual} : values;
}

}  // namespace

double code_bits(const LayerRecipe& layer) {
  return (layer.k.bits + layer.v.bits) / 2.0;
}

std::string pair_label(int32_t k_bits, int32_t v_bits) {
  return k_bits == v_bits ? fmt::format("KV{}", k_bits) : fmt::format("K{}V{}", k_bits, v_bits);
}

std::vector<LayerCandidate> make_candidates(const CandidateSpace& space) {
  if (space.modes.empty() || space.bits.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "no candidates: name at least one mode and one width in bits");
  }
  for (int32_t bits : space.bits) {
    if (!is_recipe_bits(bits)) {
      fail(ErrorCode::kInvalidArgument, "bits {}: there are 2, 3, 4, 8 and 16", bits);
    }
  }
  std::vector<LayerCandidate> candidates;
  for (CandidateMode mode : space.modes) {
    const bool kivi = mode == CandidateMode::kKivi;
    const auto groups = or_default<int32_t>(space.group_sizes, kivi ? 32 : kGroupIsHeadDim);
    const auto residuals = or_default<int32_t>(space.residual_lengths, kivi ? 32 : 0);
    for (int32_t group : groups) {
      for (int32_t value_group : or_default(space.value_group_sizes, group)) {
        for (int32_t residual : residuals) {
          for (int32_t k_bits : space.bits) {
            for (int32_t v_bits : space.bits) {
              add_unique(candidates, layer_of(mode, k_bits, v_bits, group, value_group, residual));
            }
          }
        }
      }
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) {
    return code_bits(a.layer) > code_bits(b.layer);
  });
  name_candidates(candidates);
  return candidates;
}

std::vector<LayerCandidate> parse_candidates(std::string_view text) {
  std::vector<LayerCandidate> candidates;
  while (!text.empty()) {
    const size_t comma = text.find(',');
    const std::string_view one = text.substr(0, comma);
    const KvRecipe recipe = parse_short_form(one);
    if (recipe.rules.size() != 1 || !recipe.rules[0].rest || recipe.intact_prefix != 0) {
      fail(ErrorCode::kInvalidArgument,
           "candidate '{}': one layer's storage is meant, such as kivi-4/2:r32; no layer ranges, "
           "no intact prefix",
           one);
    }
    add_unique(candidates, recipe.rules[0].layer);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
  }
  if (candidates.empty()) fail(ErrorCode::kInvalidArgument, "the list of candidates is empty");
  name_candidates(candidates);
  return candidates;
}

KvRecipe recipe_of_layers(std::span<const LayerRecipe> layers, int32_t intact_prefix) {
  LOWKEY_CHECK(!layers.empty());
  KvRecipe recipe;
  recipe.intact_prefix = intact_prefix;
  const LayerRecipe* commonest = &layers[0];
  int64_t most = 0;
  for (const LayerRecipe& layer : layers) {
    const int64_t times = std::count(layers.begin(), layers.end(), layer);
    if (times > most) {
      most = times;
      commonest = &layer;
    }
  }
  for (size_t first = 0; first < layers.size();) {
    size_t last = first;
    while (last + 1 < layers.size() && layers[last + 1] == layers[first]) ++last;
    if (!(layers[first] == *commonest)) {
      recipe.rules.push_back({.first = static_cast<int32_t>(first),
                              .last = static_cast<int32_t>(last),
                              .layer = layers[first]});
    }
    first = last + 1;
  }
  recipe.rules.push_back({.rest = true, .layer = *commonest});
  return recipe;
}

}  // namespace lowkey
