// Vectors of the instruction set a file is compiled for, in its LOWKEY_KERNEL_NAMESPACE: what the
// row and strip kernels have in common. Nothing but intrinsics and plain data may be included here:
// an inline function compiled with AVX-512 flags could be the copy the linker keeps for everyone
// (ODR).
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

// Vectors must never cross a call that could be compiled for another instruction set.
#define LOWKEY_INLINE inline __attribute__((always_inline))

namespace lowkey {
namespace LOWKEY_KERNEL_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
typedef float F32 __attribute__((vector_size(kWidth * 4)));
typedef float F32U __attribute__((vector_size(kWidth * 4), aligned(1), may_alias));
typedef int32_t I32 __attribute__((vector_size(kWidth * 4)));
typedef uint32_t U32 __attribute__((vector_size(kWidth * 4)));

LOWKEY_INLINE F32 load_f32(const void* p) {
  return *static_cast<const F32U*>(p);
}
LOWKEY_INLINE void store_f32(float* p, F32 x) {
  *reinterpret_cast<F32U*>(p) = x;
}
LOWKEY_INLINE F32 splat(float x) {
  return x - F32{};  // x + 0 would be an addition: it changes -0
}
LOWKEY_INLINE F32 to_float(I32 x) {
  return __builtin_convertvector(x, F32);
}

// Local copies of core/half.h's scalar conversions: see the note at the top.
LOWKEY_INLINE float half_at(const uint8_t* p) {
  uint16_t bits;
  __builtin_memcpy(&bits, p, 2);
#if defined(__F16C__)
  return _cvtsh_ss(bits);
#elif defined(__ARM_FEATURE_DOTPROD)
  __fp16 half;
  __builtin_memcpy(&half, &bits, 2);
  return half;
#else
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  uint32_t result = sign | ((exponent + 112) << 23) | (mantissa << 13);
  if (exponent == 0x1f) result = sign | 0x7f800000u | (mantissa << 13);
  float value;
  if (exponent == 0) {
    value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  __builtin_memcpy(&value, &result, 4);
  return value;
#endif
}

// The primitives that differ: kWidth bytes or 16-bit values widened, fused multiply-add, and the
// sum of a register's lanes as a tree (lane i with i + n/2, then i + n/4, ...).
// maskz forms where GCC 12 warns about the unmasked form's own "undefined" operand.
#if defined(__AVX512F__)
LOWKEY_INLINE I32 widen_u8(const uint8_t* p) {
  return reinterpret_cast<I32>(
      _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
LOWKEY_INLINE I32 widen_i8(const uint8_t* p) {
  return reinterpret_cast<I32>(
      _mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
LOWKEY_INLINE F32 load_bf16(const uint8_t* p) {
  const __m512i wide =
      _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return reinterpret_cast<F32>(reinterpret_cast<U32>(wide) << 16);
}
LOWKEY_INLINE F32 load_f16(const uint8_t* p) {
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
LOWKEY_INLINE F32 fused(F32 a, F32 b, F32 c) {
  return _mm512_fmadd_ps(a, b, c);
}
LOWKEY_INLINE __m256 fold_to_256(F32 x) {
  const auto doubles = reinterpret_cast<__m512d>(x);
  return _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xff, doubles, 0)) +
         _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xff, doubles, 1));
}
#elif defined(__AVX2__)
LOWKEY_INLINE I32 widen_u8(const uint8_t* p) {
  return reinterpret_cast<I32>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
LOWKEY_INLINE I32 widen_i8(const uint8_t* p) {
  return reinterpret_cast<I32>(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
LOWKEY_INLINE F32 load_bf16(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return reinterpret_cast<F32>(reinterpret_cast<U32>(wide) << 16);
}
LOWKEY_INLINE F32 load_f16(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LOWKEY_INLINE F32 fused(F32 a, F32 b, F32 c) {
  return _mm256_fmadd_ps(a, b, c);
}
LOWKEY_INLINE __m256 fold_to_256(F32 x) {
  return x;
}
#elif defined(__ARM_FEATURE_DOTPROD)
LOWKEY_INLINE uint8x8_t load_four_bytes(const uint8_t* p) {
  uint32_t four;
  __builtin_memcpy(&four, p, 4);
  return vreinterpret_u8_u32(vdup_n_u32(four));
}
LOWKEY_INLINE I32 widen_u8(const uint8_t* p) {
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_four_bytes(p)))));
}
LOWKEY_INLINE I32 widen_i8(const uint8_t* p) {
  return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_four_bytes(p)))));
}
LOWKEY_INLINE F32 load_bf16(const uint8_t* p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}
LOWKEY_INLINE F32 load_f16(const uint8_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
LOWKEY_INLINE F32 fused(F32 a, F32 b, F32 c) {
  return vfmaq_f32(c, a, b);
}
#else
LOWKEY_INLINE I32 widen_u8(const uint8_t* p) {
  I32 result = {};
  for (int i = 0; i < kWidth; ++i) result[i] = p[i];
  return result;
}
LOWKEY_INLINE I32 widen_i8(const uint8_t* p) {
  I32 result = {};
  for (int i = 0; i < kWidth; ++i) result[i] = static_cast<int8_t>(p[i]);
  return result;
}
LOWKEY_INLINE F32 load_bf16(const uint8_t* p) {
  U32 bits = {};
  for (int i = 0; i < kWidth; ++i) {
    bits[i] = (static_cast<uint32_t>(p[2 * i]) | static_cast<uint32_t>(p[2 * i + 1]) << 8) << 16;
  }
  return reinterpret_cast<F32>(bits);
}
LOWKEY_INLINE F32 load_f16(const uint8_t* p) {
  U32 bits = {};
  for (int i = 0; i < kWidth; ++i) bits[i] = p[2 * i] | static_cast<uint32_t>(p[2 * i + 1]) << 8;
  // Moving the exponent's bias by a multiplication puts subnormal numbers right; infinity and NaN
  // are not numbers.
  const U32 moved = (bits & 0x7fffu) << 13;
  const U32 number = reinterpret_cast<U32>(reinterpret_cast<F32>(moved) * splat(0x1p112f));
  const U32 magnitude = moved < 0x0f800000u ? number : moved | 0x7f800000u;
  return reinterpret_cast<F32>(magnitude | (bits & 0x8000u) << 16);
}
LOWKEY_INLINE F32 fused(F32 a, F32 b, F32 c) {
  return a * b + c;
}
#endif

LOWKEY_INLINE float lane_sum(F32 x) {
#if defined(__AVX2__)
  const __m256 eight = fold_to_256(x);
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
#else
  return (x[0] + x[2]) + (x[1] + x[3]);
#endif
}

}  // namespace
}  // namespace LOWKEY_KERNEL_NAMESPACE
}  // namespace lowkey
