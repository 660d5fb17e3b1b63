#pragma once
// Random recipes for the round-trip properties: valid as JSON, not always resolvable.
#include "core/rng.h"
#include "recipe/recipe.h"

namespace lowkey {

class RandomRecipe {
 public:
  explicit RandomRecipe(uint64_t seed) : rng_(seed) {}

  KvRecipe recipe() {
    KvRecipe recipe;
    const int rules = 1 + below(4);
    int32_t first = 0;
    for (int i = 0; i < rules; ++i) {
      LayerRule rule;
      rule.rest = i + 1 == rules && chance(2);
      if (!rule.rest) {
        rule.first = first + below(3);
        rule.last = rule.first + below(3);
        first = rule.last + 1;
      }
      rule.layer = layer();
      recipe.rules.push_back(rule);
    }
    if (chance(2)) recipe.intact_prefix = below(40);
    if (chance(10)) recipe.protect = below(9);
    if (chance(10)) recipe.score_correction = true;
    if (chance(10)) recipe.prefill = PrefillMode::kExact;
    if (chance(5)) {
      recipe.calibration = CalibrationRef{"prefix é.safetensors", chance(2) ? hash() : ""};
      if (chance(2)) recipe.intact_prefix = 0;
    }
    return recipe;
  }

  Provenance provenance() {
    return {hash(), hash(), "lowkey tune \"m\" \\ --budget 3.25\n", {{"ppl", 21.54}, {"kl", 1e-9}}};
  }

 private:
  int32_t below(uint32_t bound) { return static_cast<int32_t>(rng_.below(bound)); }
  bool chance(uint32_t one_in) { return rng_.below(one_in) == 0; }

  std::string hash() {
    std::string digits(64, '0');
    for (char& c : digits) c = "0123456789abcdef"[rng_.below(16)];
    return digits;
  }

  // Mostly what the short grammar can say, sometimes anything.
  LayerRecipe layer() {
    LayerRecipe layer;
    const bool kivi = chance(2);
    const int32_t group = kivi ? 32 << below(3) : chance(2) ? kGroupIsHeadDim : 16 << below(4);
    layer.k = side(kivi ? QuantAxis::kPerChannel : QuantAxis::kPerToken, group);
    layer.v = side(QuantAxis::kPerToken, group);
    if (layer.k.packed() || layer.v.packed() || chance(10)) {
      layer.residual_length = chance(2) ? (kivi ? 128 : 0) : below(300);
      if (chance(4)) layer.window = WindowRule::kBlock;
    }
    if (chance(20)) layer.key_rope = KeyRope::kBefore;
    if (chance(10)) {
      layer.heads.emplace(below(8), HeadRecipe{side(QuantAxis::kPerChannel, 32),
                                               side(QuantAxis::kPerToken, kGroupIsHeadDim)});
    }
    return layer;
  }

  SideRecipe side(QuantAxis axis, int32_t group) {
    static constexpr int32_t kBits[] = {2, 3, 4, 8, 16, 32};
    SideRecipe side{.bits = kBits[rng_.below(6)]};
    if (side.packed() || chance(20)) {
      side.axis = axis;
      side.group_size = group;
    }
    if (chance(20)) side.axis = QuantAxis::kPerChannel;
    if (chance(30)) side.quantizer = static_cast<Quantizer>(below(4));
    if (chance(30)) side.scales = static_cast<ScaleChoice>(below(5));
    if (chance(30)) side.transform = static_cast<Transform>(below(3));
    return side;
  }

  SplitMix64 rng_;
};

}  // namespace lowkey
