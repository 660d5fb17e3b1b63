#include "probe/plan.h"

#include <algorithm>

namespace lowkey {
namespace {

// `layer` with one side kept and the other in 16 bits.
LayerRecipe one_side(const LayerRecipe& layer, Side side) {
  LayerRecipe one = layer;
  const auto drop = [side](SideRecipe& k, SideRecipe& v) {
    (side == Side::kKey ? v : k) = SideRecipe{};
  };
  drop(one.k, one.v);
  for (auto& [index, head] : one.heads) drop(head.k, head.v);
  return one;
}

bool any_packed(const LayerRecipe& layer) {
  bool packed = layer.k.packed() || layer.v.packed();
  for (const auto& [index, head] : layer.heads) packed |= head.k.packed() || head.v.packed();
  return packed;
}

// The index of that side among `forms`, where it is added if it is new.
int32_t form_index(const LayerRecipe& layer, Side side, std::vector<LayerRecipe>& forms) {
  const LayerRecipe form = one_side(layer, side);
  if (!any_packed(form)) return kExact;
  const auto found = std::find(forms.begin(), forms.end(), form);
  const auto index = static_cast<int32_t>(found - forms.begin());
  if (found == forms.end()) forms.push_back(form);
  return index;
}

}  // namespace

CandidateForms take_apart(std::span<const LayerCandidate> candidates) {
  CandidateForms forms;
  for (const LayerCandidate& candidate : candidates) {
    forms.pairs.push_back({form_index(candidate.layer, Side::kKey, forms.keys),
                           form_index(candidate.layer, Side::kValue, forms.values), nullptr});
  }
  const auto bits_of = [&](int32_t key) { return forms.keys[static_cast<size_t>(key)].k.bits; };
  for (int32_t key = 0; key < static_cast<int32_t>(forms.keys.size()); ++key) {
    const bool known = std::any_of(forms.noise_keys.begin(), forms.noise_keys.end(),
                                   [&](int32_t other) { return bits_of(other) == bits_of(key); });
    if (!known && bits_of(key) < 16) forms.noise_keys.push_back(key);
  }
  std::stable_sort(forms.noise_keys.begin(), forms.noise_keys.end(),
                   [&](int32_t a, int32_t b) { return bits_of(a) > bits_of(b); });
  if (!forms.noise_keys.empty()) forms.fewest_bits = forms.noise_keys.back();
  return forms;
}

std::vector<AxisForm> axis_forms() {
  std::vector<AxisForm> forms;
  for (Side side : {Side::kKey, Side::kValue}) {
    for (QuantAxis axis : {QuantAxis::kPerToken, QuantAxis::kPerChannel}) {
      for (int32_t bits : kAxisBits) forms.push_back({side, axis, bits});
    }
  }
  return forms;
}

std::vector<size_t> depth_candidates(std::span<const LayerCandidate> candidates) {
  std::vector<size_t> chosen;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const LayerRecipe& layer = candidates[i].layer;
    if (layer.k.bits != layer.v.bits || !layer.k.packed() || !layer.heads.empty()) continue;
    const bool known = std::any_of(chosen.begin(), chosen.end(), [&](size_t other) {
      return candidates[other].layer.k.bits == layer.k.bits;
    });
    if (!known) chosen.push_back(i);
  }
  return chosen;
}

std::vector<AblationForm> ablation_forms(std::span<const LayerCandidate> candidates,
                                         int32_t head_dim) {
  const bool per_channel =
      std::any_of(candidates.begin(), candidates.end(), [](const LayerCandidate& candidate) {
        return candidate.layer.k.packed() && candidate.layer.k.axis == QuantAxis::kPerChannel;
      });
  std::vector<AblationForm> forms;
  for (int32_t bits : {4, 2}) {
    int32_t last_group = 0;
    for (int32_t group : {32, 64, 128}) {
      const bool fits_head = group < head_dim && head_dim % group == 0;
      AblationForm form;
      form.layer.k = {.bits = bits, .group_size = fits_head ? group : kGroupIsHeadDim};
      form.layer.v = form.layer.k;
      if (per_channel) {
        form.layer.k.axis = QuantAxis::kPerChannel;
        form.layer.k.group_size = group;
      }
      form.point.bits = bits;
      form.point.group_size = per_channel || fits_head ? group : head_dim;
      if (form.point.group_size == last_group) continue;  // the head is no longer than that
      last_group = form.point.group_size;
      for (int32_t residual : {0, 32, 64, 128}) {
        if (per_channel && (residual == 0 || residual % group != 0)) continue;
        form.layer.residual_length = form.point.residual_length = residual;
        forms.push_back(form);
      }
    }
  }
  return forms;
}

}  // namespace lowkey
