#include "quant/pack.h"

#include <cstring>

#include "core/error.h"
#include "quant/affine.h"

namespace lowkey {
namespace {

void write_code(const SideLayout& layout, std::byte* side, int32_t token, int32_t channel,
                uint8_t code) {
  const CodePlace place = layout.code_place(token, channel);
  auto put = [&](int32_t byte, uint32_t value, uint8_t shift, uint8_t width) {
    const uint32_t mask = ((1u << width) - 1u) << shift;
    const auto old = std::to_integer<uint32_t>(side[byte]);
    side[byte] = static_cast<std::byte>((old & ~mask) | ((value << shift) & mask));
  };
  put(place.byte_low, code, place.shift_low, place.width_low);
  if (place.width_high) {
    put(place.byte_high, static_cast<uint32_t>(code) >> place.width_low, place.shift_high,
        place.width_high);
  }
}

void write_params(const SideLayout& layout, std::byte* side, int32_t token, int32_t channel,
                  AffineParams params) {
  auto* halves = reinterpret_cast<Half*>(side) + layout.scale_index(token, channel);
  halves[0] = params.scale;
  halves[layout.zero_point_stride()] = params.zero_point;
}

AffineParams read_params(const SideLayout& layout, const std::byte* side, int32_t token,
                         int32_t channel) {
  const auto* halves = reinterpret_cast<const Half*>(side) + layout.scale_index(token, channel);
  return {halves[0], halves[layout.zero_point_stride()]};
}

}  // namespace

void pack_group(const SideLayout& layout, std::byte* side, int32_t first, const float* x) {
  const int32_t group = layout.group_size();
  const int32_t head_dim = layout.head_dim();
  LOWKEY_CHECK(
      layout.axis() == QuantAxis::kPerChannel && first % group == 0 && first + group <= kPageTokens,
      "group of {} tokens at {}", group, first);
  for (int32_t channel = 0; channel < head_dim; ++channel) {
    const AffineParams params = affine_params(x + channel, group, head_dim, layout.bits());
    write_params(layout, side, first, channel, params);
    for (int32_t i = 0; i < group; ++i) {
      write_code(layout, side, first + i, channel,
                 affine_code(x[i * head_dim + channel], params, layout.bits()));
    }
  }
}

void pack_token(const SideLayout& layout, std::byte* side, int32_t token, const float* x) {
  const int32_t group = layout.group_size();
  LOWKEY_CHECK(layout.axis() == QuantAxis::kPerToken && token >= 0 && token < kPageTokens,
               "token {}", token);
  for (int32_t first = 0; first < layout.head_dim(); first += group) {
    const AffineParams params = affine_params(x + first, group, 1, layout.bits());
    write_params(layout, side, token, first, params);
    for (int32_t channel = first; channel < first + group; ++channel) {
      write_code(layout, side, token, channel, affine_code(x[channel], params, layout.bits()));
    }
  }
}

uint8_t read_code(const SideLayout& layout, const std::byte* side, int32_t token, int32_t channel) {
  const CodePlace place = layout.code_place(token, channel);
  auto get = [&](int32_t byte, uint8_t shift, uint8_t width) {
    return (std::to_integer<uint32_t>(side[byte]) >> shift) & ((1u << width) - 1u);
  };
  uint32_t code = get(place.byte_low, place.shift_low, place.width_low);
  if (place.width_high) {
    code |= get(place.byte_high, place.shift_high, place.width_high) << place.width_low;
  }
  return static_cast<uint8_t>(code);
}

float read_element(const SideLayout& layout, const std::byte* side, int32_t token,
                   int32_t channel) {
  if (layout.packed()) {
    return affine_decode(read_code(layout, side, token, channel),
                         read_params(layout, side, token, channel));
  }
  const std::byte* row = side + token * layout.row_bytes();
  if (layout.bits() == 32) return reinterpret_cast<const float*>(row)[channel];
  return half_to_float(reinterpret_cast<const Half*>(row)[channel]);
}

}  // namespace lowkey
