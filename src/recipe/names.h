#pragma once
// The enums of a recipe as they are written in JSON and in messages. Torch-free, pure.
#include <span>
#include <string_view>

#include "core/error.h"
#include "recipe/recipe.h"

namespace lowkey {

template <typename E>
struct EnumName {
  E value;
  std::string_view name;
};

template <typename E>
inline constexpr std::span<const EnumName<E>> kEnumNames;

#define LOWKEY_ENUM_NAMES(E, ...)                      \
  inline constexpr EnumName<E> k##E##s[]{__VA_ARGS__}; \
  template <>                                          \
  inline constexpr std::span<const EnumName<E>> kEnumNames<E>{k##E##s};

LOWKEY_ENUM_NAMES(QuantAxis, {QuantAxis::kPerToken, "per_token"},
                  {QuantAxis::kPerChannel, "per_channel"})
LOWKEY_ENUM_NAMES(Quantizer, {Quantizer::kAffine, "affine"}, {Quantizer::kLog, "log"},
                  {Quantizer::kPower, "power"}, {Quantizer::kCodebook, "codebook"})
LOWKEY_ENUM_NAMES(ScaleChoice, {ScaleChoice::kMinMax, "minmax"}, {ScaleChoice::kMse, "mse"},
                  {ScaleChoice::kQuantile, "quantile"}, {ScaleChoice::kStatic, "static"},
                  {ScaleChoice::kLearned, "learned"})
LOWKEY_ENUM_NAMES(Transform, {Transform::kNone, "none"}, {Transform::kHadamard, "hadamard"},
                  {Transform::kChannelScale, "channel_scale"})
LOWKEY_ENUM_NAMES(WindowRule, {WindowRule::kKivi, "kivi"}, {WindowRule::kBlock, "block"})
LOWKEY_ENUM_NAMES(KeyRope, {KeyRope::kAfter, "after"}, {KeyRope::kBefore, "before"})
LOWKEY_ENUM_NAMES(PrefillMode, {PrefillMode::kCached, "cached"}, {PrefillMode::kExact, "exact"})

#undef LOWKEY_ENUM_NAMES

template <typename E>
std::string_view enum_name(E value) {
  for (const EnumName<E>& entry : kEnumNames<E>) {
    if (entry.value == value) return entry.name;
  }
  LOWKEY_CHECK(false, "enum value {}", static_cast<int>(value));
}

}  // namespace lowkey
