#pragma once
// IEEE binary16 and bfloat16 as storage types. Arithmetic happens in float. Torch-free.
#include <bit>
#include <cstdint>

namespace lowkey {

struct Half {
  uint16_t bits = 0;
  friend bool operator==(Half, Half) = default;
};

struct BFloat16 {
  uint16_t bits = 0;
  friend bool operator==(BFloat16, BFloat16) = default;
};

inline constexpr float kHalfMax = 65504.0f;

// Exact for every one of the 65,536 inputs, subnormals included.
constexpr float half_to_float(Half h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t exponent = (h.bits >> 10) & 0x1fu;
  const uint32_t mantissa = h.bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    // Zero or subnormal: mantissa * 2^-24, exact in float.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

// Round to nearest even, overflow to infinity, NaN stays NaN (quiet): what F16C's vcvtps2ph does.
constexpr Half float_to_half(float f) {
  const uint32_t x = std::bit_cast<uint32_t>(f);
  const auto sign = static_cast<uint16_t>((x >> 16) & 0x8000u);
  uint32_t magnitude = x & 0x7fffffffu;
  if (magnitude > 0x7f800000u)
    return Half{static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu))};
  if (magnitude >= 0x477ff000u)
    return Half{static_cast<uint16_t>(sign | 0x7c00u)};  // >= 65520 rounds to infinity
  if (magnitude < 0x38800000u) {
    // Subnormal half: adding 0.5 aligns the 2^-24 unit with float's last bit, and the addition
    // rounds to even.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return Half{static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000u))};
  }
  magnitude += 0xfffu + ((magnitude >> 13) & 1u);  // round half to even at bit 13
  return Half{static_cast<uint16_t>(sign | ((magnitude - 0x38000000u) >> 13))};
}

constexpr float bfloat16_to_float(BFloat16 b) {
  return std::bit_cast<float>(static_cast<uint32_t>(b.bits) << 16);
}

// Round to nearest even; NaN stays NaN.
constexpr BFloat16 float_to_bfloat16(float f) {
  const uint32_t x = std::bit_cast<uint32_t>(f);
  if ((x & 0x7fffffffu) > 0x7f800000u) return BFloat16{static_cast<uint16_t>((x >> 16) | 0x40u)};
  return BFloat16{static_cast<uint16_t>((x + 0x7fffu + ((x >> 16) & 1u)) >> 16)};
}

// Whole arrays; vectorized where the machine has F16C or is an ARM. Same results as the scalar
// functions, bit for bit.
void half_to_float(const Half* in, float* out, int64_t count);
void float_to_half(const float* in, Half* out, int64_t count);

}  // namespace lowkey
