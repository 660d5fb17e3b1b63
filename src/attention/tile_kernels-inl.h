// Unpacking to floats and arithmetic on them, included once per instruction set by
// attend_<isa>.cc: see core/lanes-inl.h for what may be included.
#include <cstddef>
#include <cstdint>

#include "attention/tile_kernels.h"
#include "core/lanes-inl.h"

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

// Rows of accumulators a kernel keeps in registers.
#if defined(__AVX512F__)
constexpr int kScoreRows = 8;
constexpr int kValueRows = 4;
constexpr int kValueColumns = 4;
#elif defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
constexpr int kScoreRows = 2;
constexpr int kValueRows = 2;
constexpr int kValueColumns = 2;
#else
constexpr int kScoreRows = 1;
constexpr int kValueRows = 1;
constexpr int kValueColumns = 2;
#endif

// Codes of byte `byte` of field `field` in each lane's dword, as floats.
template <int kBits>
LOWKEY_INLINE F32x16 codes(const std::byte* granule, int field, int byte) {
  const auto dwords = [&](int part) __attribute__((always_inline)) {
    return load_dwords(granule + part * kGranuleBytes);
  };
  if constexpr (kBits == 3) {
    if (field < 6) return to_floats((dwords(field / 2) >> (8 * byte + field % 2 * 3)) & 7);
    return to_floats(((dwords(field - 6) >> (8 * byte + 6)) & 3) |
                     (((dwords(2) >> (8 * byte + field)) & 1) << 2));
  } else {
    constexpr int kMask = (1 << kBits) - 1;
    return to_floats((dwords(0) >> (8 * byte + field * kBits)) & kMask);
  }
}

// Calls visit(outer, inner, granule, field) for every slab of a tile, in memory order.
template <typename Visit>
LOWKEY_INLINE void for_each_slab(const SideLayout& layout, const std::byte* tile_codes,
                                 Visit visit) {
  const int32_t inner_fields = layout.inner_fields();
  const int32_t outer_fields = layout.fields() / inner_fields;
  const int32_t outer_count = layout.side() == Side::kKey ? 2 : kTileTokens / 4;
  const int32_t inner_count =
      layout.side() == Side::kKey ? layout.head_dim() / 4 : layout.head_dim() / kLanes;
  const std::byte* granule = tile_codes;
  for (int32_t inner0 = 0; inner0 < inner_count; inner0 += inner_fields) {
    for (int32_t outer0 = 0; outer0 < outer_count; outer0 += outer_fields) {
      for (int32_t field = 0; field < layout.fields(); ++field) {
        visit(outer0 + field / inner_fields, inner0 + field % inner_fields, granule, field);
      }
      granule += layout.granule_bytes();
    }
  }
}

template <int kBits>
void unpack_keys_bits(const SideLayout& layout, const std::byte* side, int32_t tile, float* keys) {
  const std::byte* tile_codes = side + layout.codes_offset() + tile * layout.tile_codes_bytes();
  const auto* halves = reinterpret_cast<const Half*>(side);
  const int32_t token = tile * kTileTokens;
  const int32_t zero = layout.zero_point_stride();
  if (layout.axis() == QuantAxis::kPerChannel) {
    const Half* scale = halves + layout.scale_index(token, 0);
    for_each_slab(layout, tile_codes,
                  [&](int32_t half, int32_t quad, const std::byte* granule, int32_t field) {
                    for (int byte = 0; byte < 4; ++byte) {
                      const int32_t c = quad * 4 + byte;
                      const F32x16 x = codes<kBits>(granule, field, byte);
                      store(keys + c * kTileTokens + half * kLanes,
                            x * splat(to_float(scale[c])) + splat(to_float(scale[zero + c])));
                    }
                  });
    return;
  }
  for_each_slab(
      layout, tile_codes, [&](int32_t half, int32_t quad, const std::byte* granule, int32_t field) {
        // A group may be narrower than a quad only if it does not divide 4; 4 divides every group
        // we allow or is divided by it, so look the parameters up per channel when groups are that
        // small.
        for (int byte = 0; byte < 4; ++byte) {
          const int32_t c = quad * 4 + byte;
          const Half* scale = halves + layout.scale_index(token, c) + half * kLanes;
          store(keys + c * kTileTokens + half * kLanes,
                codes<kBits>(granule, field, byte) * load_half(scale) + load_half(scale + zero));
        }
      });
}

template <int kBits>
void unpack_values_bits(const SideLayout& layout, const std::byte* side, int32_t tile,
                        float* values, int32_t padded_dim) {
  const std::byte* tile_codes = side + layout.codes_offset() + tile * layout.tile_codes_bytes();
  const auto* halves = reinterpret_cast<const Half*>(side);
  const int32_t token = tile * kTileTokens;
  const int32_t zero = layout.zero_point_stride();
  const bool per_channel = layout.axis() == QuantAxis::kPerChannel;
  const bool block_in_group = per_channel || layout.group_size() % kLanes == 0;
  for_each_slab(layout, tile_codes,
                [&](int32_t quad, int32_t block, const std::byte* granule, int32_t field) {
                  const int32_t c = block * kLanes;
                  for (int byte = 0; byte < 4; ++byte) {
                    const int32_t t = quad * 4 + byte;
                    const F32x16 x = codes<kBits>(granule, field, byte);
                    F32x16 scale = {}, zero_point = {};
                    if (per_channel) {
                      const Half* at = halves + layout.scale_index(token + t, c);
                      scale = load_half(at);
                      zero_point = load_half(at + zero);
                    } else if (block_in_group) {
                      const Half* at = halves + layout.scale_index(token + t, c);
                      scale = splat(to_float(*at));
                      zero_point = splat(to_float(at[zero]));
                    } else {
                      float each[2][kLanes];
                      for (int lane = 0; lane < kLanes; ++lane) {
                        const Half* at = halves + layout.scale_index(token + t, c + lane);
                        each[0][lane] = to_float(*at);
                        each[1][lane] = to_float(at[zero]);
                      }
                      scale = load(each[0]);
                      zero_point = load(each[1]);
                    }
                    store(values + t * padded_dim + c, x * scale + zero_point);
                  }
                });
}

void unpack_keys(const SideLayout& layout, const std::byte* side, int32_t tile,
                 float* keys) noexcept {
  switch (layout.bits()) {
    case 2: return unpack_keys_bits<2>(layout, side, tile, keys);
    case 3: return unpack_keys_bits<3>(layout, side, tile, keys);
    case 4: return unpack_keys_bits<4>(layout, side, tile, keys);
    case 8: return unpack_keys_bits<8>(layout, side, tile, keys);
  }
  __builtin_unreachable();
}

void unpack_values(const SideLayout& layout, const std::byte* side, int32_t tile, float* values,
                   int32_t padded_dim) noexcept {
  switch (layout.bits()) {
    case 2: return unpack_values_bits<2>(layout, side, tile, values, padded_dim);
    case 3: return unpack_values_bits<3>(layout, side, tile, values, padded_dim);
    case 4: return unpack_values_bits<4>(layout, side, tile, values, padded_dim);
    case 8: return unpack_values_bits<8>(layout, side, tile, values, padded_dim);
  }
  __builtin_unreachable();
}

void widen_rows(const std::byte* rows, bool is_f32, int64_t count, int32_t head_dim, float* out,
                int32_t padded_dim) noexcept {
  for (int64_t t = 0; t < count; ++t) {
    float* to = out + t * padded_dim;
    int32_t c = 0;
    if (is_f32) {
      const auto* from = reinterpret_cast<const float*>(rows) + t * head_dim;
      for (; c < head_dim; ++c) to[c] = from[c];
    } else {
      const auto* from = reinterpret_cast<const Half*>(rows) + t * head_dim;
      for (; c + kLanes <= head_dim; c += kLanes) store(to + c, load_half(from + c));
      for (; c < head_dim; ++c) to[c] = to_float(from[c]);
    }
    for (; c < padded_dim; ++c) to[c] = 0.0f;
  }
}

template <int kRows>
LOWKEY_INLINE void score_block(const float* q, const float* keys, int32_t head_dim,
                               int32_t padded_dim, float* scores) {
  F32x16 sum[kRows][2] = {};
  for (int32_t c = 0; c < head_dim; ++c) {
    const F32x16 first = load(keys + c * kTileTokens);
    const F32x16 second = load(keys + c * kTileTokens + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F32x16 weight = splat(q[r * padded_dim + c]);
      sum[r][0] += weight * first;
      sum[r][1] += weight * second;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    store(scores + r * kTileTokens, sum[r][0]);
    store(scores + r * kTileTokens + kLanes, sum[r][1]);
  }
}

void scores(const float* q, int64_t rows, const float* keys, int32_t head_dim, int32_t padded_dim,
            float* out) noexcept {
  int64_t r = 0;
  for (; r + kScoreRows <= rows; r += kScoreRows) {
    score_block<kScoreRows>(q + r * padded_dim, keys, head_dim, padded_dim, out + r * kTileTokens);
  }
  for (; r < rows; ++r) {
    score_block<1>(q + r * padded_dim, keys, head_dim, padded_dim, out + r * kTileTokens);
  }
}

void scores_from_rows(const float* q, int64_t rows, const float* keys, int32_t padded_dim,
                      float* out) noexcept {
  for (int32_t t = 0; t < kTileTokens; ++t) {
    const float* key = keys + t * padded_dim;
    for (int64_t r = 0; r < rows; ++r) {
      F32x16 sum = {};
      for (int32_t c = 0; c < padded_dim; c += kLanes) {
        sum += load(q + r * padded_dim + c) * load(key + c);
      }
      out[r * kTileTokens + t] = horizontal_sum(sum);
    }
  }
}

void transpose(const float* rows, int32_t padded_dim, float* keys) noexcept {
  for (int32_t c0 = 0; c0 < padded_dim; c0 += 4) {
    for (int32_t t = 0; t < kTileTokens; ++t) {
      for (int32_t c = 0; c < 4; ++c) {
        keys[(c0 + c) * kTileTokens + t] = rows[t * padded_dim + c0 + c];
      }
    }
  }
}

void softmax(float* row, SoftmaxState* state, float* acc, int32_t padded_dim) noexcept {
  const F32x16 first = load(row);
  const F32x16 second = load(row + kLanes);
  const float largest = largest_lane(larger(first, second));
  const float top = largest > state->top ? largest : state->top;
  if (top > state->top) {
    // The first tile a row sees comes from -infinity: exp gives 0 and the empty sum stays empty.
    const float shrink = first_lane(exp_nonpositive(splat(state->top - top)));
    state->sum *= shrink;
    state->top = top;
    for (int32_t c = 0; c < padded_dim; c += kLanes) store(acc + c, load(acc + c) * splat(shrink));
  }
  // A row that sees nothing in this tile and saw nothing before keeps top = -infinity: everything
  // is 0.
  const F32x16 base = splat(state->top > -3.0e38f ? state->top : 0.0f);
  const F32x16 p0 = exp_nonpositive(first - base);
  const F32x16 p1 = exp_nonpositive(second - base);
  store(row, p0);
  store(row + kLanes, p1);
  state->sum += horizontal_sum(p0 + p1);
}

template <int kRows, int kColumns>
LOWKEY_INLINE void value_block(const float* p, const float* values, int32_t padded_dim,
                               float* acc) {
  F32x16 sum[kRows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) sum[r][c] = load(acc + r * padded_dim + c * kLanes);
  }
  for (int32_t t = 0; t < kTileTokens; ++t) {
    F32x16 value[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) value[c] = load(values + t * padded_dim + c * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F32x16 weight = splat(p[r * kTileTokens + t]);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) sum[r][c] += weight * value[c];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) store(acc + r * padded_dim + c * kLanes, sum[r][c]);
  }
}

template <int kRows>
LOWKEY_INLINE void value_rows(const float* p, const float* values, int32_t padded_dim, float* acc) {
  int32_t c = 0;
  for (; c + kValueColumns * kLanes <= padded_dim; c += kValueColumns * kLanes) {
    value_block<kRows, kValueColumns>(p, values + c, padded_dim, acc + c);
  }
  for (; c < padded_dim; c += kLanes) value_block<kRows, 1>(p, values + c, padded_dim, acc + c);
}

void accumulate(const float* p, int64_t rows, const float* values, int32_t padded_dim,
                float* acc) noexcept {
  int64_t r = 0;
  for (; r + kValueRows <= rows; r += kValueRows) {
    value_rows<kValueRows>(p + r * kTileTokens, values, padded_dim, acc + r * padded_dim);
  }
  for (; r < rows; ++r)
    value_rows<1>(p + r * kTileTokens, values, padded_dim, acc + r * padded_dim);
}

}  // namespace

const TileKernels& table() {
  static constexpr TileKernels kTable = {unpack_keys,      unpack_values, widen_rows, scores,
                                         scores_from_rows, transpose,     softmax,    accumulate};
  return kTable;
}

}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
