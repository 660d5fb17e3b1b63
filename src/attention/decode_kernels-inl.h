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
void prepare_queries(const DecodeQueries& q, int32_t rows) noexcept {
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
      Simd::store_weights(x, q.weights + (r * vectors + i) * kWeightBytes);
    }
    if constexpr (S::kOnePass) {
      const auto scale = S::byte_scale(Simd::round(Simd::splat(top) * inverse, Floats{}));
      q.unit8[r] = unit * scale.unit;
      for (int32_t i = 0; i < vectors; ++i) {
        S::store_weights8(Simd::load_fixed(fixed + i * kFixedLanes), scale,
                          q.weights8 + (r * vectors + i) * kWeightBytes);
      }
    }
  }
}

// sums[i]: of the lanes of x[i].
LOWKEY_INLINE void sum_all_lanes(Floats* x, int32_t count, float* sums) {
  int32_t i = 0;
  for (; i + 4 < count; i += kVectorFloats) {
    for (int32_t j = count; j < i + kVectorFloats; ++j) x[j] = Floats{};
    float some[kVectorFloats];
    Simd::store(some, Simd::sum_each(x + i));
    const int32_t now = count - i < kVectorFloats ? count - i : kVectorFloats;
    __builtin_memcpy(sums + i, some, static_cast<size_t>(now) * sizeof(float));
  }
  for (; i < count; ++i) sums[i] = Simd::sum_lanes(x[i]);
}

// Folds the query rows with the scales of one group of tokens: weights for dot_keys, the unit of
// its sums, and the zero points' share of every score, its lanes still to be summed. kVectors:
// fixed-point vectors in a row (head_dim 64 has 2, 128 has 4), or 0 where only q knows.
template <typename S, int kVectors>
LOWKEY_NOINLINE void fold_keys(const SideLayout& layout, const Half* scale, const DecodeQueries& q,
                               int32_t first_row, int32_t rows, int passes, std::byte* weights,
                               float* unit, Floats* zero) noexcept {
  constexpr int kMost = kVectors > 0 ? kVectors : kMaxHeadDim / kFixedLanes;
  const int32_t dim = kVectors > 0 ? kVectors * kFixedLanes : layout.head_dim();
  const int32_t vectors = kVectors > 0 ? kVectors : q.fixed_dim / kFixedLanes;
  const Half* zero_point = scale + layout.zero_point_stride();
  const int exponent = Simd::largest_exponent(scale, dim);
  const float fold_unit = power_of_two(exponent - 29 + 15);  // multiply() divides by 2^15
  typename Simd::Fixed s[kMost];
  Floats z[2 * kMost];
#pragma GCC unroll 4
  for (int32_t i = 0; i < vectors; ++i) s[i] = Simd::to_fixed(scale + i * kFixedLanes, exponent);
#pragma GCC unroll 8
  for (int32_t c = 0; c < dim; c += kVectorFloats) {
    z[c / kVectorFloats] = Simd::load_half(zero_point + c);
  }
  for (int32_t r = 0; r < rows; ++r) {
    const float* from = q.f32 + (first_row + r) * q.padded_dim;
    Floats sum = z[0] * Simd::load(from);
#pragma GCC unroll 8
    for (int32_t c = kVectorFloats; c < dim; c += kVectorFloats) {
      sum += z[c / kVectorFloats] * Simd::load(from + c);
    }
    zero[r] = sum;
    const int16_t* fixed = q.fixed + (first_row + r) * q.fixed_dim;
    std::byte* to = weights + r * vectors * kWeightBytes;
    unit[r] = q.unit[first_row + r] * fold_unit;
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
      typename Simd::Fixed largest{};
#pragma GCC unroll 4
      for (int32_t i = 0; i < vectors; ++i) {
        x[i] = Simd::multiply(Simd::load_fixed(fixed + i * kFixedLanes), s[i]);
        largest = S::larger_magnitude(largest, x[i]);
      }
      const auto byte_scale = S::byte_scale(largest);
      unit[r] *= byte_scale.unit;
#pragma GCC unroll 4
      for (int32_t i = 0; i < vectors; ++i) {
        S::store_weights8(x[i], byte_scale, to + i * kWeightBytes);
      }
    }
  }
}

void score_per_channel(const SideLayout& layout, const std::byte* side, int32_t num_tiles,
                       const DecodeQueries& q, int32_t first_row, int32_t rows, int passes,
                       std::byte* weights, ReadAhead ahead, float* scores) noexcept {
  const auto* dots = keys_dots<PerChannelScores>(layout, passes);
  const auto* halves = reinterpret_cast<const Half*>(side);
  const int32_t columns = layout.head_dim() / 4 / layout.inner_fields();
  const int64_t row_stride = int64_t{q.fixed_dim} / kFixedLanes * kWeightBytes;
  const int32_t tiles_per_group = layout.group_size() / kTileTokens;
  const int32_t groups = (num_tiles + tiles_per_group - 1) / tiles_per_group;
  float unit[kTilesPerPage][kMaxDecodeRows], zero[kTilesPerPage * kMaxDecodeRows];
  Floats zero_lanes[kTilesPerPage * kMaxDecodeRows];
  // All groups first: in memory parameters come before codes, and the folds' long chains overlap.
  const auto fold = layout.head_dim() == 64    ? fold_keys<Simd, 2>
                    : layout.head_dim() == 128 ? fold_keys<Simd, 4>
                                               : fold_keys<Simd, 0>;
  for (int32_t g = 0; g < groups; ++g) {
    fold(layout, halves + layout.scale_index(g * layout.group_size(), 0), q, first_row, rows,
         passes, weights + g * kMaxDecodeRows * row_stride, unit[g], zero_lanes + g * rows);
  }
  sum_all_lanes(zero_lanes, groups * rows, zero);
  for (int32_t tile = 0; tile < num_tiles; ++tile) {
    read_ahead(ahead, tile, num_tiles);
    const int32_t g = tile / tiles_per_group;
    const std::byte* codes = side + layout.codes_offset() + tile * layout.tile_codes_bytes();
    const std::byte* tile_weights = weights + g * kMaxDecodeRows * row_stride;
    for (int32_t r = 0, now; r < rows; r += now) {
      now = rows_now(rows - r);
      dots[now - 1](
          codes, columns, tile_weights + r * row_stride, row_stride,
          {unit[g] + r, zero + g * rows + r, scores + r * kPageTokens + tile * kTileTokens});
    }
  }
}

void score_per_token(const SideLayout& layout, const std::byte* side, int32_t num_tiles,
                     const DecodeQueries& q, int32_t first_row, int32_t rows, int passes,
                     ReadAhead ahead, float* scores) noexcept {
  const auto* dots = keys_dots<PerTokenScores>(layout, passes);
  const auto* halves = reinterpret_cast<const Half*>(side);
  const int32_t group = layout.group_size(), num_groups = layout.head_dim() / group;
  const int32_t columns = group / 4 / layout.inner_fields();
  const int32_t group_bytes =
      columns * layout.granule_bytes() * 2 / (layout.fields() / layout.inner_fields());
  const int64_t row_stride = int64_t{q.fixed_dim} / kFixedLanes * kWeightBytes;
  const std::byte* weights = (passes == 2 ? q.weights : q.weights8) + first_row * row_stride;
  const float* unit = (passes == 2 ? q.unit : q.unit8) + first_row;
  float query_sum[kMaxHeadDim / kLanes][kMaxDecodeRows];
  for (int32_t g = 0; g < num_groups; ++g) {
    for (int32_t r = 0; r < rows; ++r) {
      Floats sum = {};
      const float* from = q.f32 + (first_row + r) * q.padded_dim + g * group;
      for (int32_t c = 0; c < group; c += kVectorFloats) sum += Simd::load(from + c);
      query_sum[g][r] = Simd::sum_lanes(sum);
    }
  }
  for (int32_t tile = 0; tile < num_tiles; ++tile) {
    const std::byte* codes = side + layout.codes_offset() + tile * layout.tile_codes_bytes();
    const Half* scale = halves + layout.scale_index(tile * kTileTokens, 0);
    read_ahead(ahead, tile, num_tiles);
    for (int32_t g = 0; g < num_groups; ++g, scale += kTileTokens) {
      for (int32_t r = 0, now; r < rows; r += now) {
        now = rows_now(rows - r);
        // Eight bytes of weights per four channels.
        dots[now - 1](codes + g * group_bytes, columns, weights + r * row_stride + g * group * 2,
                      row_stride,
                      {unit + r, query_sum[g] + r, scale, scale + layout.zero_point_stride(),
                       g == 0, scores + r * kPageTokens + tile * kTileTokens});
      }
    }
  }
}

void score_packed(const SideLayout& layout, const std::byte* side, int32_t num_tiles,
                  const DecodeQueries& q, int32_t first_row, int32_t rows, DecodeDots precision,
                  const DecodeBuffer& buffer, ReadAhead ahead, float* scores) noexcept {
  const int passes = passes_of(precision);
  if (layout.axis() == QuantAxis::kPerChannel) {
    score_per_channel(layout, side, num_tiles, q, first_row, rows, passes, buffer.weights, ahead,
                      scores);
  } else {
    score_per_token(layout, side, num_tiles, q, first_row, rows, passes, ahead, scores);
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
                   int32_t first_row, int32_t rows, ReadAhead ahead, float* scores) noexcept {
  const int64_t row_bytes = int64_t{head_dim} * (kIsF32 ? 4 : 2);
  const ScoreSixteen* score = head_dim == 64    ? kScoreSixteen<kIsF32, 4>
                              : head_dim == 128 ? kScoreSixteen<kIsF32, 8>
                                                : kScoreSixteen<kIsF32, 0>;
  const auto parts = static_cast<int32_t>((count + kVectorFloats - 1) / kVectorFloats);
  for (int32_t part = 0; part < parts; ++part) {
    read_ahead(ahead, part, parts);
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
                const DecodeQueries& q, int32_t first_row, int32_t rows, ReadAhead ahead,
                float* scores) noexcept {
  if (is_f32) {
    score_rows_of<true>(keys, count, head_dim, q, first_row, rows, ahead, scores);
  } else {
    score_rows_of<false>(keys, count, head_dim, q, first_row, rows, ahead, scores);
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
  if (top > state->top) {
    // The first page a row sees comes from -infinity: exp gives 0 and the empty sum stays empty.
    const float shrink = Simd::first_lane(Simd::exp(Simd::splat(state->top - top)));
    state->sum *= shrink;
    state->top = top;
    for (int32_t c = 0; c < padded_dim; c += kVectorFloats) {
      Simd::store(acc + c, Simd::load(acc + c) * Simd::splat(shrink));
    }
  }
  const float factor = Simd::first_lane(Simd::exp(Simd::splat(top - state->top)));
  state->sum += factor * Simd::sum_lanes(sum);
  return factor;
}

// --- values

// One tile's probabilities as fixed-point numbers of unit 1 / kFixedTop.
LOWKEY_INLINE typename Simd::Fixed fixed_probabilities(const float* p) {
  const Floats top = Simd::splat(kFixedTop);
  return Simd::round(Simd::load(p) * top, Simd::load(p + kVectorFloats) * top);
}

// Stores x as weights in `passes` passes; the unit changes with one.
template <typename S>
LOWKEY_INLINE void store_value_weights(typename Simd::Fixed x, int passes, std::byte* to,
                                       float& unit) {
  if (passes == 2) {
    Simd::store_weights(x, to);
    return;
  }
  if constexpr (S::kOnePass) {
    const auto scale = S::byte_scale(S::larger_magnitude(typename Simd::Fixed{}, x));
    unit *= scale.unit;
    S::store_weights8(x, scale, to);
  }
}

template <bool kPerChannel>
void add_packed_axis(const SideLayout& layout, const std::byte* side, int32_t count,
                     const float* p_in, const float* factor, int32_t rows, int passes,
                     std::byte* buffer, ReadAhead ahead, float* acc, int32_t padded_dim) noexcept {
  const DotValues* dots = values_dots<kPerChannel>(layout, passes);
  const auto* halves = reinterpret_cast<const Half*>(side);
  const int32_t num_tiles = (count + kTileTokens - 1) / kTileTokens;
  const int32_t group = layout.group_size();
  const int32_t num_groups = kPerChannel ? 1 : layout.head_dim() / group;
  const int32_t num_blocks = layout.head_dim() / kLanes;
  const int32_t inner = layout.inner_fields();
  const int32_t column_bytes = layout.tile_codes_bytes() / (num_blocks / inner);
  const int64_t row_stride = int64_t{num_groups} * kWeightBytes;

  // Probabilities of tokens beyond `count` are somebody else's (exact rows).
  float last[kMaxDecodeRows][kTileTokens];
  const int32_t whole_tiles = count / kTileTokens;
  if (whole_tiles < num_tiles) {
    for (int32_t r = 0; r < rows; ++r) {
      for (int32_t t = 0; t < kTileTokens; ++t) {
        const int32_t token = whole_tiles * kTileTokens + t;
        last[r][t] = token < count ? p_in[r * kPageTokens + token] : 0.0f;
      }
    }
  }
  const float* p[kTilesPerPage][kMaxDecodeRows];
  for (int32_t tile = 0; tile < num_tiles; ++tile) {
    for (int32_t r = 0; r < rows; ++r) {
      p[tile][r] = tile < whole_tiles ? p_in + r * kPageTokens + tile * kTileTokens : last[r];
    }
  }

  // Weights of all tiles first, as for keys; with them the zero points' sums.
  float unit[kTilesPerPage][kMaxDecodeRows][kMaxHeadDim / kLanes];  // by group
  float probability_sum[kTilesPerPage][kMaxDecodeRows];             // per channel only
  typename Simd::Fixed fixed[kTilesPerPage][kMaxDecodeRows];
  for (int32_t tile = 0; tile < num_tiles; ++tile) {
    for (int32_t r = 0; r < rows; ++r) fixed[tile][r] = fixed_probabilities(p[tile][r]);
  }
  for (int32_t g = 0; g < num_groups; ++g) {
    Floats zero[kMaxDecodeRows];
    for (int32_t r = 0; r < rows; ++r) zero[r] = Floats{};
    for (int32_t tile = 0; tile < num_tiles; ++tile) {
      std::byte* weights = buffer + (tile * kMaxDecodeRows * num_groups + g) * kWeightBytes;
      if constexpr (kPerChannel) {
        for (int32_t r = 0; r < rows; ++r) {
          unit[tile][r][0] = factor[r] * (1.0f / kFixedTop);
          store_value_weights<Simd>(fixed[tile][r], passes, weights + r * row_stride,
                                    unit[tile][r][0]);
          probability_sum[tile][r] =
              factor[r] *
              Simd::sum_lanes(Simd::load(p[tile][r]) + Simd::load(p[tile][r] + kVectorFloats));
        }
      } else {
        // A tile: scales of its groups, 32 tokens each, then zero points.
        const Half* scale = halves + tile * 2 * layout.zero_point_stride() + g * kTileTokens;
        const Half* zero_point = scale + layout.zero_point_stride();
        const int exponent = Simd::largest_exponent(scale, kTileTokens);
        const auto s = Simd::to_fixed(scale, exponent);
        const float fold_unit = power_of_two(exponent - 29 + 15) * (1.0f / kFixedTop);
        const Floats z0 = Simd::load_half(zero_point),
                     z1 = Simd::load_half(zero_point + kVectorFloats);
        for (int32_t r = 0; r < rows; ++r) {
          zero[r] += z0 * Simd::load(p[tile][r]) + z1 * Simd::load(p[tile][r] + kVectorFloats);
          unit[tile][r][g] = factor[r] * fold_unit;
          store_value_weights<Simd>(Simd::multiply(fixed[tile][r], s), passes,
                                    weights + r * row_stride, unit[tile][r][g]);
        }
      }
    }
    if constexpr (!kPerChannel) {
      for (int32_t r = 0; r < rows; ++r) {
        const Floats all = Simd::splat(factor[r] * Simd::sum_lanes(zero[r]));
        float* to = acc + r * padded_dim + g * group;
        for (int32_t c = 0; c < group; c += kVectorFloats)
          Simd::store(to + c, Simd::load(to + c) + all);
      }
    }
  }

  int32_t group_of[kMaxHeadDim / kLanes] = {};
  if constexpr (!kPerChannel) {
    for (int32_t g = 0, block = 0; g < num_groups; ++g) {
      for (int32_t c = 0; c < group; c += kLanes) group_of[block++] = g;
    }
  }
  for (int32_t tile = 0; tile < num_tiles; ++tile) {
    const std::byte* codes = side + layout.codes_offset() + tile * layout.tile_codes_bytes();
    read_ahead(ahead, tile, num_tiles);
    const Half* scale = halves + (kPerChannel ? layout.scale_index(tile * kTileTokens, 0) : 0);
    for (int32_t block = 0; block < num_blocks; block += inner) {
      for (int32_t r = 0, now; r < rows; r += now) {
        now = rows_now(rows - r);
        dots[now - 1](codes, group_of + block,
                      {buffer + tile * kMaxDecodeRows * row_stride + r * row_stride, row_stride,
                       unit[tile][r], kMaxHeadDim / kLanes, scale + block * kLanes,
                       layout.zero_point_stride(), probability_sum[tile] + r,
                       acc + r * padded_dim + block * kLanes, padded_dim});
      }
      codes += column_bytes;
    }
  }
}

void add_packed(const SideLayout& layout, const std::byte* side, int32_t count, const float* p,
                const float* factor, int32_t rows, DecodeDots precision, const DecodeBuffer& buffer,
                ReadAhead ahead, float* acc, int32_t padded_dim) noexcept {
  const auto add =
      layout.axis() == QuantAxis::kPerChannel ? add_packed_axis<true> : add_packed_axis<false>;
  add(layout, side, count, p, factor, rows, passes_of(precision), buffer.weights, ahead, acc,
      padded_dim);
}

template <bool kIsF32, int kRows, int kColumns>
LOWKEY_INLINE void add_columns(const std::byte* values, int64_t row_bytes, int64_t count, int32_t c,
                               const float* p, const float* factor, float* acc,
                               int32_t padded_dim) {
  Floats sum[kRows][kColumns] = {};
#pragma GCC unroll 2
  for (int64_t t = 0; t < count; ++t) {
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
                          const float* factor, int32_t rows, ReadAhead ahead, float* acc,
                          int32_t padded_dim) noexcept {
  const int64_t row_bytes = int64_t{head_dim} * (kIsF32 ? 4 : 2);
  for (int64_t t = 0; t < count; t += kTileTokens) {
    read_ahead(ahead, static_cast<int32_t>(t / kTileTokens),
               static_cast<int32_t>((count + kTileTokens - 1) / kTileTokens));
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
              const float* factor, int32_t rows, ReadAhead ahead, float* acc,
              int32_t padded_dim) noexcept {
  if (is_f32) {
    add_rows_in_portions<true>(values, count, head_dim, p, factor, rows, ahead, acc, padded_dim);
  } else {
    add_rows_in_portions<false>(values, count, head_dim, p, factor, rows, ahead, acc, padded_dim);
  }
}

constexpr DecodeKernels kDecodeKernels = {
    supports, prepare_queries<Simd>, score_packed, score_rows, softmax_page, add_packed, add_rows};

}  // namespace
}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
