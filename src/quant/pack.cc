#include "quant/pack.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "quant/affine.h"

namespace lowkey {
namespace {

// Writes `value` into bits [shift, shift + width) of a byte.
void put_bits(std::byte* byte, uint32_t value, uint8_t shift, uint8_t width) {
  const uint32_t mask = ((1u << width) - 1u) << shift;
  const auto old = std::to_integer<uint32_t>(*byte);
  *byte = static_cast<std::byte>((old & ~mask) | ((value << shift) & mask));
}

// One token's codes of some channels (multiples of 16). The codes of a slab that belong to one
// token lie `step` bytes apart (K: 4 neighbouring bytes of one lane; V: one byte of each lane), so
// the place is computed once per slab.
void write_codes(const SideLayout& layout, std::byte* side, int32_t token, int32_t first_channel,
                 int32_t num_channels, const uint8_t* codes) {
  const bool key = layout.side() == Side::kKey;
  const int32_t run = key ? 4 : kLanes;
  const int32_t step = key ? 1 : 4;
  for (int32_t c = 0; c < num_channels; c += run) {
    const CodePlace place = layout.code_place(token, first_channel + c);
    for (int32_t i = 0; i < run; ++i) {
      const uint32_t code = codes[c + i];
      put_bits(side + place.byte_low + i * step, code, place.shift_low, place.width_low);
      if (place.width_high) {
        put_bits(side + place.byte_high + i * step, code >> place.width_low, place.shift_high,
                 place.width_high);
      }
    }
  }
}

// affine_code without its branch: a group of no range divides by 1 instead, and its differences are
// 0 or below.
inline uint8_t code_of(float above_minimum, float scale, float levels) {
  float position = above_minimum / (scale == 0.0f ? 1.0f : scale);
  position = scale == 0.0f ? 0.0f : position;
  position = position < 0.0f ? 0.0f : position;
  position = position > levels ? levels : position;
  return static_cast<uint8_t>(static_cast<int32_t>(round_half_even(position)));
}

AffineParams read_params(const SideLayout& layout, const std::byte* side, int32_t token,
                         int32_t channel) {
  const auto* halves = reinterpret_cast<const Half*>(side) + layout.scale_index(token, channel);
  return {halves[0], halves[layout.zero_point_stride()]};
}

}  // namespace

// Same arithmetic as affine_params and affine_code, step by step, but all channels at once: the
// compiler makes vectors of these loops. tests/quant compares every code with the scalar functions.
void pack_group(const SideLayout& layout, std::byte* side, int32_t first, const float* x) {
  const int32_t group = layout.group_size();
  const int32_t head_dim = layout.head_dim();
  LOWKEY_CHECK(
      layout.axis() == QuantAxis::kPerChannel && first % group == 0 && first + group <= kPageTokens,
      "group of {} tokens at {}", group, first);
  constexpr int32_t kBlock = 64;  // channels at a time, so that the parameters stay on the stack
  const float levels = static_cast<float>((1 << layout.bits()) - 1);
  uint8_t codes[kPageTokens * kBlock];
  for (int32_t c0 = 0; c0 < head_dim; c0 += kBlock) {
    const int32_t width = std::min(kBlock, head_dim - c0);
    float low[kBlock], high[kBlock], scale[kBlock];
    std::copy_n(x + c0, width, low);
    std::copy_n(x + c0, width, high);
    for (int32_t t = 1; t < group; ++t) {
      for (int32_t c = 0; c < width; ++c) {
        const float value = x[t * head_dim + c0 + c];
        low[c] = value < low[c] ? value : low[c];
        high[c] = value > high[c] ? value : high[c];
      }
    }
    auto* scales = reinterpret_cast<Half*>(side) + layout.scale_index(first, c0);
    Half* zero_points = scales + layout.zero_point_stride();
    for (int32_t c = 0; c < width; ++c) {
      scales[c] = float_to_half((high[c] - low[c]) / levels);
      zero_points[c] = float_to_half(low[c]);
      scale[c] = half_to_float(scales[c]);
    }
    for (int32_t t = 0; t < group; ++t) {
      for (int32_t c = 0; c < width; ++c) {
        codes[t * kBlock + c] = code_of(x[t * head_dim + c0 + c] - low[c], scale[c], levels);
      }
    }
    for (int32_t t = 0; t < group; ++t) {
      write_codes(layout, side, first + t, c0, width, codes + t * kBlock);
    }
  }
}

void pack_token(const SideLayout& layout, std::byte* side, int32_t token, const float* x) {
  const int32_t group = layout.group_size();
  const int32_t head_dim = layout.head_dim();
  LOWKEY_CHECK(layout.axis() == QuantAxis::kPerToken && token >= 0 && token < kPageTokens,
               "token {}", token);
  const float levels = static_cast<float>((1 << layout.bits()) - 1);
  uint8_t codes[kMaxHeadDim];
  for (int32_t first = 0; first < head_dim; first += group) {
    const AffineParams params = affine_params(x + first, group, 1, layout.bits());
    auto* scale_place = reinterpret_cast<Half*>(side) + layout.scale_index(token, first);
    scale_place[0] = params.scale;
    scale_place[layout.zero_point_stride()] = params.zero_point;
    const float scale = half_to_float(params.scale);
    const float zero_point = half_to_float(params.zero_point);
    for (int32_t c = first; c < first + group; ++c) {
      codes[c] = code_of(x[c] - zero_point, scale, levels);
    }
  }
  write_codes(layout, side, token, 0, head_dim, codes);
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
