// Included once per instruction set by strip_kernels_<isa>.cc: see row_kernels-inl.h for the rules.
//
// A format yields, for each 32 columns of sixteen rows, eight registers of unsigned codes (four
// columns of every row: Codes) and the rows' scales; everything else is written once over it.
// Sums of products are exact integers, so the instruction sets differ in how they multiply only.
#include "linear/simd-inl.h"
#include "linear/strip_kernels.h"

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

constexpr int64_t kBlockColumns = 32;
constexpr int kStripParts = kStripRows / kWidth;
constexpr float kMaxCode = 32639.0f;

// NEON's dot products take bytes of the same sign; weights' codes may well be signed.
#if defined(__ARM_FEATURE_DOTPROD)
constexpr bool kSignedCodes = true;
#else
constexpr bool kSignedCodes = false;
#endif

typedef uint8_t U8 __attribute__((vector_size(kWidth * 4)));
typedef uint8_t U8U __attribute__((vector_size(kWidth * 4), aligned(1), may_alias));
typedef uint16_t U16 __attribute__((vector_size(kWidth * 4)));

// Four columns of sixteen rows: byte 4 r + c.
struct Codes {
  U8 part[kStripParts];
};

// One value per row.
struct Rows {
  F32 part[kStripParts];
};

template <typename F>
LOWKEY_INLINE Codes make_codes(const F& f) {
  Codes codes;
#pragma GCC unroll 4
  for (int p = 0; p < kStripParts; ++p) codes.part[p] = f(p);
  return codes;
}

template <typename F>
LOWKEY_INLINE Rows make_rows(const F& f) {
  Rows rows;
#pragma GCC unroll 4
  for (int p = 0; p < kStripParts; ++p) rows.part[p] = f(p);
  return rows;
}

LOWKEY_INLINE U8 load_bytes(const uint8_t* p) {
  return *reinterpret_cast<const U8U*>(p);
}
// Shifts that let bits of the neighbouring byte in: mask afterwards.
LOWKEY_INLINE U8 shift_right(U8 x, int count) {
  return reinterpret_cast<U8>(reinterpret_cast<U16>(x) >> static_cast<uint16_t>(count));
}
LOWKEY_INLINE U8 shift_left(U8 x, int count) {
  return reinterpret_cast<U8>(reinterpret_cast<U16>(x) << static_cast<uint16_t>(count));
}
LOWKEY_INLINE U32 as_dwords(U8 x) {
  return reinterpret_cast<U32>(x);
}

// Quad `i` of the sixteen rows (strip_layout.h).
LOWKEY_INLINE U8 quad(const uint8_t* quads, int64_t i, int part) {
  return load_bytes(quads + i * 64 + part * kWidth * 4);
}

LOWKEY_INLINE Rows load_halves(const uint8_t* p) {
  return make_rows([&](int i)
                       __attribute__((always_inline)) { return load_f16(p + i * kWidth * 2); });
}

// -------- formats: codes(block, sub, j) are columns 4j..4j+3 of the block's 32-column piece `sub`;
// weight = scale * (code - kOffset) + minimum. load/tensor.cc describes the blocks.

struct Scales {
  Rows scale;
  Rows minimum;  // of formats that have one
};

// Columns 0-15 in the low nibbles of 16 bytes, 16-31 in the high ones.
LOWKEY_INLINE Codes nibbles(const uint8_t* quads, int j) {
  return make_codes([&](int p) __attribute__((always_inline)) {
    const U8 bytes = quad(quads, j % 4, p);
    return (j < 4 ? bytes : shift_right(bytes, 4)) & 15;
  });
}

// Sets bit 4 of byte c of each row's codes where bit 4j + c of its four bytes at `high` is set.
LOWKEY_INLINE Codes add_fifth_bits(Codes codes, const uint8_t* high, int j) {
#if defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
  // The byte that has the four bits, to all four places; then one bit of it at each.
  const int byte = j / 2 * 0x01010101;
  const int bits = j % 2 ? static_cast<int>(0x80402010u) : 0x08040201;
#endif
#if defined(__AVX2__)
  const __m128i places =
      _mm_add_epi32(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c), _mm_set1_epi32(byte));
#endif
#pragma GCC unroll 4
  for (int p = 0; p < kStripParts; ++p) {
    const U8 bytes = quad(high, 0, p);
#if defined(__AVX512F__)
    const __m512i spread = _mm512_shuffle_epi8(reinterpret_cast<__m512i>(bytes),
                                               _mm512_maskz_broadcast_i32x4(0xffff, places));
    const __mmask64 set = _mm512_test_epi8_mask(spread, _mm512_set1_epi32(bits));
    const auto code = reinterpret_cast<__m512i>(codes.part[p]);
    codes.part[p] =
        reinterpret_cast<U8>(_mm512_mask_add_epi8(code, set, code, _mm512_set1_epi8(16)));
#elif defined(__AVX2__)
    const __m256i spread =
        _mm256_shuffle_epi8(reinterpret_cast<__m256i>(bytes), _mm256_broadcastsi128_si256(places));
    const __m256i wanted = _mm256_set1_epi32(bits);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, wanted), wanted);
    codes.part[p] |= reinterpret_cast<U8>(set) & 16;
#elif defined(__ARM_FEATURE_DOTPROD)
    const I32 places = I32{0, 0x04040404, 0x08080808, 0x0c0c0c0c} + byte;
    const U8 spread = vqtbl1q_u8(bytes, reinterpret_cast<U8>(places));
    codes.part[p] |= vtstq_u8(spread, reinterpret_cast<U8>(I32{} + bits)) & 16;
#else
    // The product has no carries: bit i of a nibble lands at i + 4, i + 11, i + 18 and i + 25.
    const U32 nibble = (as_dwords(bytes) >> (4 * j)) & 15u;
    codes.part[p] |= reinterpret_cast<U8>((nibble * 0x02040810u) & 0x10101010u);
#endif
  }
  return codes;
}

template <int kBlockBytesOfRow, int kHalves, int kSubBlocks_, int kOffset_, bool kHasMinimum_>
struct Format {
  static constexpr int kBlockBytes = kBlockBytesOfRow * kStripRows;
  static constexpr int kQuads = kHalves * kStripRows * 2;  // where they begin
  static constexpr int kSubBlocks = kSubBlocks_;
  static constexpr int kOffset = kOffset_;
  static constexpr bool kHasMinimum = kHasMinimum_;
  static constexpr bool kTwoScales = false;  // one per 16 columns

  // Formats whose halves are the scales themselves.
  static LOWKEY_INLINE Scales scales(const uint8_t* block, int, int) {
    Scales result;
    result.scale = load_halves(block);
    if constexpr (kHasMinimum) result.minimum = load_halves(block + 32);
    return result;
  }
};

struct StripQ4_0 : Format<18, 1, 1, 8, false> {
  static LOWKEY_INLINE Codes codes(const uint8_t* block, int, int j) {
    return nibbles(block + kQuads, j);
  }
};

struct StripQ4_1 : Format<20, 2, 1, 0, true> {
  static LOWKEY_INLINE Codes codes(const uint8_t* block, int, int j) {
    return nibbles(block + kQuads, j);
  }
};

struct StripQ5_0 : Format<22, 1, 1, 16, false> {
  static LOWKEY_INLINE Codes codes(const uint8_t* block, int, int j) {
    return add_fifth_bits(nibbles(block + kQuads + 64, j), block + kQuads, j);
  }
};

struct StripQ5_1 : Format<24, 2, 1, 0, true> {
  static LOWKEY_INLINE Codes codes(const uint8_t* block, int, int j) {
    return add_fifth_bits(nibbles(block + kQuads + 64, j), block + kQuads, j);
  }
};

// The one type whose codes need a sign, or all eight bits.
struct StripQ8_0 : Format<34, 1, 1, kSignedCodes ? 0 : 128, false> {
  static LOWKEY_INLINE Codes codes(const uint8_t* block, int, int j) {
    return make_codes([&](int p) __attribute__((always_inline)) {
      return quad(block + kQuads, j, p) ^ (kSignedCodes ? 0 : 0x80);
    });
  }
};

// Q4_K and Q5_K: the 6-bit scale and minimum of 32 columns, times the block's; three quads hold
// them for all eight pieces.
template <int kBytes>
struct KFormat : Format<kBytes, 2, 8, 0, true> {
  static LOWKEY_INLINE Scales scales(const uint8_t* block, int sub, int) {
    const uint8_t* packed = block + 64;
    const Rows d = load_halves(block), dmin = load_halves(block + 32);
    Scales result;
#pragma GCC unroll 4
    for (int p = 0; p < kStripParts; ++p) {
      const U32 a = as_dwords(quad(packed, 0, p)), b = as_dwords(quad(packed, 1, p));
      U32 s, m;
      if (sub < 4) {
        s = (a >> (8 * sub)) & 63u;
        m = (b >> (8 * sub)) & 63u;
      } else {
        const U32 c = as_dwords(quad(packed, 2, p)) >> (8 * (sub - 4));
        s = (c & 15u) | (((a >> (8 * (sub - 4) + 6)) & 3u) << 4);
        m = ((c >> 4) & 15u) | (((b >> (8 * (sub - 4) + 6)) & 3u) << 4);
      }
      result.scale.part[p] = d.part[p] * to_float(reinterpret_cast<I32>(s));
      result.minimum.part[p] = -(dmin.part[p] * to_float(reinterpret_cast<I32>(m)));
    }
    return result;
  }
  // Two pieces share 32 bytes: the low nibbles, then the high ones.
  static LOWKEY_INLINE U8 nibble(const uint8_t* quads, int sub, int j, int p) {
    return shift_right(quad(quads, sub / 2 * 8 + j, p), sub % 2 * 4) & 15;
  }
};

struct StripQ4_K : KFormat<144> {
  static LOWKEY_INLINE Codes codes(const uint8_t* block, int sub, int j) {
    return make_codes([&](int p) __attribute__((always_inline)) {
      return nibble(block + kQuads + 3 * 64, sub, j, p);
    });
  }
};

struct StripQ5_K : KFormat<176> {
  static LOWKEY_INLINE Codes codes(const uint8_t* block, int sub, int j) {
    return make_codes([&](int p) __attribute__((always_inline)) {
      const U8 high = shift_right(quad(block + kQuads + 3 * 64, j, p), sub) & 1;
      return nibble(block + kQuads + 11 * 64, sub, j, p) | shift_left(high, 4);
    });
  }
};

struct StripQ6_K : Format<210, 1, 8, 32, false> {
  static constexpr bool kTwoScales = true;
  static LOWKEY_INLINE Codes codes(const uint8_t* block, int sub, int j) {
    const uint8_t* quads = block + kQuads;
    const int half = sub / 4, run = sub % 4;
    return make_codes([&](int p) __attribute__((always_inline)) {
      const U8 low = shift_right(quad(quads, half * 16 + run % 2 * 8 + j, p), run / 2 * 4) & 15;
      const U8 high = shift_right(quad(quads, 32 + half * 8 + j, p), 2 * run) & 3;
      return low | shift_left(high, 4);
    });
  }
  static LOWKEY_INLINE Scales scales(const uint8_t* block, int sub, int half) {
    const Rows d = load_halves(block);
    Scales result;
#pragma GCC unroll 4
    for (int p = 0; p < kStripParts; ++p) {
      const int byte = 2 * sub + half;  // of 16, one signed byte per 16 columns
      const U32 four = as_dwords(quad(block + kQuads, 48 + byte / 4, p));
      const I32 scale = reinterpret_cast<I32>(four << (24 - byte % 4 * 8)) >> 24;
      result.scale.part[p] = d.part[p] * to_float(scale);
    }
    return result;
  }
};

// -------- multiplication. Sums: running sums of sixteen rows times one input;
// mac(sums, codes, input, j) adds columns 4j..4j+3.
// kGroupsUnrolled: groups of four columns that are unrolled.

#if defined(__AVX512VNNI__)
constexpr int kInputsAtOnce = 8;
constexpr int kGroupsUnrolled = 8;

struct Sums {
  __m512i high, low;
};

LOWKEY_INLINE Sums start(int32_t at) {
  return {_mm512_setzero_si512(), _mm512_set1_epi32(at)};
}
LOWKEY_INLINE __m512i broadcast_quad(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}
// The inputs' codes: 32 high bytes, then 32 low ones.
LOWKEY_INLINE void mac(Sums& sums, const Codes& codes, const StripInput& x, int j) {
  const auto bytes = reinterpret_cast<__m512i>(codes.part[0]);
  sums.high = _mm512_dpbusd_epi32(sums.high, bytes, broadcast_quad(x.codes + 4 * j));
  sums.low = _mm512_dpbusd_epi32(sums.low, bytes, broadcast_quad(x.codes + 32 + 4 * j));
}
LOWKEY_INLINE Rows finish(const Sums& sums) {
  return {{to_float((reinterpret_cast<I32>(sums.high) << 8) + reinterpret_cast<I32>(sums.low))}};
}
#elif defined(__AVX2__)
constexpr int kInputsAtOnce = 4;
constexpr int kGroupsUnrolled = 8;

struct Sums {
  I32 part[kStripParts];
};

LOWKEY_INLINE Sums start(int32_t at) {
  Sums sums;
#pragma GCC unroll 4
  for (I32& part : sums.part) part = I32{} + at;
  return sums;
}
// The inputs' codes: 16-bit, the columns of each four in the order 0 2 1 3, so that one
// multiplication takes the even bytes of a register and another the odd ones.
LOWKEY_INLINE void mac(Sums& sums, const Codes& codes, const StripInput& x, int j) {
  int32_t even, odd;
  __builtin_memcpy(&even, x.codes + 8 * j, 4);
  __builtin_memcpy(&odd, x.codes + 8 * j + 4, 4);
#pragma GCC unroll 4
  for (int p = 0; p < kStripParts; ++p) {
    const U16 words = reinterpret_cast<U16>(codes.part[p]);
    const auto low = reinterpret_cast<__m256i>(words & 255);
    const auto high = reinterpret_cast<__m256i>(words >> 8);
    sums.part[p] += reinterpret_cast<I32>(_mm256_madd_epi16(low, _mm256_set1_epi32(even))) +
                    reinterpret_cast<I32>(_mm256_madd_epi16(high, _mm256_set1_epi32(odd)));
  }
}
LOWKEY_INLINE Rows finish(const Sums& sums) {
  return make_rows([&](int p) __attribute__((always_inline)) { return to_float(sums.part[p]); });
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr int kInputsAtOnce = 2;
constexpr int kGroupsUnrolled = 8;

struct Sums {
  int32x4_t high[kStripParts], low[kStripParts];
};

LOWKEY_INLINE Sums start(int32_t at) {
  Sums sums;
#pragma GCC unroll 4
  for (int p = 0; p < kStripParts; ++p) {
    sums.high[p] = vdupq_n_s32(0);
    sums.low[p] = vdupq_n_s32(at);
  }
  return sums;
}
LOWKEY_INLINE int8x16_t broadcast_quad(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
// The inputs' codes: 32 high bytes, then 32 low ones.
LOWKEY_INLINE void mac(Sums& sums, const Codes& codes, const StripInput& x, int j) {
  const int8x16_t high = broadcast_quad(x.codes + 4 * j);
  const int8x16_t low = broadcast_quad(x.codes + 32 + 4 * j);
#pragma GCC unroll 4
  for (int p = 0; p < kStripParts; ++p) {
    const int8x16_t bytes = vreinterpretq_s8_u8(codes.part[p]);
    sums.high[p] = vdotq_s32(sums.high[p], bytes, high);
    sums.low[p] = vdotq_s32(sums.low[p], bytes, low);
  }
}
LOWKEY_INLINE Rows finish(const Sums& sums) {
  return make_rows([&](int p) __attribute__((always_inline)) {
    return to_float((sums.high[p] << 8) + sums.low[p]);
  });
}
#else
constexpr int kInputsAtOnce = 2;
constexpr int kGroupsUnrolled = 1;  // eight take GCC 12 half a minute to compile

struct Sums {
  I32 part[kStripParts];
};

LOWKEY_INLINE Sums start(int32_t at) {
  Sums sums;
#pragma GCC unroll 4
  for (I32& part : sums.part) part = I32{} + at;
  return sums;
}
// The inputs' codes: 16-bit, in order.
LOWKEY_INLINE void mac(Sums& sums, const Codes& codes, const StripInput& x, int j) {
  int16_t values[4];
  __builtin_memcpy(values, x.codes + 8 * j, 8);
#pragma GCC unroll 4
  for (int p = 0; p < kStripParts; ++p) {
    const U32 quads = as_dwords(codes.part[p]);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      sums.part[p] += reinterpret_cast<I32>((quads >> (8 * c)) & 255u) * values[c];
    }
  }
}
LOWKEY_INLINE Rows finish(const Sums& sums) {
  return make_rows([&](int p) __attribute__((always_inline)) { return to_float(sums.part[p]); });
}
#endif

// A large block is not read front to back (Q6_K: 7 GB/s where 24 is possible), so the next one is
// asked for while this one is being used.
template <typename Format>
LOWKEY_INLINE void prefetch_piece(const uint8_t* block, int sub) {
  constexpr int kBytes = (Format::kBlockBytes / Format::kSubBlocks + 63) / 64 * 64;
#pragma GCC unroll 16
  for (int at = 0; at < kBytes; at += 64) __builtin_prefetch(block + sub * kBytes + at);
}

// Adds the products of a piece's columns that share a scale: all 32, or the first or second 16.
// x: the piece's codes of the first input, x_stride apart.
template <typename Format, int kInputs, int kSet>
LOWKEY_INLINE void add_columns(const uint8_t* block, int sub, const StripInput* x, int64_t x_stride,
                               Rows (&result)[kInputs]) {
  constexpr int kGroups = Format::kTwoScales ? 4 : 8;
  Sums sums[kInputs];
#pragma GCC unroll 8
  for (int i = 0; i < kInputs; ++i) {
    const StripInput& in = x[i * x_stride];
    const int32_t sum = Format::kTwoScales ? in.half_sums[kSet] : in.half_sums[0] + in.half_sums[1];
    sums[i] = start(-Format::kOffset * sum);
  }
#pragma GCC unroll kGroupsUnrolled
  for (int j = kSet * kGroups; j < (kSet + 1) * kGroups; ++j) {
    const Codes codes = Format::codes(block, sub, j);
#pragma GCC unroll 8
    for (int i = 0; i < kInputs; ++i) mac(sums[i], codes, x[i * x_stride], j);
  }
  const Scales scales = Format::scales(block, sub, kSet);
#pragma GCC unroll 8
  for (int i = 0; i < kInputs; ++i) {
    const StripInput& in = x[i * x_stride];
    const Rows dots = finish(sums[i]);
#pragma GCC unroll 4
    for (int p = 0; p < kStripParts; ++p) {
      F32& out = result[i].part[p];
      out = fused(dots.part[p], scales.scale.part[p] * splat(in.scale), out);
      if constexpr (Format::kHasMinimum) {
        out = fused(scales.minimum.part[p], splat(in.sum), out);
      }
    }
  }
}

// The rows of a strip times `kInputs` inputs from `input` on.
template <typename Format, int kInputs>
LOWKEY_INLINE void dot_strip(const StripDotArgs& a, int64_t strip, int64_t input) {
  const int64_t num_pieces = a.cols / kBlockColumns;
  const auto* block = reinterpret_cast<const uint8_t*>(a.strips) +
                      strip * (num_pieces / Format::kSubBlocks) * Format::kBlockBytes;
  const StripInput* x = a.x + input * num_pieces;
  Rows result[kInputs] = {};
  for (int64_t b = 0; b < num_pieces; b += Format::kSubBlocks, block += Format::kBlockBytes) {
    for (int sub = 0; sub < Format::kSubBlocks; ++sub, ++x) {
      if constexpr (Format::kSubBlocks > 1) {
        prefetch_piece<Format>(block + Format::kBlockBytes, sub);
      }
      add_columns<Format, kInputs, 0>(block, sub, x, num_pieces, result);
      if constexpr (Format::kTwoScales) {
        add_columns<Format, kInputs, 1>(block, sub, x, num_pieces, result);
      }
    }
  }
  const int64_t first = strip * kStripRows;
  const int64_t left = a.num_rows - first;
#pragma GCC unroll 8
  for (int i = 0; i < kInputs; ++i) {
    float* y = a.y + (input + i) * a.y_stride + first;
    float values[kStripRows] = {};
    const auto bytes = static_cast<size_t>(left < kStripRows ? left : kStripRows) * sizeof(float);
    if (a.bias) __builtin_memcpy(values, a.bias + first, bytes);
#pragma GCC unroll 4
    for (int p = 0; p < kStripParts; ++p) {
      store_f32(values + p * kWidth, result[i].part[p] + load_f32(values + p * kWidth));
    }
    __builtin_memcpy(y, values, bytes);
  }
}

// The inputs from `input` on, in tiles of kInputs, then of half as many.
template <typename Format, int kInputs>
LOWKEY_INLINE void dot_inputs(const StripDotArgs& a, int64_t strip, int64_t input) {
  for (; input + kInputs <= a.num_inputs; input += kInputs) {
    dot_strip<Format, kInputs>(a, strip, input);
  }
  if constexpr (kInputs > 1) dot_inputs<Format, kInputs / 2>(a, strip, input);
}

template <typename Format>
void strip_dot(const StripDotArgs& a) noexcept {
  for (int64_t strip = 0; strip * kStripRows < a.num_rows; ++strip) {
    dot_inputs<Format, kInputsAtOnce>(a, strip, 0);
  }
}

// -------- inputs

constexpr int kInputParts = kBlockColumns / kWidth;

// 32 codes, at most kMaxCode in magnitude, where mac() looks for them.
LOWKEY_INLINE void store_codes(const I32 (&codes)[kInputParts], uint8_t* out) {
#if defined(__AVX512VNNI__)
#pragma GCC unroll 2
  for (int p = 0; p < 2; ++p) {
    const auto high = reinterpret_cast<__m512i>((codes[p] + 128) >> 8);
    const auto low = reinterpret_cast<__m512i>(codes[p]);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * p),
                     _mm512_maskz_cvtepi32_epi8(0xffff, high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 32 + 16 * p),
                     _mm512_maskz_cvtepi32_epi8(0xffff, low));
  }
#elif defined(__AVX2__)
#pragma GCC unroll 2
  for (int p = 0; p < 4; p += 2) {
    const __m256i a = _mm256_shuffle_epi32(reinterpret_cast<__m256i>(codes[p]), 0xd8);
    const __m256i b = _mm256_shuffle_epi32(reinterpret_cast<__m256i>(codes[p + 1]), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * p),
                        _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
  }
#elif defined(__ARM_FEATURE_DOTPROD)
#pragma GCC unroll 4
  for (int p = 0; p < kInputParts; p += 2) {
    const int16x8_t words = vcombine_s16(vmovn_s32(codes[p]), vmovn_s32(codes[p + 1]));
    vst1_u8(out + 4 * p, vreinterpret_u8_s8(vrshrn_n_s16(words, 8)));
    vst1_u8(out + 32 + 4 * p, vreinterpret_u8_s8(vmovn_s16(words)));
  }
#else
  int16_t values[kBlockColumns];
  for (int c = 0; c < kBlockColumns; ++c) {
    values[c] = static_cast<int16_t>(codes[c / kWidth][c % kWidth]);
  }
  __builtin_memcpy(out, values, sizeof(values));
#endif
}

// Of all lanes of x; f must not care about their order.
template <typename F>
LOWKEY_INLINE int32_t reduce(I32 x, F f) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const auto wide = reinterpret_cast<__m512i>(x);
  const __m256i eight = f(_mm512_maskz_extracti64x4_epi64(0xff, wide, 0),
                          _mm512_maskz_extracti64x4_epi64(0xff, wide, 1));
#else
  const auto eight = reinterpret_cast<__m256i>(x);
#endif
  __m128i four = f(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = f(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(f(four, _mm_shuffle_epi32(four, 0xb1)));
#else
  return f(f(x[0], x[1]), f(x[2], x[3]));
#endif
}

struct Add {
#if defined(__AVX2__)
  LOWKEY_INLINE __m256i operator()(__m256i a, __m256i b) const {
    return _mm256_add_epi32(a, b);
  }
  LOWKEY_INLINE __m128i operator()(__m128i a, __m128i b) const {
    return _mm_add_epi32(a, b);
  }
#endif
  LOWKEY_INLINE int32_t operator()(int32_t a, int32_t b) const {
    return a + b;
  }
};

struct Max {
#if defined(__AVX2__)
  LOWKEY_INLINE __m256i operator()(__m256i a, __m256i b) const {
    return _mm256_max_epi32(a, b);
  }
  LOWKEY_INLINE __m128i operator()(__m128i a, __m128i b) const {
    return _mm_max_epi32(a, b);
  }
#endif
  LOWKEY_INLINE int32_t operator()(int32_t a, int32_t b) const {
    return a > b ? a : b;
  }
};

void quantize(const float* x, int64_t cols, StripInput* out) noexcept {
  constexpr int32_t kInfinity = 0x7f800000;
  for (; cols > 0; cols -= kBlockColumns, x += kBlockColumns, ++out) {
    // As integers magnitudes are in order, infinity and NaN on top.
    I32 largest = {};
#pragma GCC unroll 8
    for (int p = 0; p < kInputParts; ++p) {
      const I32 bits = reinterpret_cast<I32>(load_f32(x + p * kWidth)) & 0x7fffffff;
      largest = bits > largest ? bits : largest;
    }
    const int32_t max_bits = reduce(largest, Max());
    float max;
    __builtin_memcpy(&max, &max_bits, 4);
    const bool finite = max_bits < kInfinity;
    const bool tiny = max < 1e-34f;  // 1 / scale would overflow
    const float inverse = finite && !tiny ? kMaxCode / max : 0.0f;
    I32 codes[kInputParts];
    I32 sums[2] = {};
#pragma GCC unroll 8
    for (int p = 0; p < kInputParts; ++p) {
      // Adding 1.5 * 2^23 rounds to an integer, half to even, in the low bits. Infinity times zero
      // is a NaN: its bits are masked away.
      const F32 product = load_f32(x + p * kWidth) * splat(inverse);
      const I32 rounded = reinterpret_cast<I32>(product + splat(12582912.0f)) - 0x4b400000;
      codes[p] = rounded & (finite ? -1 : 0);
      sums[p * 2 / kInputParts] += codes[p];
    }
    store_codes(codes, out->codes);
    out->scale = finite ? (tiny ? 0.0f : max * (1.0f / kMaxCode)) : __builtin_nanf("");
    out->half_sums[0] = reduce(sums[0], Add());
    out->half_sums[1] = reduce(sums[1], Add());
    out->sum = out->scale * static_cast<float>(out->half_sums[0] + out->half_sums[1]);
  }
}

}  // namespace

const StripKernels& strip_table() {
  static constexpr StripKernels kTable = {
      quantize,
      {{nullptr, nullptr, nullptr, strip_dot<StripQ4_0>, strip_dot<StripQ4_1>, strip_dot<StripQ5_0>,
        strip_dot<StripQ5_1>, strip_dot<StripQ8_0>, strip_dot<StripQ4_K>, strip_dot<StripQ5_K>,
        strip_dot<StripQ6_K>}},
  };
  return kTable;
}

}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
