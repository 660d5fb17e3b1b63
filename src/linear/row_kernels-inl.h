// Included once per instruction set by row_kernels_<isa>.cc, which defines LOWKEY_KERNEL_NAMESPACE
// and is compiled with that set's flags. Nothing but intrinsics and plain data may be included
// here: an inline function compiled with AVX-512 flags could be the copy the linker keeps for
// everyone (ODR).
//
// A format is a function that yields the next 32 weights of a row as floats in registers
// (kParts of them); dot products and unpacking are written once over it. Floats, bf16 and Q8_0 are
// read at the speed of memory (one core of Zen 4, one input: 21, 25 and 18 GB/s where a plain read
// made 29, on a busy machine); 4-bit blocks at 8 GB/s, limited by decoding. Multiplying codes by
// 8-bit inputs instead is another kernel behind the same table.
#include "linear/row_kernels.h"
#include "linear/simd-inl.h"

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

constexpr int kParts = kGroupColumns / kWidth;

// Inputs that share a row of weights in one pass; their sums stay in registers. Never two rows at a
// time: memory is read front to back, or it gives half (25 GB/s became 11 with four rows abreast).
#if defined(__AVX512F__)
constexpr int kInputsAtOnce = 8;
#elif defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
constexpr int kInputsAtOnce = 2;
#else
constexpr int kInputsAtOnce = 1;
#endif

// 32 weights, or 32 running sums.
struct Group {
  F32 part[kParts];
};

LOWKEY_INLINE float tree_sum(Group sums) {
#pragma GCC unroll 8
  for (int n = kParts / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) sums.part[i] += sums.part[i + n];
  }
  return lane_sum(sums.part[0]);
}

// -------- formats. load(row, g): weights [32 g, 32 g + 32) of the row, computed exactly as
// load/tensor.cc does, whose comments describe the blocks.

template <F32 (*load_part)(const uint8_t*), int kBytes>
struct Plain {
  static constexpr bool kHasTail = true;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* p = row + g * kGroupColumns * kBytes;
    Group group;
#pragma GCC unroll 8
    for (int i = 0; i < kParts; ++i) group.part[i] = load_part(p + i * kWidth * kBytes);
    return group;
  }
  // The last, incomplete group: `count` weights, then zeros.
  static LOWKEY_INLINE Group load_tail(const uint8_t* row, int64_t g, int64_t count) {
    uint8_t padded[kGroupColumns * kBytes] = {};
    __builtin_memcpy(padded, row + g * kGroupColumns * kBytes, static_cast<size_t>(count) * kBytes);
    return load(padded, 0);
  }
};

LOWKEY_INLINE F32 load_f32_bytes(const uint8_t* p) {
  return load_f32(p);
}

// Codes 0-15 of a 32-element block in the low nibbles of 16 bytes, 16-31 in the high ones.
LOWKEY_INLINE void split_nibbles(const uint8_t* codes, I32 (&out)[kParts]) {
#pragma GCC unroll 8
  for (int i = 0; i < kParts / 2; ++i) {
    const I32 bytes = widen_u8(codes + i * kWidth);
    out[i] = bytes & 15;
    out[i + kParts / 2] = bytes >> 4;
  }
}

LOWKEY_INLINE U32 lane_numbers() {
  U32 lane = {};
  for (int i = 0; i < kWidth; ++i) lane[i] = static_cast<uint32_t>(i);
  return lane;
}

// Puts bit i of `high` on top of the `below` bits of code i.
LOWKEY_INLINE void add_high_bits(const uint8_t* high, int below, I32 (&codes)[kParts]) {
  uint32_t bits;
  __builtin_memcpy(&bits, high, 4);
  const U32 lane = lane_numbers();
#pragma GCC unroll 8
  for (int i = 0; i < kParts; ++i) {
    const U32 bit = ((U32{} + (bits >> (i * kWidth))) >> lane) & 1u;
    codes[i] |= reinterpret_cast<I32>(bit << below);
  }
}

// Code i at bits 2i of 64.
LOWKEY_INLINE void split_pairs(const uint8_t* packed, I32 (&codes)[kParts]) {
  const U32 shift = lane_numbers() * 2u;
#pragma GCC unroll 8
  for (int i = 0; i < kParts; ++i) {
    uint32_t word;  // 16 codes, of which this part's are the upper, the lower, or a quarter
    __builtin_memcpy(&word, packed + i * kWidth / 16 * 4, 4);
    const U32 bits = (U32{} + (word >> (i * kWidth % 16 * 2))) >> shift;
    codes[i] = reinterpret_cast<I32>(bits & 3u);
  }
}

LOWKEY_INLINE Group scaled(const I32 (&codes)[kParts], int offset, float scale) {
  Group group;
#pragma GCC unroll 8
  for (int i = 0; i < kParts; ++i) group.part[i] = splat(scale) * to_float(codes[i] - offset);
  return group;
}

LOWKEY_INLINE Group scaled_plus(const I32 (&codes)[kParts], float scale, float minimum) {
  Group group;
#pragma GCC unroll 8
  for (int i = 0; i < kParts; ++i) {
    group.part[i] = splat(scale) * to_float(codes[i]) + splat(minimum);
  }
  return group;
}

struct Q4_0 {
  static constexpr bool kHasTail = false;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* block = row + g * 18;
    I32 codes[kParts];
    split_nibbles(block + 2, codes);
    return scaled(codes, 8, half_at(block));
  }
};

struct Q4_1 {
  static constexpr bool kHasTail = false;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* block = row + g * 20;
    I32 codes[kParts];
    split_nibbles(block + 4, codes);
    return scaled_plus(codes, half_at(block), half_at(block + 2));
  }
};

struct Q5_0 {
  static constexpr bool kHasTail = false;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* block = row + g * 22;
    I32 codes[kParts];
    split_nibbles(block + 6, codes);
    add_high_bits(block + 2, 4, codes);
    return scaled(codes, 16, half_at(block));
  }
};

struct Q5_1 {
  static constexpr bool kHasTail = false;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* block = row + g * 24;
    I32 codes[kParts];
    split_nibbles(block + 8, codes);
    add_high_bits(block + 4, 4, codes);
    return scaled_plus(codes, half_at(block), half_at(block + 2));
  }
};

struct Q2_1 {
  static constexpr bool kHasTail = false;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* block = row + g * 12;
    I32 codes[kParts];
    split_pairs(block + 4, codes);
    return scaled_plus(codes, half_at(block), half_at(block + 2));
  }
};

struct Q3_1 {
  static constexpr bool kHasTail = false;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* block = row + g * 16;
    I32 codes[kParts];
    split_pairs(block + 4, codes);
    add_high_bits(block + 12, 2, codes);
    return scaled_plus(codes, half_at(block), half_at(block + 2));
  }
};

struct Q8_0 {
  static constexpr bool kHasTail = false;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* block = row + g * 34;
    const F32 scale = splat(half_at(block));
    Group group;
#pragma GCC unroll 8
    for (int i = 0; i < kParts; ++i) {
      group.part[i] = scale * to_float(widen_i8(block + 2 + i * kWidth));
    }
    return group;
  }
};

// Q4_K and Q5_K: the 6-bit scale and minimum of 32 elements, times the block's.
struct ScaleMin {
  float scale, minimum;
};

LOWKEY_INLINE ScaleMin k_scale_min(const uint8_t* block, int64_t pair) {
  const uint8_t* packed = block + 4;
  int s, m;
  if (pair < 4) {
    s = packed[pair] & 63;
    m = packed[pair + 4] & 63;
  } else {
    s = (packed[pair + 4] & 15) | (packed[pair - 4] >> 6) << 4;
    m = (packed[pair + 4] >> 4) | (packed[pair] >> 6) << 4;
  }
  return {half_at(block) * static_cast<float>(s), half_at(block + 2) * static_cast<float>(m)};
}

LOWKEY_INLINE Group scaled_minus(const I32 (&codes)[kParts], ScaleMin by) {
  Group group;
#pragma GCC unroll 8
  for (int i = 0; i < kParts; ++i) {
    group.part[i] = splat(by.scale) * to_float(codes[i]) - splat(by.minimum);
  }
  return group;
}

struct Q4_K {
  static constexpr bool kHasTail = false;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* block = row + g / 8 * 144;
    const int64_t pair = g % 8;
    const uint8_t* bytes = block + 16 + pair / 2 * 32;
    const int shift = pair % 2 * 4;
    I32 codes[kParts];
#pragma GCC unroll 8
    for (int i = 0; i < kParts; ++i) codes[i] = (widen_u8(bytes + i * kWidth) >> shift) & 15;
    return scaled_minus(codes, k_scale_min(block, pair));
  }
};

struct Q5_K {
  static constexpr bool kHasTail = false;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* block = row + g / 8 * 176;
    const int64_t pair = g % 8;
    const uint8_t* high_bits = block + 16;
    const uint8_t* bytes = block + 48 + pair / 2 * 32;
    const int shift = pair % 2 * 4;
    const int high_shift = static_cast<int>(pair);
    I32 codes[kParts];
#pragma GCC unroll 8
    for (int i = 0; i < kParts; ++i) {
      const I32 high = (widen_u8(high_bits + i * kWidth) >> high_shift) & 1;
      codes[i] = ((widen_u8(bytes + i * kWidth) >> shift) & 15) | (high << 4);
    }
    return scaled_minus(codes, k_scale_min(block, pair));
  }
};

struct Q6_K {
  static constexpr bool kHasTail = false;
  static LOWKEY_INLINE Group load(const uint8_t* row, int64_t g) {
    const uint8_t* block = row + g / 8 * 210;
    const int64_t half = g % 8 / 4;
    const int run = static_cast<int>(g % 4);
    const uint8_t* bytes = block + half * 64 + run % 2 * 32;
    const uint8_t* high_bits = block + 128 + half * 32;
    const uint8_t* scales = block + 192 + half * 8 + 2 * run;
    const float scale = half_at(block + 208);
    const int shift = run / 2 * 4;
    Group group;
#pragma GCC unroll 8
    for (int i = 0; i < kParts; ++i) {
      const I32 low = (widen_u8(bytes + i * kWidth) >> shift) & 15;
      const I32 high = (widen_u8(high_bits + i * kWidth) >> (2 * run)) & 3;
      const float s = scale * static_cast<float>(static_cast<int8_t>(scales[i * kWidth / 16]));
      group.part[i] = splat(s) * to_float((low | (high << 4)) - 32);
    }
    return group;
  }
};

// -------- dot products

template <typename Format, int kInputs>
LOWKEY_INLINE void dot_row(const DotArgs& a, int64_t row, int64_t input) {
  const auto* weights = reinterpret_cast<const uint8_t*>(a.weights) + row * a.row_bytes;
  const float* x = a.x + input * a.x_stride;
  Group sums[kInputs] = {};
  const auto accumulate = [&](const Group& w, int64_t g) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int i = 0; i < kInputs; ++i) {
#pragma GCC unroll 8
      for (int p = 0; p < kParts; ++p) {
        const F32 values = load_f32(x + i * a.x_stride + g * kGroupColumns + p * kWidth);
        sums[i].part[p] = fused(w.part[p], values, sums[i].part[p]);
      }
    }
  };
  const int64_t groups = a.cols / kGroupColumns;
  for (int64_t g = 0; g < groups; ++g) accumulate(Format::load(weights, g), g);
  if constexpr (Format::kHasTail) {
    const int64_t tail = a.cols - groups * kGroupColumns;
    if (tail > 0) accumulate(Format::load_tail(weights, groups, tail), groups);
  }
  const float bias = a.bias ? a.bias[row] : 0.0f;
#pragma GCC unroll 8
  for (int i = 0; i < kInputs; ++i) a.y[(input + i) * a.y_stride + row] = tree_sum(sums[i]) + bias;
}

// The inputs from `input` on, when they are at most kInputs.
template <typename Format, int kInputs>
LOWKEY_INLINE void dot_rest(const DotArgs& a, int64_t row, int64_t input) {
  if constexpr (kInputs > 0) {
    if (a.num_inputs - input == kInputs) {
      dot_row<Format, kInputs>(a, row, input);
    } else {
      dot_rest<Format, kInputs - 1>(a, row, input);
    }
  }
}

// A tile of inputs goes over all rows before the next begins, so that it stays in the first-level
// cache: sixteen inputs over each row in turn took three times as long as eight.
template <typename Format>
void dot(const DotArgs& a) noexcept {
  int64_t input = 0;
  for (; input + kInputsAtOnce < a.num_inputs; input += kInputsAtOnce) {
    for (int64_t row = 0; row < a.num_rows; ++row) dot_row<Format, kInputsAtOnce>(a, row, input);
  }
  for (int64_t row = 0; row < a.num_rows; ++row) dot_rest<Format, kInputsAtOnce>(a, row, input);
}

template <typename Format>
void to_f32(const std::byte* row, int64_t cols, float* out) noexcept {
  const auto* bytes = reinterpret_cast<const uint8_t*>(row);
  const int64_t groups = cols / kGroupColumns;
  for (int64_t g = 0; g < groups; ++g) {
    const Group group = Format::load(bytes, g);
#pragma GCC unroll 8
    for (int i = 0; i < kParts; ++i) {
      store_f32(out + g * kGroupColumns + i * kWidth, group.part[i]);
    }
  }
  if constexpr (Format::kHasTail) {
    const int64_t tail = cols - groups * kGroupColumns;
    if (tail > 0) {
      const Group group = Format::load_tail(bytes, groups, tail);
      __builtin_memcpy(out + groups * kGroupColumns, &group,
                       static_cast<size_t>(tail) * sizeof(float));
    }
  }
}

// A plain loop, which the compiler turns into vectors of this instruction set.
void to_bf16(const float* in, int64_t count, BFloat16* out) noexcept {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t x;
    __builtin_memcpy(&x, in + i, 4);
    const uint32_t rounded = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;
    const uint32_t nan = (x >> 16) | 0x40u;
    out[i].bits = static_cast<uint16_t>((x & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
  }
}

// -------- elementwise

// Calls f on kWidth elements at a time, then on what is left, padded with zeros.
// in0 [+ in1] -> out; f must map zeros to something finite.
template <typename F>
LOWKEY_INLINE void for_each_part(const float* in0, const float* in1, float* out, int64_t count,
                                 F f) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    store_f32(out + i, f(load_f32(in0 + i), load_f32(in1 + i)));
  }
  if (i == count) return;
  const auto bytes = static_cast<size_t>(count - i) * sizeof(float);
  float a[kWidth] = {}, b[kWidth] = {};
  __builtin_memcpy(a, in0 + i, bytes);
  __builtin_memcpy(b, in1 + i, bytes);
  store_f32(a, f(load_f32(a), load_f32(b)));
  __builtin_memcpy(out + i, a, bytes);
}

void rms_norm(const float* x, const float* weight, float eps, int64_t cols, float* out) noexcept {
  Group sums = {};
  int64_t i = 0;
  for (; i + kGroupColumns <= cols; i += kGroupColumns) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      const F32 values = load_f32(x + i + p * kWidth);
      sums.part[p] = fused(values, values, sums.part[p]);
    }
  }
  float sum = tree_sum(sums);
  for (; i < cols; ++i) sum += x[i] * x[i];
  const float factor = 1.0f / __builtin_sqrtf(sum / static_cast<float>(cols) + eps);
  for_each_part(
      x, weight, out,
      cols, [&](F32 a, F32 w) __attribute__((always_inline)) { return a * splat(factor) * w; });
}

// exp(x) for x <= 0, as in attention/: 2^n times Cephes' degree-6 polynomial. Relative error below
// 2e-7 on [-87, 0]; anything smaller gives 0.
LOWKEY_INLINE F32 exp_nonpositive(F32 x) {
  const F32 lowest = splat(-87.0f);
  const F32 clamped = x > lowest ? x : lowest;
  const F32 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const F32 n = fused(clamped, splat(1.44269504088896341f), magic) - magic;
  F32 r = fused(n, splat(-0.693359375f), clamped);
  r = fused(n, splat(2.12194440e-4f), r);
  F32 p = splat(1.9875691500e-4f);
  p = fused(p, r, splat(1.3981999507e-3f));
  p = fused(p, r, splat(8.3334519073e-3f));
  p = fused(p, r, splat(4.1665795894e-2f));
  p = fused(p, r, splat(1.6666665459e-1f));
  p = fused(p, r, splat(5.0000001201e-1f));
  p = fused(p * r, r, r) + splat(1.0f);
  const I32 exponent = (__builtin_convertvector(n, I32) + 127) << 23;
  const F32 result = p * reinterpret_cast<F32>(exponent);
  return x > lowest ? result : F32{};
}

// A row's mean and the mean of its squared distances from it: two passes, so that nothing cancels.
void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t cols,
                float* out) noexcept {
  const auto mean_of = [&](float center, auto f) __attribute__((always_inline)) {
    Group sums = {};
    int64_t i = 0;
    for (; i + kGroupColumns <= cols; i += kGroupColumns) {
#pragma GCC unroll 8
      for (int p = 0; p < kParts; ++p) {
        sums.part[p] = f(load_f32(x + i + p * kWidth) - splat(center), sums.part[p]);
      }
    }
    float sum = tree_sum(sums);
    for (; i < cols; ++i) sum = f(x[i] - center, sum);
    return sum / static_cast<float>(cols);
  };
  const float mean = mean_of(
      0.0f, [](auto value, auto sum) __attribute__((always_inline)) { return sum + value; });
  const float variance = mean_of(
      mean,
      [](auto value, auto sum) __attribute__((always_inline)) { return sum + value * value; });
  const float factor = 1.0f / __builtin_sqrtf(variance + eps);
  for_each_part(
      x, weight, out, cols, [&](F32 a, F32 w) __attribute__((always_inline)) {
        return (a - splat(mean)) * splat(factor) * w;
      });
  if (bias == nullptr) return;
  for_each_part(
      out, bias, out, cols, [](F32 a, F32 b) __attribute__((always_inline)) { return a + b; });
}

// -------- activations. The final product with x keeps NaN.

// sigmoid(x) from t = exp(-|x|), which never overflows: 1 / (1 + t) or t / (1 + t).
LOWKEY_INLINE F32 sigmoid_of(F32 x) {
  const F32 t = exp_nonpositive(x > F32{} ? -x : x);
  const F32 numerator = x > F32{} ? splat(1.0f) : t;
  return numerator / (splat(1.0f) + t);
}

LOWKEY_INLINE F32 silu_of(F32 x) {
  return x * sigmoid_of(x);
}

// x times the normal distribution's integral up to x, from the tail's h(|x|) = erfc(|x| / sqrt 2) /
// 2: with t = 1 / (1 + 0.4 |x|), h = t / 2 exp(p(t) - x^2 / 2). Our own fit of p on [0, 13], off by
// 1e-7.
LOWKEY_INLINE F32 gelu_of(F32 x) {
  const F32 a = x > F32{} ? x : -x;
  const F32 t = splat(1.0f) / fused(splat(0.4f), a, splat(1.0f));
  F32 p = splat(0.192793176f);
  p = fused(p, t, splat(-0.986476541f));
  p = fused(p, t, splat(1.97053838f));
  p = fused(p, t, splat(-1.77598166f));
  p = fused(p, t, splat(0.558664382f));
  p = fused(p, t, splat(-0.188225329f));
  p = fused(p, t, splat(0.373770446f));
  p = fused(p, t, splat(0.996877253f));
  p = fused(p, t, splat(-1.14196002f));
  const F32 tail = splat(0.5f) * t * exp_nonpositive(fused(splat(-0.5f) * a, a, p));
  return x * (x > F32{} ? splat(1.0f) - tail : tail);
}

// 0.5 x (1 + tanh(u)) is x sigmoid(2u); u = sqrt(2 / pi) (x + 0.044715 x^3).
LOWKEY_INLINE F32 gelu_tanh_of(F32 x) {
  const F32 cubic = fused(splat(0.044715f) * x * x, x, x);
  return x * sigmoid_of(splat(1.5957691216057308f) * cubic);
}

LOWKEY_INLINE F32 relu_of(F32 x) {
  return x < F32{} ? F32{} : x;
}

template <F32 (*f)(F32)>
void activate(float* x, int64_t count) noexcept {
  for_each_part(
      x, x, x, count, [](F32 a, F32) __attribute__((always_inline)) { return f(a); });
}

template <F32 (*f)(F32)>
void gate(float* x, const float* y, int64_t count) noexcept {
  for_each_part(
      x, y, x, count, [](F32 a, F32 b) __attribute__((always_inline)) { return f(a) * b; });
}

template <F32 (*f)(F32)>
constexpr ActivationKernels activation_kernels() {
  return {activate<f>, gate<f>};
}

// tanh: a polynomial in x^2 near zero (Cephes' tanhf), else from exp(-2 |x|). NaN stays.
LOWKEY_INLINE F32 tanh_of(F32 x) {
  const F32 a = x < F32{} ? -x : x;
  const F32 square = x * x;
  F32 p = splat(-5.70498872745e-3f);
  p = fused(p, square, splat(2.06390887954e-2f));
  p = fused(p, square, splat(-5.37397155531e-2f));
  p = fused(p, square, splat(1.33314422036e-1f));
  p = fused(p, square, splat(-3.33332819422e-1f));
  const F32 near = fused(p * square, x, x);
  const F32 t = exp_nonpositive(splat(-2.0f) * a);
  const F32 magnitude = (splat(1.0f) - t) / (splat(1.0f) + t);
  const F32 far = x < F32{} ? -magnitude : magnitude;
  return a > splat(0.625f) ? far : near;
}

void softcap(float* x, int64_t count, float cap) noexcept {
  for_each_part(
      x, x, x, count, [&](F32 a, F32) __attribute__((always_inline)) {
        return splat(cap) * tanh_of(a / splat(cap));
      });
}

void add(float* x, const float* y, int64_t count) noexcept {
  for_each_part(
      x, y, x, count, [](F32 a, F32 b) __attribute__((always_inline)) { return a + b; });
}

void scale(float* x, float factor, int64_t count) noexcept {
  for_each_part(
      x, x, x, count, [&](F32 a, F32) __attribute__((always_inline)) { return a * splat(factor); });
}

void add_scaled(float* x, const float* y, float factor, int64_t count) noexcept {
  for_each_part(
      x, y, x, count, [&](F32 a, F32 b) __attribute__((always_inline)) {
        return fused(b, splat(factor), a);
      });
}

void rotate(float* head, const float* cos, const float* sin, int64_t half_dim) noexcept {
  float* __restrict low = head;
  float* __restrict high = head + half_dim;
  for (int64_t c = 0; c < half_dim; ++c) {
    const float a = low[c];
    const float b = high[c];
    low[c] = a * cos[c] - b * sin[c];
    high[c] = b * cos[c] + a * sin[c];
  }
}

template <typename Format>
constexpr FormatKernels format_kernels() {
  return {dot<Format>, to_f32<Format>};
}

}  // namespace

const RowKernels& table() {
  static constexpr RowKernels kTable = {
      {{
          format_kernels<Plain<load_f32_bytes, 4>>(),
          format_kernels<Plain<load_f16, 2>>(),
          format_kernels<Plain<load_bf16, 2>>(),
          format_kernels<Q4_0>(),
          format_kernels<Q4_1>(),
          format_kernels<Q5_0>(),
          format_kernels<Q5_1>(),
          format_kernels<Q8_0>(),
          format_kernels<Q4_K>(),
          format_kernels<Q5_K>(),
          format_kernels<Q6_K>(),
          format_kernels<Q2_1>(),
          format_kernels<Q3_1>(),
      }},
      to_bf16,
      rms_norm,
      layer_norm,
      activation_kernels<silu_of>(),
      activation_kernels<gelu_of>(),
      activation_kernels<gelu_tanh_of>(),
      activation_kernels<relu_of>(),
      softcap,
      add,
      scale,
      add_scaled,
      rotate,
  };
  return kTable;
}

}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
