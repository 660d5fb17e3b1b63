#include "recipe_text.h"

#include <fmt/format.h>

#include "recipe/names.h"

namespace lowkey {

std::string side_text(const SideRecipe& side) {
  if (!side.packed()) return side.bits == 16 ? "f16" : fmt::format("f{}", side.bits);
  const bool channel = side.axis == QuantAxis::kPerChannel;
  std::string text = fmt::format("{} bits per {}, g", side.bits, channel ? "channel" : "token");
  text += side.group_size == kGroupIsHeadDim ? "head" : fmt::format("{}", side.group_size);
  if (side.quantizer != Quantizer::kAffine) text += fmt::format(", {}", enum_name(side.quantizer));
  if (side.scales != ScaleChoice::kMinMax) text += fmt::format(", {}", enum_name(side.scales));
  if (side.transform != Transform::kNone) text += fmt::format(", {}", enum_name(side.transform));
  return text;
}

std::string window_text(const HeadRecipe& head, int32_t residual_length, WindowRule window) {
  if (!head.k.packed() && !head.v.packed()) return "-";
  if (residual_length == 0) return "none";
  return fmt::format("{}{}", residual_length, window == WindowRule::kBlock ? " block" : "");
}

}  // namespace lowkey
