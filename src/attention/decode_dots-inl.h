#pragma once
// The inner loops of decode_kernels-inl.h: sums of packed codes times weights, and where they go.
// Over the vector operations of a Simd (simd_<isa>-inl.h, included before). See core/lanes-inl.h
// for what may be included.
#include <cstddef>
#include <cstdint>

#include "attention/decode_kernels.h"
#include "core/lanes-inl.h"

#define LOWKEY_NOINLINE __attribute__((noinline))

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

// Folded numbers stay within this, so that 256 * high + low fits signed bytes.
constexpr float kFixedTop = 32512.0f;

constexpr int32_t kRowsTogether = Simd::kRowsTogether;  // whose sums are kept in registers at once
constexpr int32_t kTokenQuads = kTileTokens / 4;
constexpr int32_t kMaxValueGroups = kMaxHeadDim / kLanes;  // of channels
constexpr int kValueBlocksInGroup = 2;  // blocks of channels that share a group, at least

constexpr int fields_of(int bits) {
  return bits == 3 ? 8 : 8 / bits;
}
constexpr int granule_bytes_of(int bits) {
  return bits == 3 ? 3 * kGranuleBytes : kGranuleBytes;
}

// With several rows the arithmetic of a line of codes takes longer, the hardware reads fewer lines
// ahead, and waiting for memory and computing would add up: each line that is used asks for one
// further on. (With one row, this would only stop the hardware, which then is faster.)
constexpr int kRowsThatReadAhead = 2;
constexpr int32_t kAheadBytes = 4096;
LOWKEY_INLINE void read_ahead(const std::byte* data, int32_t bytes) {
  for (int32_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + kAheadBytes + i);
}

// Reads a line of each 64 bytes of [data, data + bytes), in order. Parameters that are needed in
// turn with codes are read first: going back and forth between the two costs a third of the rate at
// which memory is read.
LOWKEY_INLINE void read_through(const std::byte* data, int32_t bytes) {
  for (int32_t i = 0; i < bytes; i += 64) {
    int32_t word;
    __builtin_memcpy(&word, data + i, sizeof(word));
    asm volatile("" ::"r"(word));
  }
}

// Keys of a page times folded queries: what an inner loop needs for all tiles, and where sums go.
// Per channel: the score is unit * sum + the zero points' share.
struct PerChannelKeys {
  const std::byte* codes;  // of the first tile
  int32_t tile_bytes;
  int32_t num_tiles;
  int32_t columns;             // of granules in a tile
  const std::byte* weights;    // [token groups, rows_in_group, row_stride], at the first row
  int64_t row_stride;          // bytes
  int32_t log_tiles_in_group;  // tiles of a token group: 1, 2 or 4
  int32_t rows_in_group;       // rows of weights, unit and zero
  const float* unit;           // [token groups, rows_in_group], at the first row
  const float* zero;           // the same
  float* scores;               // [rows, kPageTokens]

  LOWKEY_INLINE int32_t parts() const { return 1; }
  LOWKEY_INLINE const std::byte* part_weights(int32_t tile, int32_t /*part*/) const {
    return weights + (tile >> log_tiles_in_group) * rows_in_group * row_stride;
  }
  template <int kPasses>
  LOWKEY_INLINE void put(int32_t tile, int32_t /*part*/, int r, int h,
                         const typename Simd::template Sum<kPasses>& sum) const {
    const int32_t at = (tile >> log_tiles_in_group) * rows_in_group + r;
    Simd::store(scores + r * kPageTokens + tile * kTileTokens + h * kVectorFloats,
                Simd::scaled<kPasses>(sum, unit[at], Simd::splat(zero[at])));
  }
};

// Per token: each group of channels, a part, adds its sum times the token's scale, and the sum of
// its query channels times the token's zero point.
struct PerTokenKeys {
  const std::byte* codes;
  int32_t tile_bytes;
  int32_t num_tiles;
  int32_t columns;           // of a part
  const std::byte* weights;  // [rows, row_stride]
  int64_t row_stride;
  int32_t num_parts;
  int32_t part_weight_bytes;
  const float* unit;       // [rows]
  const float* query_sum;  // [parts, kMaxDecodeRows], at the first row
  const Half* scale;       // [tiles, 2, parts, kTileTokens]: scales, then zero points
  float* scores;

  LOWKEY_INLINE int32_t parts() const { return num_parts; }
  LOWKEY_INLINE const std::byte* part_weights(int32_t /*tile*/, int32_t part) const {
    return weights + part * part_weight_bytes;
  }
  template <int kPasses>
  LOWKEY_INLINE void put(int32_t tile, int32_t part, int r, int h,
                         const typename Simd::template Sum<kPasses>& sum) const {
    const Half* s = scale + (tile * 2 * num_parts + part) * kTileTokens + h * kVectorFloats;
    float* to = scores + r * kPageTokens + tile * kTileTokens + h * kVectorFloats;
    const Floats base = Simd::load_half(s + num_parts * kTileTokens) *
                        Simd::splat(query_sum[part * kMaxDecodeRows + r]);
    const Floats total = Simd::scaled<kPasses>(sum, unit[r], Floats{});
    const Floats score = total * Simd::load_half(s) + base;
    Simd::store(to, part == 0 ? score : score + Simd::load(to));
  }
};

// Fields of the same place in a byte share sums, where there are registers for a sum per place:
// that saves shifting codes, and gives few rows enough independent sums.
template <int kBits>
constexpr int places_of() {
  return kBits == 8 ? 1 : kBits == 3 ? 2 : fields_of(kBits);
}
template <int kBits>
constexpr int place_of(int field) {
  return kBits == 8 ? 0 : kBits == 3 ? (field < 6 ? field % 2 : 0) : field;
}
template <int kBits>
constexpr int places_together(int rows, int halves, int passes) {
  const int sums = rows * halves * Simd::registers_per_sum(passes);
  return sums * places_of<kBits>() <= Simd::kSumRegisters ? places_of<kBits>() : 1;
}

// Sums over the channel quads of one part of a tile, for kRows rows. codes: its first granule;
// weights: 8 bytes per quad.
template <int kBits, int kInner, int kRows, int kPasses, typename Keys>
LOWKEY_INLINE void dot_part(const Keys& keys, int32_t tile, int32_t part, const std::byte* codes) {
  constexpr int kFields = fields_of(kBits), kBytes = granule_bytes_of(kBits);
  constexpr int kOuter = kFields / kInner;  // halves that share a granule
  constexpr int kHalves = Simd::kHalvesTogether;
  constexpr int kPlaces = places_together<kBits>(kRows, kHalves, kPasses);
  const int32_t columns = keys.columns;
  const int64_t row_stride = keys.row_stride;
  for (int h0 = 0; h0 < 2; h0 += kHalves) {
    const std::byte* column_weights = keys.part_weights(tile, part);
    typename Simd::template Sum<kPasses> sum[kPlaces][kRows][kHalves];
#pragma GCC unroll 8
    for (int p = 0; p < kPlaces; ++p) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto start =
            Simd::start<kBits, kPasses>(column_weights + r * row_stride, columns * kInner);
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) sum[p][r][h] = start;
      }
    }
#pragma GCC unroll 1
    for (int32_t j = 0; j < columns; ++j) {
      typename Simd::template Granule<kBits> granule[kHalves];
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        const std::byte* from = codes + (kOuter == 1 ? 2 * j + h0 + h : j) * kBytes;
        if (kRows >= kRowsThatReadAhead) read_ahead(from, kBytes);
        granule[h] = Simd::load_granule<kBits>(from);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kInner; ++i) {
        typename Simd::Codes c[kHalves];
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) {
          const int field = kOuter == 1 ? i : (h0 + h) * kInner + i;
          c[h] = kPlaces == 1 ? Simd::codes<kBits>(granule[h], field)
                              : Simd::codes_in_place<kBits>(granule[h], field);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
          for (int h = 0; h < kHalves; ++h) {
            const int field = kOuter == 1 ? i : (h0 + h) * kInner + i;
            const int p = kPlaces == 1 ? 0 : place_of<kBits>(field);
            Simd::dot<kPasses>(sum[p][r][h], c[h], column_weights + r * row_stride + i * 8);
          }
        }
      }
      column_weights += kInner * 8;
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        if constexpr (kPlaces > 1) {
#pragma GCC unroll 8
          for (int p = 1; p < kPlaces; ++p) {
            // The first fields are each place's.
            Simd::add_shifted<kPasses>(sum[0][r][h], sum[p][r][h], Simd::shift_in_place<kBits>(p));
          }
        }
        keys.template put<kPasses>(tile, part, r, h0 + h, sum[0][r][h]);
      }
    }
  }
}

template <int kBits, int kInner, int kRows, int kPasses, typename Keys>
LOWKEY_NOINLINE void dot_keys(const Keys& keys) noexcept {
  const int32_t parts = keys.parts(), part_bytes = keys.tile_bytes / parts;
#pragma GCC unroll 1
  for (int32_t tile = 0; tile < keys.num_tiles; ++tile) {
#pragma GCC unroll 1
    for (int32_t part = 0; part < parts; ++part) {
      dot_part<kBits, kInner, kRows, kPasses>(
          keys, tile, part, keys.codes + tile * keys.tile_bytes + part * part_bytes);
    }
  }
}

// Blocks of channels whose sums fit the registers beside each other.
constexpr int blocks_together(int inner, int rows, int passes) {
  int blocks = inner;
  while (blocks > 1 && blocks * rows * Simd::registers_per_sum(passes) > Simd::kSumRegisters) {
    blocks /= 2;
  }
  return blocks;
}

// Where blocks and rows are few, token quads share out to several sums: one sum alone waits for
// each product before the next.
constexpr int sums_per_block(int blocks, int rows, int passes, int quads) {
  int sums = 1;
  while (sums < quads &&
         blocks * rows * Simd::registers_per_sum(passes) * sums < Simd::kIndependentSums)
    sums *= 2;
  return sums;
}

// Values of a page times probabilities, and where sums go: added to acc.
struct ValueDots {
  const std::byte* codes;  // of the first tile
  int32_t tile_bytes;
  int32_t num_tiles;
  int32_t columns;  // of granules in a tile
  // The group of a block of 16 channels is block * group_of_block >> 16 (per channel: 0).
  uint32_t group_of_block;
  int32_t num_groups;
  int32_t rows_in_tile;      // rows of weights, unit and probability_sum
  const std::byte* weights;  // [tiles, rows_in_tile, groups, kWeightBytes], at the first row
  int64_t row_stride;        // bytes
  const float* unit;         // [tiles, rows_in_tile, groups], at the first row
  const Half* scale;         // per channel: [token groups, 2, head_dim], scales, then zero points
  int32_t head_dim;
  int32_t log_tiles_in_group;    // per channel
  const float* probability_sum;  // per channel: [tiles, rows_in_tile], at the first row
  float* acc;                    // [rows, padded_dim]
  int32_t padded_dim;

  LOWKEY_INLINE int32_t group_of(int32_t block) const {
    return static_cast<int32_t>((static_cast<uint32_t>(block) * group_of_block) >> 16);
  }
};

// Sums over a tile's tokens of codes times weights, for the kInner channel blocks of one column of
// granules, the first of them `block`.
template <int kBits, int kInner, int kRows, int kPasses, bool kPerChannel>
LOWKEY_INLINE void dot_column(const ValueDots& v, int32_t tile, int32_t block,
                              const std::byte* codes) {
  constexpr int kFields = fields_of(kBits), kBytes = granule_bytes_of(kBits);
  constexpr int kOuter = kFields / kInner;  // token quads that share a granule
  constexpr int kBlocks = blocks_together(kInner, kRows, kPasses);
  constexpr int kSteps = kTokenQuads / kOuter;
  constexpr int kSums = sums_per_block(kBlocks, kRows, kPasses, kSteps);
  // Blocks of one group load its weights once.
  constexpr int kTogether = kPerChannel ? kBlocks : kBlocks < 2 ? 1 : kValueBlocksInGroup;
  const std::byte* tile_weights = v.weights + tile * v.rows_in_tile * v.row_stride;
  const float* tile_unit = v.unit + tile * v.rows_in_tile * v.num_groups;
#pragma GCC unroll 8
  for (int b0 = 0; b0 < kInner; b0 += kBlocks) {
    typename Simd::template Sum<kPasses> sums[kSums][kRows][kBlocks];
    const std::byte* weights[kBlocks];
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      weights[b] = b % kTogether == 0 ? tile_weights + v.group_of(block + b0 + b) * kWeightBytes
                                      : weights[b - 1];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int n = 0; n < kSums; ++n) {
          sums[n][r][b] =
              Simd::start<kBits, kPasses>(weights[b] + r * v.row_stride, n == 0 ? kTokenQuads : 0);
        }
      }
    }
#pragma GCC unroll 1
    for (int32_t u0 = 0; u0 < kSteps; u0 += kSums) {
#pragma GCC unroll 8
      for (int n = 0; n < kSums; ++n) {
        const int32_t u = u0 + n;
        if (kRows >= kRowsThatReadAhead) read_ahead(codes + u * kBytes, kBytes);
        const auto granule = Simd::load_granule<kBits>(codes + u * kBytes);
#pragma GCC unroll 8
        for (int o = 0; o < kOuter; ++o) {
#pragma GCC unroll 8
          for (int b = 0; b < kBlocks; ++b) {
            // A block has one place, whose power of two goes into the unit.
            const auto c = kOuter == 1 ? Simd::codes_in_place<kBits>(granule, b0 + b)
                                       : Simd::codes<kBits>(granule, o * kInner + b0 + b);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
              Simd::dot<kPasses>(sums[n][r][b], c,
                                 weights[b] + r * v.row_stride + (u * kOuter + o) * 8);
            }
          }
        }
      }
    }
    auto& sum = sums[0];
#pragma GCC unroll 8
    for (int n = 1; n < kSums; ++n) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int b = 0; b < kBlocks; ++b) {
          Simd::add_shifted<kPasses>(sum[r][b], sums[n][r][b], 0);
        }
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const int32_t c = (block + b0 + b) * kLanes;
        float* acc = v.acc + r * v.padded_dim + c;
        const int shift = kOuter == 1 ? Simd::shift_in_place<kBits>(b0 + b) : 0;
        const float unit = tile_unit[r * v.num_groups + v.group_of(block + b0 + b)] *
                           (1.0f / static_cast<float>(1 << shift));
        if constexpr (kPerChannel) {
          const Floats total = Simd::scaled<kPasses>(sum[r][b], unit, Floats{});
          const Half* scale = v.scale + (tile >> v.log_tiles_in_group) * 2 * v.head_dim + c;
          Simd::store(acc, Simd::load(acc) + total * Simd::load_half(scale) +
                               Simd::splat(v.probability_sum[tile * v.rows_in_tile + r]) *
                                   Simd::load_half(scale + v.head_dim));
        } else {
          Simd::store(acc, Simd::scaled<kPasses>(sum[r][b], unit, Simd::load(acc)));
        }
      }
    }
  }
}

template <int kBits, int kInner, int kRows, int kPasses, bool kPerChannel>
LOWKEY_NOINLINE void dot_values(const ValueDots& v) noexcept {
  const int32_t column_bytes = v.tile_bytes / v.columns;
  const std::byte* codes = v.codes;
#pragma GCC unroll 1
  for (int32_t tile = 0; tile < v.num_tiles; ++tile) {
#pragma GCC unroll 1
    for (int32_t column = 0; column < v.columns; ++column, codes += column_bytes) {
      dot_column<kBits, kInner, kRows, kPasses, kPerChannel>(v, tile, column * kInner, codes);
    }
  }
}

template <typename Keys>
using DotKeys = void (*)(const Keys&) noexcept;
using DotValues = void (*)(const ValueDots&) noexcept;

constexpr int kFewestPasses = Simd::kOnePass ? 1 : 2;

// Tables are for up to four rows; what is never asked for is not compiled.
constexpr int rows_or_most(int rows) {
  return rows < kRowsTogether ? rows : kRowsTogether;
}

// [passes - 1][rows - 1]
template <int kBits, int kInner, typename Keys>
constexpr DotKeys<Keys> kDotKeys[2][4] = {
    {dot_keys<kBits, kInner, 1, kFewestPasses, Keys>,
     dot_keys<kBits, kInner, rows_or_most(2), kFewestPasses, Keys>,
     dot_keys<kBits, kInner, rows_or_most(3), kFewestPasses, Keys>,
     dot_keys<kBits, kInner, rows_or_most(4), kFewestPasses, Keys>},
    {dot_keys<kBits, kInner, 1, 2, Keys>, dot_keys<kBits, kInner, rows_or_most(2), 2, Keys>,
     dot_keys<kBits, kInner, rows_or_most(3), 2, Keys>,
     dot_keys<kBits, kInner, rows_or_most(4), 2, Keys>}};
template <int kBits, int kInner, bool kPerChannel>
constexpr DotValues kDotValues[2][4] = {
    {dot_values<kBits, kInner, 1, kFewestPasses, kPerChannel>,
     dot_values<kBits, kInner, rows_or_most(2), kFewestPasses, kPerChannel>,
     dot_values<kBits, kInner, rows_or_most(3), kFewestPasses, kPerChannel>,
     dot_values<kBits, kInner, rows_or_most(4), kFewestPasses, kPerChannel>},
    {dot_values<kBits, kInner, 1, 2, kPerChannel>,
     dot_values<kBits, kInner, rows_or_most(2), 2, kPerChannel>,
     dot_values<kBits, kInner, rows_or_most(3), 2, kPerChannel>,
     dot_values<kBits, kInner, rows_or_most(4), 2, kPerChannel>}};

// Keys share a granule along channels whole, but for 3 bits at odd multiples of 16 channels.
template <typename Keys>
const DotKeys<Keys>* keys_dots(const SideLayout& layout, int passes) noexcept {
  switch (layout.bits() * 16 + layout.inner_fields()) {
    case 2 * 16 + 4: return kDotKeys<2, 4, Keys>[passes - 1];
    case 3 * 16 + 8: return kDotKeys<3, 8, Keys>[passes - 1];
    case 3 * 16 + 4: return kDotKeys<3, 4, Keys>[passes - 1];
    case 4 * 16 + 2: return kDotKeys<4, 2, Keys>[passes - 1];
    case 8 * 16 + 1: return kDotKeys<8, 1, Keys>[passes - 1];
  }
  return nullptr;
}

template <bool kPerChannel>
const DotValues* values_dots(const SideLayout& layout, int passes) noexcept {
  switch (layout.bits() * 16 + layout.inner_fields()) {
    case 2 * 16 + 4: return kDotValues<2, 4, kPerChannel>[passes - 1];
    case 2 * 16 + 2: return kDotValues<2, 2, kPerChannel>[passes - 1];
    case 2 * 16 + 1: return kDotValues<2, 1, kPerChannel>[passes - 1];
    case 3 * 16 + 8: return kDotValues<3, 8, kPerChannel>[passes - 1];
    case 3 * 16 + 4: return kDotValues<3, 4, kPerChannel>[passes - 1];
    case 3 * 16 + 2: return kDotValues<3, 2, kPerChannel>[passes - 1];
    case 3 * 16 + 1: return kDotValues<3, 1, kPerChannel>[passes - 1];
    case 4 * 16 + 2: return kDotValues<4, 2, kPerChannel>[passes - 1];
    case 4 * 16 + 1: return kDotValues<4, 1, kPerChannel>[passes - 1];
    case 8 * 16 + 1: return kDotValues<8, 1, kPerChannel>[passes - 1];
  }
  return nullptr;
}

bool supports(const SideLayout& layout) noexcept {
  if (!layout.packed() || layout.head_dim() > Simd::kLargestHeadDim) return false;
  if (layout.side() == Side::kValue) {
    // A group of channels must be whole runs of blocks that load weights together.
    const bool whole = layout.axis() == QuantAxis::kPerChannel || layout.inner_fields() == 1 ||
                       layout.group_size() % (kValueBlocksInGroup * kLanes) == 0;
    return whole && values_dots<true>(layout, 1) != nullptr;
  }
  // A group of channels must be whole columns of granules.
  const bool whole = layout.axis() == QuantAxis::kPerChannel ||
                     layout.group_size() % (4 * layout.inner_fields()) == 0;
  return whole && keys_dots<PerTokenKeys>(layout, 1) != nullptr;
}

int passes_of(DecodeDots precision) noexcept {
  return Simd::kOnePass && precision == DecodeDots::kOnePass ? 1 : 2;
}

// Rows in portions of at most kRowsTogether, as equal as they go: 5 is 3 + 2.
int32_t rows_now(int32_t rows_left) noexcept {
  const int32_t portions = (rows_left + kRowsTogether - 1) / kRowsTogether;
  return (rows_left + portions - 1) / portions;
}

}  // namespace
}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
