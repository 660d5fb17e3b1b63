#pragma once
// Decode on packed codes, over the vector operations of a Simd (simd_<isa>-inl.h, included before
// this file). Included once per instruction set by decode_<isa>.cc: see core/lanes-inl.h for what
// may be included. decode_kernels.h says what the functions do.
#include <cstddef>
#include <cstdint>

#include "attention/decode_dots-inl.h"
#include "attention/decode_kernels.h"
#include "core/lanes-inl.h"

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

// --- keys

// S is Simd: a parameter, so that what one pass needs is asked of those alone that have it.
template <typename S>
void prepare_queries(const DecodeQueries& q, int32_t rows, DecodeDots precision) noexcept {
  const int passes = passes_of(precision);
  const int32_t vectors = q.fixed_dim / kFixedLanes;
  for (int32_t r = 0; r < rows; ++r) {
    const float* from = q.f32 + r * q.padded_dim;
    Floats largest = {};
    for (int32_t c = 0; c < q.padded_dim; c += kVectorFloats) {
      const Floats x = Simd::load(from + c);
      largest = Simd::max(largest, Simd::max(x, -x));
    }
    const float top = Simd::largest_lane(largest);
    const float unit = top > 0 ? top / kFixedTop : 1.0f;
    const Floats inverse = Simd::splat(top > 0 ? kFixedTop / top : 0.0f);
    q.unit[r] = unit;
    int16_t* fixed = q.fixed + r * q.fixed_dim;
    for (int32_t i = 0; i < vectors; ++i) {
      const int32_t c = i * kFixedLanes;
      const Floats second =
          c + kVectorFloats < q.padded_dim ? Simd::load(from + c + kVectorFloats) : Floats{};
      const auto x = Simd::round(Simd::load(from + c) * inverse, second * inverse);
      Simd::store_fixed(fixed + c, x);
      if (passes == 2) Simd::store_weights(x, q.weights + (r * vectors + i) * kWeightBytes);
    }
    if constexpr (S::kOnePass) {
      if (passes == 2) continue;
      const auto scale = S::byte_scale(Simd::round(Simd::splat(top) * inverse, Floats{}));
      q.unit8[r] = unit * scale.unit;
      for (int32_t i = 0; i < vectors; ++i) {
        S::store_weights8(Simd::load_fixed(fixed + i * kFixedLanes), scale,
                          q.weights8 + (r * vectors + i) * kWeightBytes);
      }
    }
  }
}

// sums[i]: of the lanes of x[i]. Both have room for whole fours.
LOWKEY_INLINE void sum_all_lanes(Floats* x, int32_t count, float* sums) {
  for (int32_t i = count; i % 4 != 0; ++i) x[i] = Floats{};
  for (int32_t i = 0; i < count; i += 4) Simd::sum_four(x + i, sums + i);
}

// What fold_keys() makes of the scales of a page's groups of tokens: weights for the inner loop,
// the unit of its sums, and the zero points' share of every score.
struct FoldedKeys {
  std::byte* weights;                          // [groups, rows, vectors, kWeightBytes]
  float unit[kTilesPerPage * kMaxDecodeRows];  // [groups, rows]
  float zero[kTilesPerPage * kMaxDecodeRows];  // [groups, rows]
};

// kVectors: fixed-point vectors in a row (head_dim 64 has 2, 128 has 4), or 0 where only q knows.
// All groups at once: in memory parameters come before codes, and the folds' long chains overlap.
// Here as in all of decode, each line of memory is first touched in the order of addresses: reading
// the scales of all groups before their zero points cost a quarter of the rate.
template <typename S, int kVectors>
LOWKEY_NOINLINE void fold_keys(const SideLayout& layout, const Half* scales, int32_t groups,
                               const DecodeQueries& q, int32_t first_row, int32_t rows, int passes,
                               FoldedKeys& folded) noexcept {
  constexpr int kMost = kVectors > 0 ? kVectors : kMaxHeadDim / kFixedLanes;
  const int32_t dim = kVectors > 0 ? kVectors * kFixedLanes : layout.head_dim();
  const int32_t vectors = kVectors > 0 ? kVectors : q.fixed_dim / kFixedLanes;
  Floats zero[kTilesPerPage * kMaxDecodeRows];  // lanes still to be summed
  for (int32_t g = 0; g < groups; ++g) {
    const Half* scale = scales + g * 2 * dim;
    const Half* zero_point = scale + dim;
    if (rows >= kRowsThatReadAhead) {
      read_ahead(reinterpret_cast<const std::byte*>(scale), dim * 4);
    }
    typename Simd::Fixed largest{};
#pragma GCC unroll 4
    for (int32_t i = 0; i < dim / kFixedLanes; ++i) {
      largest = Simd::larger(largest, Simd::load_halves(scale + i * kFixedLanes));
    }
    if (kVectors == 0 && dim % kFixedLanes != 0) {
      largest =
          Simd::larger(largest, Simd::load_few_halves(scale + dim / kFixedLanes * kFixedLanes));
    }
    const typename Simd::Exponent exponent = Simd::exponent(largest);
    const float fold_unit = Simd::power(exponent, -29 + 15);  // multiply() divides by 2^15
    typename Simd::Fixed s[kMost];
    Floats z[2 * kMost];
#pragma GCC unroll 4
    for (int32_t i = 0; i < vectors; ++i) {
      s[i] = Simd::to_fixed(scale + i * kFixedLanes, exponent);
    }
#pragma GCC unroll 8
    for (int32_t c = 0; c < dim; c += kVectorFloats) {
      z[c / kVectorFloats] = Simd::load_half(zero_point + c);
    }
    for (int32_t r = 0; r < rows; ++r) {
      const float* from = q.f32 + (first_row + r) * q.padded_dim;
      Floats even = z[0] * Simd::load(from), odd = {};
#pragma GCC unroll 8
      for (int32_t c = kVectorFloats; c < dim; c += kVectorFloats) {
        (c / kVectorFloats % 2 ? odd : even) += z[c / kVectorFloats] * Simd::load(from + c);
      }
      zero[g * rows + r] = even + odd;
      const int16_t* fixed = q.fixed + (first_row + r) * q.fixed_dim;
      std::byte* to = folded.weights + (int64_t{g} * rows + r) * vectors * kWeightBytes;
      float& unit = folded.unit[g * rows + r];
      unit = q.unit[first_row + r] * fold_unit;
      if (passes == 2) {
#pragma GCC unroll 4
        for (int32_t i = 0; i < vectors; ++i) {
          Simd::store_weights(Simd::multiply(Simd::load_fixed(fixed + i * kFixedLanes), s[i]),
                              to + i * kWeightBytes);
        }
        continue;
      }
      if constexpr (S::kOnePass) {
        typename Simd::Fixed x[kMost];
        typename Simd::Fixed top{};
#pragma GCC unroll 4
        for (int32_t i = 0; i < vectors; ++i) {
          x[i] = Simd::multiply(Simd::load_fixed(fixed + i * kFixedLanes), s[i]);
          top = S::larger_magnitude(top, x[i]);
        }
        const auto byte_scale = S::byte_scale(top);
        unit *= byte_scale.unit;
#pragma GCC unroll 4
        for (int32_t i = 0; i < vectors; ++i) {
          S::store_weights8(x[i], byte_scale, to + i * kWeightBytes);
        }
      }
    }
  }
  sum_all_lanes(zero, groups * rows, folded.zero);
}

void score_per_channel(const SideLayout& layout, const std::byte* side, int32_t num_tiles,
                       const DecodeQueries& q, int32_t first_row, int32_t rows, int passes,
                       std::byte* weights, float* scores) noexcept {
  const auto* dots = keys_dots<PerChannelKeys>(layout, passes);
  const int64_t row_stride = int64_t{q.fixed_dim} / kFixedLanes * kWeightBytes;
  const int32_t log_tiles = __builtin_ctz(static_cast<uint32_t>(layout.group_size() / kTileTokens));
  FoldedKeys folded;
  folded.weights = weights;
  const auto fold = layout.head_dim() == 64    ? fold_keys<Simd, 2>
                    : layout.head_dim() == 128 ? fold_keys<Simd, 4>
                                               : fold_keys<Simd, 0>;
  fold(layout, reinterpret_cast<const Half*>(side), ((num_tiles - 1) >> log_tiles) + 1, q,
       first_row, rows, passes, folded);
  for (int32_t r = 0, now; r < rows; r += now) {
    now = rows_now(rows - r);
    dots[now - 1]({side + layout.codes_offset(), layout.tile_codes_bytes(), num_tiles,
                   layout.head_dim() / 4 / layout.inner_fields(), weights + r * row_stride,
                   row_stride, log_tiles, rows, folded.unit + r, folded.zero + r,
                   scores + r * kPageTokens});
  }
}

void score_per_token(const SideLayout& layout, const std::byte* side, int32_t num_tiles,
                     const DecodeQueries& q, int32_t first_row, int32_t rows, int passes,
                     float* scores) noexcept {
  const auto* dots = keys_dots<PerTokenKeys>(layout, passes);
  const int32_t group = layout.group_size(), num_groups = layout.head_dim() / group;
  const int64_t row_stride = int64_t{q.fixed_dim} / kFixedLanes * kWeightBytes;
  const std::byte* weights = (passes == 2 ? q.weights : q.weights8) + first_row * row_stride;
  const float* unit = (passes == 2 ? q.unit : q.unit8) + first_row;
  read_through(side, layout.codes_offset());
  float query_sum[kMaxHeadDim / kLanes][kMaxDecodeRows];
  for (int32_t g = 0; g < num_groups; ++g) {
    for (int32_t r = 0; r < rows; ++r) {
      Floats sum = {};
      const float* from = q.f32 + (first_row + r) * q.padded_dim + g * group;
      for (int32_t c = 0; c < group; c += kVectorFloats) sum += Simd::load(from + c);
      query_sum[g][r] = Simd::sum_lanes(sum);
    }
  }
  for (int32_t r = 0, now; r < rows; r += now) {
    now = rows_now(rows - r);
    // Eight bytes of weights per four channels.
    dots[now - 1]({side + layout.codes_offset(), layout.tile_codes_bytes(), num_tiles,
                   group / 4 / layout.inner_fields(), weights + r * row_stride, row_stride,
                   num_groups, group * 2, unit + r, query_sum[0] + r,
                   reinterpret_cast<const Half*>(side), scores + r * kPageTokens});
  }
}

void score_packed(const SideLayout& layout, const std::byte* side, int32_t num_tiles,
                  const DecodeQueries& q, int32_t first_row, int32_t rows, DecodeDots precision,
                  const DecodeBuffer& buffer, float* scores) noexcept {
  const int passes = passes_of(precision);
  if (layout.axis() == QuantAxis::kPerChannel) {
    score_per_channel(layout, side, num_tiles, q, first_row, rows, passes, buffer.weights, scores);
  } else {
    score_per_token(layout, side, num_tiles, q, first_row, rows, passes, scores);
  }
}

template <bool kIsF32>
LOWKEY_INLINE Floats load_row(const std::byte* row, int32_t c) {
  if constexpr (kIsF32) return Simd::load(reinterpret_cast<const float*>(row) + c);
  return Simd::load_half(reinterpret_cast<const Half*>(row) + c);
}

// The last channels of a row whose width is no multiple of 16, zeros beyond.
template <bool kIsF32>
LOWKEY_INLINE Floats load_row_end(const std::byte* row, int32_t c, int32_t head_dim) {
  float rest[kVectorFloats] = {};
  for (int32_t i = 0; c + i < head_dim; ++i) {
    rest[i] = kIsF32 ? reinterpret_cast<const float*>(row)[c + i]
                     : to_float(reinterpret_cast<const Half*>(row)[c + i]);
  }
  return Simd::load(rest);
}

// Sixteen keys: products by channel, then one sum per key; four keys at a time, so that their
// partial sums stay in registers. The first `count` scores are meant. kVectors: whole vectors in a
// row, or 0 where only head_dim knows.
template <bool kIsF32, int kRows, int kVectors>
LOWKEY_NOINLINE void score_sixteen(const std::byte* keys, int32_t count, int32_t head_dim,
                                   const float* q, int32_t padded_dim, float* scores) noexcept {
  const int32_t whole = kVectors > 0 ? kVectors : head_dim / kVectorFloats;
  const int64_t row_bytes =
      (kVectors > 0 ? kVectors * kVectorFloats : int64_t{head_dim}) * (kIsF32 ? 4 : 2);
  typename Simd::Quarter quarter[kRows][4];
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) {
    Floats part[kRows][4];
    const std::byte* key[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      // Keys that are not there: the last one again.
      const int32_t t = quad * 4 + k;
      key[k] = keys + (t < count ? t : count - 1) * row_bytes;
      if (kRows >= kRowsThatReadAhead) read_ahead(key[k], static_cast<int32_t>(row_bytes));
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) part[r][k] = Floats{};
    }
    if constexpr (kRows == 1 && kVectors > 0) {
      // A key after the other: memory is read in its order.
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
#pragma GCC unroll 8
        for (int32_t v = 0; v < whole; ++v) {
          part[0][k] +=
              load_row<kIsF32>(key[k], v * kVectorFloats) * Simd::load(q + v * kVectorFloats);
        }
      }
    } else {
#pragma GCC unroll 2
      for (int32_t v = 0; v < whole; ++v) {
        Floats x[4];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) x[k] = load_row<kIsF32>(key[k], v * kVectorFloats);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const Floats weight = Simd::load(q + r * padded_dim + v * kVectorFloats);
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) part[r][k] += x[k] * weight;
        }
      }
    }
    if (kVectors == 0 && whole * kVectorFloats < head_dim) {
      for (int k = 0; k < 4; ++k) {
        const Floats x = load_row_end<kIsF32>(key[k], whole * kVectorFloats, head_dim);
        for (int r = 0; r < kRows; ++r) {
          part[r][k] += x * Simd::load(q + r * padded_dim + whole * kVectorFloats);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) quarter[r][quad] = Simd::quarter_sums(part[r]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const Floats all = Simd::sum_quarters(quarter[r]);
    if (count == kVectorFloats) {
      Simd::store(scores + r * kPageTokens, all);
    } else {
      __builtin_memcpy(scores + r * kPageTokens, &all, static_cast<size_t>(count) * sizeof(float));
    }
  }
}

using ScoreSixteen = void (*)(const std::byte*, int32_t, int32_t, const float*, int32_t,
                              float*) noexcept;
template <bool kIsF32, int kVectors>
constexpr ScoreSixteen kScoreSixteen[4] = {score_sixteen<kIsF32, 1, kVectors>,
                                           score_sixteen<kIsF32, rows_or_most(2), kVectors>,
                                           score_sixteen<kIsF32, rows_or_most(3), kVectors>,
                                           score_sixteen<kIsF32, rows_or_most(4), kVectors>};

template <bool kIsF32>
void score_rows_of(const std::byte* keys, int64_t count, int32_t head_dim, const DecodeQueries& q,
                   int32_t first_row, int32_t rows, float* scores) noexcept {
  const int64_t row_bytes = int64_t{head_dim} * (kIsF32 ? 4 : 2);
  const ScoreSixteen* score = head_dim == 64    ? kScoreSixteen<kIsF32, 4>
                              : head_dim == 128 ? kScoreSixteen<kIsF32, 8>
                                                : kScoreSixteen<kIsF32, 0>;
  const auto parts = static_cast<int32_t>((count + kVectorFloats - 1) / kVectorFloats);
  for (int32_t part = 0; part < parts; ++part) {
    const int64_t t = part * kVectorFloats;
    const auto now = static_cast<int32_t>(count - t < kVectorFloats ? count - t : kVectorFloats);
    for (int32_t r = 0, together; r < rows; r += together) {
      together = rows_now(rows - r);
      score[together - 1](keys + t * row_bytes, now, head_dim,
                          q.f32 + (first_row + r) * q.padded_dim, q.padded_dim,
                          scores + r * kPageTokens + t);
    }
  }
}

void score_rows(const std::byte* keys, bool is_f32, int64_t count, int32_t head_dim,
                const DecodeQueries& q, int32_t first_row, int32_t rows, float* scores) noexcept {
  if (is_f32) {
    score_rows_of<true>(keys, count, head_dim, q, first_row, rows, scores);
  } else {
    score_rows_of<false>(keys, count, head_dim, q, first_row, rows, scores);
  }
}

// --- softmax

float softmax_page(float* scores, int64_t count, SoftmaxState* state, float* acc,
                   int32_t padded_dim) noexcept {
  for (int64_t t = count; t < kPageTokens; ++t) scores[t] = -__builtin_inff();
  Floats largest = Simd::load(scores);
  for (int32_t t = kVectorFloats; t < kPageTokens; t += kVectorFloats) {
    const Floats x = Simd::load(scores + t);
    largest = Simd::max(largest, x);
  }
  const float top = Simd::largest_lane(largest);
  Floats sum = {};
  for (int32_t t = 0; t < kPageTokens; t += kVectorFloats) {
    const Floats p = Simd::exp(Simd::load(scores + t) - Simd::splat(top));
    Simd::store(scores + t, p);
    sum += p;
  }
  // No branch on whether the maximum moved: where it is mispredicted, the values' reads start over.
  // The first page a row sees comes from -infinity: exp gives 0 and the empty sum stays empty.
  const float new_top = top > state->top ? top : state->top;
  const Floats weights = Simd::exp(Simd::pair(state->top - new_top, top - new_top));
  const float shrink = Simd::first_lane(weights), factor = Simd::second_lane(weights);
  state->top = new_top;
  state->sum = state->sum * shrink + factor * Simd::sum_lanes(sum);
  for (int32_t c = 0; c < padded_dim; c += kVectorFloats) {
    Simd::store(acc + c, Simd::load(acc + c) * Simd::splat(shrink));
  }
  return factor;
}

// --- values

// One tile's probabilities as fixed-point numbers of unit 1 / kFixedTop.
LOWKEY_INLINE typename Simd::Fixed fixed_probabilities(const float* p) {
  const Floats top = Simd::splat(kFixedTop);
  return Simd::round(Simd::load(p) * top, Simd::load(p + kVectorFloats) * top);
}

// A page's probabilities and what they are folded to.
struct FoldedValues {
  const float* p;       // [rows, kPageTokens], zero beyond the tokens meant
  const float* factor;  // [rows]
  int32_t rows, num_tiles;
  std::byte* weights;  // [tiles, rows, groups, kWeightBytes]
  int64_t row_stride;  // bytes: of a row's groups
  int32_t num_groups;
  float unit[kTilesPerPage * kMaxDecodeRows * kMaxValueGroups];  // [tiles, rows, groups]
  float probability_sum[kTilesPerPage * kMaxDecodeRows];         // per channel: [tiles, rows]
};

// kGroups groups of channels, from `first_group` on, of all tiles: weights and units; and adds the
// zero points' sums to acc.
template <typename S, int kGroups>
LOWKEY_NOINLINE void fold_values(const SideLayout& layout, const Half* scales, int32_t first_group,
                                 int passes, FoldedValues& v, float* acc,
                                 int32_t padded_dim) noexcept {
  const int32_t zero_stride = layout.zero_point_stride();
  Floats zero[kMaxDecodeRows][4];
  for (int32_t r = 0; r < v.rows; ++r) {
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) zero[r][g] = Floats{};
  }
#pragma GCC unroll 1
  for (int32_t tile = 0; tile < v.num_tiles; ++tile) {
    // A tile: scales of its groups, 32 tokens each, then zero points.
    const Half* scale = scales + tile * 2 * zero_stride + first_group * kTileTokens;
    if (v.rows >= kRowsThatReadAhead) {
      read_ahead(reinterpret_cast<const std::byte*>(scale), kGroups * kTileTokens * 4);
    }
    typename Simd::Fixed halves[4] = {};
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) halves[g] = Simd::load_halves(scale + g * kTileTokens);
    typename Simd::Exponent exponent[4];
    Simd::exponents(halves, exponent);
    typename Simd::Fixed s[kGroups];
    Floats z[kGroups][2];
    float fold_unit[kGroups];
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
      const Half* zero_point = scale + zero_stride + g * kTileTokens;
      s[g] = Simd::to_fixed(scale + g * kTileTokens, exponent[g]);
      z[g][0] = Simd::load_half(zero_point);
      z[g][1] = Simd::load_half(zero_point + kVectorFloats);
      fold_unit[g] = Simd::power(exponent[g], -29 + 15) * (1.0f / kFixedTop);
    }
#pragma GCC unroll 1
    for (int32_t r = 0; r < v.rows; ++r) {
      const float* p = v.p + r * kPageTokens + tile * kTileTokens;
      const Floats p0 = Simd::load(p), p1 = Simd::load(p + kVectorFloats);
      const auto fixed = fixed_probabilities(p);
      const int32_t at = tile * v.rows + r;
      std::byte* to = v.weights + at * v.row_stride + first_group * kWeightBytes;
      float* unit = v.unit + at * v.num_groups + first_group;
      typename Simd::Fixed x[4] = {};
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) {
        zero[r][g] += z[g][0] * p0 + z[g][1] * p1;
        x[g] = Simd::multiply(fixed, s[g]);
        unit[g] = v.factor[r] * fold_unit[g];
      }
      if (passes == 2) {
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) Simd::store_weights(x[g], to + g * kWeightBytes);
        continue;
      }
      if constexpr (S::kOnePass) {
        typename S::ByteScale byte_scale[4];
        S::byte_scales(x, byte_scale);
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) {
          unit[g] *= byte_scale[g].unit;
          S::store_weights8(x[g], byte_scale[g], to + g * kWeightBytes);
        }
      }
    }
  }
  for (int32_t r = 0; r < v.rows; ++r) {
    float sum[4];
    Simd::sum_four(zero[r], sum);
    for (int g = 0; g < kGroups; ++g) {
      const Floats all = Simd::splat(v.factor[r] * sum[g]);
      float* to = acc + r * padded_dim + (first_group + g) * layout.group_size();
      for (int32_t c = 0; c < layout.group_size(); c += kVectorFloats) {
        Simd::store(to + c, Simd::load(to + c) + all);
      }
    }
  }
}

// With a scale per channel, which multiplies the sums: weights are the probabilities.
template <typename S>
LOWKEY_NOINLINE void fold_probabilities(int passes, FoldedValues& v) noexcept {
  for (int32_t tile = 0; tile < v.num_tiles; ++tile) {
    for (int32_t r = 0; r < v.rows; ++r) {
      const float* p = v.p + r * kPageTokens + tile * kTileTokens;
      const auto fixed = fixed_probabilities(p);
      const int32_t at = tile * v.rows + r;
      std::byte* to = v.weights + at * v.row_stride;
      float& unit = v.unit[at];
      v.probability_sum[at] =
          v.factor[r] * Simd::sum_lanes(Simd::load(p) + Simd::load(p + kVectorFloats));
      unit = v.factor[r] * (1.0f / kFixedTop);
      if (passes == 2) {
        Simd::store_weights(fixed, to);
        continue;
      }
      if constexpr (S::kOnePass) {
        const auto scale = S::byte_scale(S::larger_magnitude(typename Simd::Fixed{}, fixed));
        unit *= scale.unit;
        S::store_weights8(fixed, scale, to);
      }
    }
  }
}

template <bool kPerChannel>
void add_packed_axis(const SideLayout& layout, const std::byte* side, int32_t count,
                     const float* p_in, const float* factor, int32_t rows, int passes,
                     std::byte* buffer, float* acc, int32_t padded_dim) noexcept {
  const auto* scales = reinterpret_cast<const Half*>(side);
  const int32_t num_blocks = layout.head_dim() / kLanes;
  const int32_t num_groups = kPerChannel ? 1 : layout.head_dim() / layout.group_size();
  FoldedValues v;
  v.p = p_in;
  v.factor = factor;
  v.rows = rows;
  v.num_tiles = (count + kTileTokens - 1) / kTileTokens;
  v.weights = buffer;
  v.row_stride = int64_t{num_groups} * kWeightBytes;
  v.num_groups = num_groups;
  // Probabilities of tokens beyond `count` are somebody else's (exact rows).
  float some[kMaxDecodeRows * kPageTokens];
  if (count < kPageTokens) {
    for (int32_t r = 0; r < rows; ++r) {
      float* row = some + r * kPageTokens;
      for (int32_t t = 0; t < kPageTokens; ++t) {
        row[t] = t < count ? p_in[r * kPageTokens + t] : 0.0f;
      }
    }
    v.p = some;
  }
  uint32_t group_of_block = 0;
  int32_t log_tiles = 0;
  if constexpr (kPerChannel) {
    read_through(side, layout.codes_offset());
    fold_probabilities<Simd>(passes, v);
    log_tiles = __builtin_ctz(static_cast<uint32_t>(layout.group_size() / kTileTokens));
  } else {
    int32_t g = 0;
    for (; g + 4 <= num_groups; g += 4) {
      fold_values<Simd, 4>(layout, scales, g, passes, v, acc, padded_dim);
    }
    for (; g + 2 <= num_groups; g += 2) {
      fold_values<Simd, 2>(layout, scales, g, passes, v, acc, padded_dim);
    }
    if (g < num_groups) fold_values<Simd, 1>(layout, scales, g, passes, v, acc, padded_dim);
    // Exact for as many blocks as there can be.
    group_of_block = (uint32_t{1} << 16) / static_cast<uint32_t>(layout.group_size() / kLanes) + 1;
  }
  const DotValues* dots = values_dots<kPerChannel>(layout, passes);
  for (int32_t r = 0, now; r < rows; r += now) {
    now = rows_now(rows - r);
    dots[now - 1]({side + layout.codes_offset(), layout.tile_codes_bytes(), v.num_tiles,
                   num_blocks / layout.inner_fields(), group_of_block, num_groups, rows,
                   v.weights + r * v.row_stride, v.row_stride, v.unit + r * num_groups, scales,
                   layout.head_dim(), log_tiles, v.probability_sum + r, acc + r * padded_dim,
                   padded_dim});
  }
}

void add_packed(const SideLayout& layout, const std::byte* side, int32_t count, const float* p,
                const float* factor, int32_t rows, DecodeDots precision, const DecodeBuffer& buffer,
                float* acc, int32_t padded_dim) noexcept {
  const auto add =
      layout.axis() == QuantAxis::kPerChannel ? add_packed_axis<true> : add_packed_axis<false>;
  add(layout, side, count, p, factor, rows, passes_of(precision), buffer.weights, acc, padded_dim);
}

template <bool kIsF32, int kRows, int kColumns>
LOWKEY_INLINE void add_columns(const std::byte* values, int64_t row_bytes, int64_t count, int32_t c,
                               const float* p, const float* factor, float* acc,
                               int32_t padded_dim) {
  Floats sum[kRows][kColumns] = {};
#pragma GCC unroll 2
  for (int64_t t = 0; t < count; ++t) {
    if (kRows >= kRowsThatReadAhead && c == 0) {
      read_ahead(values + t * row_bytes, static_cast<int32_t>(row_bytes));
    }
    Floats x[kColumns];
#pragma GCC unroll 8
    for (int i = 0; i < kColumns; ++i) {
      x[i] = load_row<kIsF32>(values + t * row_bytes, c + i * kVectorFloats);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Floats weight = Simd::splat(p[r * kPageTokens + t]);
#pragma GCC unroll 8
      for (int i = 0; i < kColumns; ++i) sum[r][i] += weight * x[i];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kColumns; ++i) {
      float* to = acc + r * padded_dim + c + i * kVectorFloats;
      Simd::store(to, Simd::load(to) + Simd::splat(factor[r]) * sum[r][i]);
    }
  }
}

template <bool kIsF32, int kRows>
void add_rows_of(const std::byte* values, int64_t count, int32_t head_dim, const float* p,
                 const float* factor, float* acc, int32_t padded_dim) noexcept {
  constexpr int kColumns = Simd::kValueRegisters / kRows < 8 ? (kRows == 1 ? 8 : 4) : 8;
  const int64_t row_bytes = int64_t{head_dim} * (kIsF32 ? 4 : 2);
  int32_t c = 0;
  for (; c + kColumns * kVectorFloats <= head_dim; c += kColumns * kVectorFloats) {
    add_columns<kIsF32, kRows, kColumns>(values, row_bytes, count, c, p, factor, acc, padded_dim);
  }
  for (; c + kVectorFloats <= head_dim; c += kVectorFloats) {
    add_columns<kIsF32, kRows, 1>(values, row_bytes, count, c, p, factor, acc, padded_dim);
  }
  if (c == head_dim) return;
  for (int32_t r = 0; r < kRows; ++r) {
    Floats sum = {};
    for (int64_t t = 0; t < count; ++t) {
      sum += Simd::splat(p[r * kPageTokens + t]) *
             load_row_end<kIsF32>(values + t * row_bytes, c, head_dim);
    }
    float* to = acc + r * padded_dim + c;
    Simd::store(to, Simd::load(to) + Simd::splat(factor[r]) * sum);
  }
}

template <bool kIsF32>
void add_rows_in_portions(const std::byte* values, int64_t count, int32_t head_dim, const float* p,
                          const float* factor, int32_t rows, float* acc,
                          int32_t padded_dim) noexcept {
  const int64_t row_bytes = int64_t{head_dim} * (kIsF32 ? 4 : 2);
  for (int64_t t = 0; t < count; t += kTileTokens) {
    const std::byte* from = values + t * row_bytes;
    const int64_t tokens = count - t < kTileTokens ? count - t : kTileTokens;
    for (int32_t r = 0, now; r < rows; r += now) {
      now = rows_now(rows - r);
      const float* weights = p + r * kPageTokens + t;
      float* to = acc + r * padded_dim;
      switch (now) {
        case 1:
          add_rows_of<kIsF32, 1>(from, tokens, head_dim, weights, factor + r, to, padded_dim);
          break;
        case 2:
          add_rows_of<kIsF32, rows_or_most(2)>(from, tokens, head_dim, weights, factor + r, to,
                                               padded_dim);
          break;
        case 3:
          add_rows_of<kIsF32, rows_or_most(3)>(from, tokens, head_dim, weights, factor + r, to,
                                               padded_dim);
          break;
        case 4:
          add_rows_of<kIsF32, rows_or_most(4)>(from, tokens, head_dim, weights, factor + r, to,
                                               padded_dim);
          break;
      }
    }
  }
}

void add_rows(const std::byte* values, bool is_f32, int64_t count, int32_t head_dim, const float* p,
              const float* factor, int32_t rows, float* acc, int32_t padded_dim) noexcept {
  if (is_f32) {
    add_rows_in_portions<true>(values, count, head_dim, p, factor, rows, acc, padded_dim);
  } else {
    add_rows_in_portions<false>(values, count, head_dim, p, factor, rows, acc, padded_dim);
  }
}

constexpr DecodeKernels kDecodeKernels = {
    supports, prepare_queries<Simd>, score_packed, score_rows, softmax_page, add_packed, add_rows};

}  // namespace
}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
