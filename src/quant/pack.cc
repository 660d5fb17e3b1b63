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

typedef uint8_t U8x16 __attribute__((vector_size(16)));
typedef uint16_t U16x8 __attribute__((vector_size(16)));
typedef uint32_t U32x4 __attribute__((vector_size(16)));

// A slab's 64 codes, one a byte: [lane][byte].
struct SlabCodes {
  U32x4 part[4];
};

// Four rows of 16 bytes -> 16 columns of four.
SlabCodes transpose_rows(const uint8_t* rows, int32_t stride) {
  U8x16 r[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&r[i], rows + i * stride, sizeof(U8x16));
  const auto low = [](U8x16 a, U8x16 b) {
    return reinterpret_cast<U16x8>(
        __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
  };
  const auto high = [](U8x16 a, U8x16 b) {
    return reinterpret_cast<U16x8>(__builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12,
                                                           28, 13, 29, 14, 30, 15, 31));
  };
  SlabCodes slab;
  for (int half = 0; half < 2; ++half) {  // columns 0-7, then 8-15
    const U16x8 rows01 = half ? high(r[0], r[1]) : low(r[0], r[1]);
    const U16x8 rows23 = half ? high(r[2], r[3]) : low(r[2], r[3]);
    slab.part[2 * half] =
        reinterpret_cast<U32x4>(__builtin_shufflevector(rows01, rows23, 0, 8, 1, 9, 2, 10, 3, 11));
    slab.part[2 * half + 1] = reinterpret_cast<U32x4>(
        __builtin_shufflevector(rows01, rows23, 4, 12, 5, 13, 6, 14, 7, 15));
  }
  return slab;
}

SlabCodes load_slab(const SideLayout& layout, int32_t outer, int32_t inner, const uint8_t* codes,
                    int32_t stride) {
  if (layout.side() == Side::kValue) {
    return transpose_rows(codes + outer * 4 * stride + inner * kLanes, stride);
  }
  SlabCodes slab;
  for (int32_t lane = 0; lane < kLanes; ++lane) {
    uint32_t quad;
    std::memcpy(&quad, codes + (outer * kLanes + lane) * stride + inner * 4, sizeof(quad));
    slab.part[lane / 4][lane % 4] = quad;
  }
  return slab;
}

// All codes of one tile, [kTileTokens, stride]: what write_codes() does token by token, with every
// granule put together in registers and written once. A code never leaves its byte, so whole dwords
// are shifted.
void write_tile(const SideLayout& layout, std::byte* side, int32_t tile, const uint8_t* codes,
                int32_t stride) {
  const int32_t inner_fields = layout.inner_fields();
  const int32_t outer_fields = layout.fields() / inner_fields;
  const bool key = layout.side() == Side::kKey;
  const int32_t outer_count = key ? 2 : kTileTokens / 4;
  const int32_t inner_count = layout.head_dim() / (key ? 4 : kLanes);
  std::byte* to = side + layout.codes_offset() + tile * layout.tile_codes_bytes();
  for (int32_t inner0 = 0; inner0 < inner_count; inner0 += inner_fields) {
    for (int32_t outer0 = 0; outer0 < outer_count; outer0 += outer_fields) {
      SlabCodes granules[3] = {};  // only a 3-bit granule has all three
      for (int32_t field = 0; field < layout.fields(); ++field) {
        const SlabCodes slab = load_slab(layout, outer0 + field / inner_fields,
                                         inner0 + field % inner_fields, codes, stride);
        for (int i = 0; i < 4; ++i) {
          const U32x4 x = slab.part[i];
          if (layout.bits() != 3) {
            granules[0].part[i] |= x << (field * layout.bits());
          } else if (field < 6) {
            granules[field / 2].part[i] |= x << (field % 2 * 3);
          } else {
            granules[field - 6].part[i] |= (x & 0x03030303u) << 6;
            granules[2].part[i] |= ((x >> 2) & 0x01010101u) << field;
          }
        }
      }
      std::memcpy(to, granules, static_cast<size_t>(layout.granule_bytes()));
      to += layout.granule_bytes();
    }
  }
}

// Codes of tokens [first, first + count) of the page: whole tiles at once, others one by one.
void write_tokens(const SideLayout& layout, std::byte* side, int32_t first, int32_t count,
                  const uint8_t* codes) {
  const int32_t head_dim = layout.head_dim();
  for (int32_t t = 0; t < count;) {
    if ((first + t) % kTileTokens == 0 && t + kTileTokens <= count) {
      write_tile(layout, side, (first + t) / kTileTokens, codes + t * head_dim, head_dim);
      t += kTileTokens;
    } else {
      write_codes(layout, side, first + t, 0, head_dim, codes + t * head_dim);
      ++t;
    }
  }
}

// affine_params of contiguous values: extremes of eight interleaved series, then of those.
AffineParams contiguous_params(const float* x, int32_t count, int32_t bits) {
  constexpr int32_t kSeries = 8;
  if (count % kSeries != 0) return affine_params(x, count, 1, bits);
  float low[kSeries], high[kSeries];
  std::copy_n(x, kSeries, low);
  std::copy_n(x, kSeries, high);
  for (int32_t i = kSeries; i < count; i += kSeries) {
    for (int32_t j = 0; j < kSeries; ++j) {
      low[j] = x[i + j] < low[j] ? x[i + j] : low[j];
      high[j] = x[i + j] > high[j] ? x[i + j] : high[j];
    }
  }
  float extremes[2 * kSeries];
  std::copy_n(low, kSeries, extremes);
  std::copy_n(high, kSeries, extremes + kSeries);
  return affine_params(extremes, 2 * kSeries, 1, bits);
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
  uint8_t codes[kPageTokens * kMaxHeadDim];
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
      low[c] += 0.0f;  // as affine_params
      high[c] += 0.0f;
      scales[c] = float_to_half((high[c] - low[c]) / levels);
      zero_points[c] = float_to_half(low[c]);
      scale[c] = half_to_float(scales[c]);
    }
    for (int32_t t = 0; t < group; ++t) {
      for (int32_t c = 0; c < width; ++c) {
        codes[t * head_dim + c0 + c] = code_of(x[t * head_dim + c0 + c] - low[c], scale[c], levels);
      }
    }
  }
  write_tokens(layout, side, first, group, codes);
}

void pack_tokens(const SideLayout& layout, std::byte* side, int32_t first, int32_t count,
                 const float* x) {
  const int32_t group = layout.group_size();
  const int32_t head_dim = layout.head_dim();
  LOWKEY_CHECK(layout.axis() == QuantAxis::kPerToken && first >= 0 && count > 0 &&
                   first / kTileTokens == (first + count - 1) / kTileTokens &&
                   first + count <= kPageTokens,
               "tokens [{}, {} + {})", first, first, count);
  const float levels = static_cast<float>((1 << layout.bits()) - 1);
  uint8_t codes[kTileTokens * kMaxHeadDim];
  for (int32_t t = 0; t < count; ++t) {
    const float* row = x + t * head_dim;
    for (int32_t c0 = 0; c0 < head_dim; c0 += group) {
      const AffineParams params = contiguous_params(row + c0, group, layout.bits());
      auto* scale_place = reinterpret_cast<Half*>(side) + layout.scale_index(first + t, c0);
      scale_place[0] = params.scale;
      scale_place[layout.zero_point_stride()] = params.zero_point;
      const float scale = half_to_float(params.scale);
      const float zero_point = half_to_float(params.zero_point);
      for (int32_t c = c0; c < c0 + group; ++c) {
        codes[t * head_dim + c] = code_of(row[c] - zero_point, scale, levels);
      }
    }
  }
  write_tokens(layout, side, first, count, codes);
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
