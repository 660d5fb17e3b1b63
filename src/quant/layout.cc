#include "quant/layout.h"

#include <algorithm>

#include "core/checked.h"
#include "core/error.h"

namespace lowkey {
namespace {

int32_t largest_power_of_two_dividing(int32_t n, int32_t at_most) {
  int32_t power = 1;
  while (power < at_most && n % (2 * power) == 0) power *= 2;
  return power;
}

// A 3-bit granule triple A, B, C holds eight fields per byte: six plain ones, and two whose low two
// bits are the top of A or B and whose high bit is the seventh or eighth of C.
struct ThreeBitField {
  uint8_t granule_low, shift_low, width_low, shift_high, width_high;
};
constexpr ThreeBitField kThreeBitFields[8] = {
    {0, 0, 3, 0, 0}, {0, 3, 3, 0, 0}, {1, 0, 3, 0, 0}, {1, 3, 3, 0, 0},
    {2, 0, 3, 0, 0}, {2, 3, 3, 0, 0}, {0, 6, 2, 6, 1}, {1, 6, 2, 7, 1},
};

}  // namespace

SideLayout::SideLayout(Side side, const SideRecipe& recipe, int32_t head_dim)
    : side_(side),
      axis_(recipe.axis),
      bits_(recipe.bits),
      group_size_(recipe.group_size),
      head_dim_(head_dim),
      bytes_(side_page_bytes(recipe, head_dim)) {
  if (!packed()) return;
  LOWKEY_CHECK(head_dim % kLanes == 0 && head_dim <= kMaxHeadDim && group_size_ > 0,
               "head_dim {} group {}", head_dim, group_size_);
  fields_ = bits_ == 3 ? 8 : 8 / bits_;
  granule_bytes_ = bits_ == 3 ? 3 * kGranuleBytes : kGranuleBytes;
  inner_fields_ =
      largest_power_of_two_dividing(side == Side::kKey ? head_dim / 4 : head_dim / kLanes, fields_);
  codes_offset_ = static_cast<int32_t>(side_params_bytes(recipe, head_dim));
  tile_codes_bytes_ = static_cast<int32_t>(side_codes_bytes(recipe, head_dim)) / kTilesPerPage;
  zero_point_stride_ =
      axis_ == QuantAxis::kPerChannel ? head_dim : ceil_div(head_dim, group_size_) * kTileTokens;
  LOWKEY_CHECK(codes_offset_ % kGranuleBytes == 0 && tile_codes_bytes_ % granule_bytes_ == 0,
               "page side of {} bits, head_dim {}, group {}", bits_, head_dim, group_size_);
}

int32_t SideLayout::scale_index(int32_t token, int32_t channel) const {
  if (axis_ == QuantAxis::kPerChannel) {
    return token / group_size_ * 2 * zero_point_stride_ + channel;
  }
  return token / kTileTokens * 2 * zero_point_stride_ + channel / group_size_ * kTileTokens +
         token % kTileTokens;
}

CodePlace SideLayout::code_place(int32_t token, int32_t channel) const {
  const int32_t in_tile = token % kTileTokens;
  int32_t outer, inner, lane, byte;
  if (side_ == Side::kKey) {
    outer = in_tile / kLanes;
    lane = in_tile % kLanes;
    inner = channel / 4;
    byte = channel % 4;
  } else {
    outer = in_tile / 4;
    byte = in_tile % 4;
    inner = channel / kLanes;
    lane = channel % kLanes;
  }
  const Slab place = slab(outer, inner);
  const int32_t base = codes_offset_ + token / kTileTokens * tile_codes_bytes_ +
                       place.granule * granule_bytes_ + lane * 4 + byte;
  CodePlace result;
  if (bits_ == 3) {
    const ThreeBitField& field = kThreeBitFields[place.field];
    result.byte_low = base + field.granule_low * kGranuleBytes;
    result.byte_high = base + 2 * kGranuleBytes;
    result.shift_low = field.shift_low;
    result.width_low = field.width_low;
    result.shift_high = field.shift_high;
    result.width_high = field.width_high;
  } else {
    result.byte_low = result.byte_high = base;
    result.shift_low = static_cast<uint8_t>(place.field * bits_);
    result.width_low = static_cast<uint8_t>(bits_);
  }
  return result;
}

PageLayout::PageLayout(const HeadRecipe& head, int32_t head_dim)
    : k(Side::kKey, head.k, head_dim),
      v(Side::kValue, head.v, head_dim),
      v_offset(k.bytes()),
      bytes(k.bytes() + v.bytes()) {
  LOWKEY_CHECK(bytes == page_bytes(head, head_dim), "page of {} bytes, recipe says {}", bytes,
               page_bytes(head, head_dim));
}

}  // namespace lowkey
