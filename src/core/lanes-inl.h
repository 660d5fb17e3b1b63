#pragma once
// Vectors of 16 floats for kernel files: one AVX-512 register, two AVX2, four SSE, by GCC's and
// Clang's vector extensions; for NEON four registers by name (lanes_neon-inl.h). Included once per
// instruction set by a file that defines LOWKEY_KERNEL_NAMESPACE and is compiled with that set's
// flags. Nothing but intrinsics and our layout arithmetic may be included in such a file: an inline
// function of the standard library compiled with AVX-512 flags could be the copy the linker keeps
// for everyone (ODR).
#include <cstddef>
#include <cstdint>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "core/half.h"

// Vectors wider than the target's registers have no stable calling convention: nothing that takes
// one may be called.
#define LOWKEY_INLINE inline __attribute__((always_inline))

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

constexpr int kVectorFloats = 16;

}  // namespace
}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey

#if defined(__ARM_FEATURE_DOTPROD)
#include "core/lanes_neon-inl.h"
#endif

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

#if !defined(__ARM_FEATURE_DOTPROD)
typedef float F32x16 __attribute__((vector_size(64)));
typedef float F32x16U __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t I32x16 __attribute__((vector_size(64)));
typedef int32_t I32x16U __attribute__((vector_size(64), aligned(4), may_alias));

LOWKEY_INLINE F32x16 load(const float* p) {
  return *reinterpret_cast<const F32x16U*>(p);
}
LOWKEY_INLINE void store(float* p, F32x16 x) {
  *reinterpret_cast<F32x16U*>(p) = x;
}
LOWKEY_INLINE F32x16 splat(float x) {
  return F32x16{} + x;
}

// A local copy of half_to_float: see the note at the top.
LOWKEY_INLINE float to_float(Half h) {
#if defined(__F16C__)
  return _cvtsh_ss(h.bits);
#else
  return half_to_float(h);
#endif
}

LOWKEY_INLINE F32x16 load_half(const Half* p) {
#if defined(__AVX512F__)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  // maskz: GCC 12 warns about the unmasked form's own "undefined" operand.
  return reinterpret_cast<F32x16>(_mm512_maskz_cvtph_ps(0xffff, bits));
#elif defined(__F16C__)
  F32x16 result;
  const __m256 low = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256 high = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)));
  __builtin_memcpy(&result, &low, 32);
  __builtin_memcpy(reinterpret_cast<char*>(&result) + 32, &high, 32);
  return result;
#else
  F32x16 result = {};
  for (int i = 0; i < kVectorFloats; ++i) result[i] = half_to_float(p[i]);
  return result;
#endif
}

LOWKEY_INLINE float horizontal_sum(F32x16 x) {
  float sum[kVectorFloats];
  store(sum, x);
  // A fixed tree, so that every instruction set adds in the same order.
  for (int width = kVectorFloats / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) sum[i] += sum[i + width];
  }
  return sum[0];
}

LOWKEY_INLINE I32x16 load_dwords(const std::byte* p) {
  return *reinterpret_cast<const I32x16U*>(p);
}
LOWKEY_INLINE F32x16 to_floats(I32x16 x) {
  return __builtin_convertvector(x, F32x16);
}

LOWKEY_INLINE F32x16 larger(F32x16 a, F32x16 b) {
  return a > b ? a : b;
}
LOWKEY_INLINE float first_lane(F32x16 x) {
  return x[0];
}
LOWKEY_INLINE float largest_lane(F32x16 x) {
  float largest = x[0];
  for (int i = 1; i < kVectorFloats; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}
// x where `value` is above `limit`, 0 elsewhere.
LOWKEY_INLINE F32x16 where_above(F32x16 value, float limit, F32x16 x) {
  return value > splat(limit) ? x : F32x16{};
}
// For whole numbers from -126 to 127.
LOWKEY_INLINE F32x16 power_of_two(F32x16 n) {
  return reinterpret_cast<F32x16>((__builtin_convertvector(n, I32x16) + 127) << 23);
}
#endif

// exp(x) for x <= 0: 2^(x log2 e) split into integer and fraction, a degree-6 polynomial (Cephes
// expf) for the rest. Relative error below 2e-7 on [-87, 0]; smaller x gives 0, -infinity included.
LOWKEY_INLINE F32x16 exp_nonpositive(F32x16 x) {
  const F32x16 clamped = larger(x, splat(-87.0f));
  const F32x16 shifted = clamped * splat(1.44269504088896341f) + splat(12582912.0f);  // 1.5 * 2^23
  const F32x16 n = shifted - splat(12582912.0f);  // rounded to nearest
  const F32x16 r = clamped - n * splat(0.693359375f) - n * splat(-2.12194440e-4f);
  F32x16 p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * r * r + r + splat(1.0f);
  return where_above(x, -87.0f, p * power_of_two(n));
}

}  // namespace
}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
