#include "core/half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "core/cpu.h"

namespace lowkey {
namespace {

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) int64_t half_to_float_f16c(const Half* in, float* out,
                                                               int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(out + i,
                     _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  }
  return i;
}

__attribute__((target("avx,f16c"))) int64_t float_to_half_f16c(const float* in, Half* out,
                                                               int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(out + i),
        _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  return i;
}
#elif defined(__aarch64__)
// Part of every ARMv8.
int64_t half_to_float_neon(const Half* in, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const uint16x4_t bits = vld1_u16(reinterpret_cast<const uint16_t*>(in + i));
    vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(bits)));
  }
  return i;
}

int64_t float_to_half_neon(const float* in, Half* out, int64_t count) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const float16x4_t rounded = vcvt_f16_f32(vld1q_f32(in + i));
    vst1_u16(reinterpret_cast<uint16_t*>(out + i), vreinterpret_u16_f16(rounded));
  }
  return i;
}
#endif

}  // namespace

void half_to_float(const Half* in, float* out, int64_t count) {
  int64_t i = 0;
#if defined(__x86_64__)
  if (cpu_features().f16c) i = half_to_float_f16c(in, out, count);
#elif defined(__aarch64__)
  i = half_to_float_neon(in, out, count);
#endif
  for (; i < count; ++i) out[i] = half_to_float(in[i]);
}

void float_to_half(const float* in, Half* out, int64_t count) {
  int64_t i = 0;
#if defined(__x86_64__)
  if (cpu_features().f16c) i = float_to_half_f16c(in, out, count);
#elif defined(__aarch64__)
  i = float_to_half_neon(in, out, count);
#endif
  for (; i < count; ++i) out[i] = float_to_half(in[i]);
}

}  // namespace lowkey
