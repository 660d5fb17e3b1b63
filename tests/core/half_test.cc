#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/rng.h"

namespace lowkey {
namespace {

// By the definition of the format, in double: sign, exponent and fraction.
double half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == 31)
    return fraction ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

// Round to nearest, ties to even, by scaling to the unit in the last place: exact in double.
uint16_t half_reference(float f) {
  const auto sign = static_cast<uint16_t>(std::signbit(f) ? 0x8000 : 0);
  const double x = std::fabs(static_cast<double>(f));
  if (x == 0.0) return sign;
  const int exponent = std::isinf(x) ? 16 : std::max(std::ilogb(x), -14);
  if (exponent > 15) return sign | 0x7c00;
  const double units =
      std::nearbyint(std::ldexp(x, 10 - exponent));  // 2048 carries over: still right
  return static_cast<uint16_t>(sign | (static_cast<int>(units) + ((exponent + 14) << 10)));
}

bool is_nan(uint16_t half_bits) {
  return (half_bits & 0x7fff) > 0x7c00;
}

TEST(Half, EveryOneOf65536ValuesAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Half h{static_cast<uint16_t>(bits)};
    const float f = half_to_float(h);
    if (is_nan(h.bits)) {
      EXPECT_TRUE(std::isnan(f)) << bits;
      EXPECT_TRUE(is_nan(float_to_half(f).bits)) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(f), half_value(h.bits)) << bits;
    ASSERT_EQ(std::signbit(f), bits >> 15 != 0) << bits;
    ASSERT_EQ(float_to_half(f), h) << bits;
  }
}

// Between any two neighbours: just below the middle, the middle (the tie), just above.
TEST(Half, RoundsToNearestEvenAtEveryBoundary) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const double low = half_value(static_cast<uint16_t>(bits));
    const double high = bits == 0x7bff ? 65536.0 : half_value(static_cast<uint16_t>(bits + 1));
    const auto middle =
        static_cast<float>((low + high) / 2);  // exact: one more bit than a half has
    const float infinity = std::numeric_limits<float>::infinity();
    for (float f : {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, infinity)}) {
      for (float signed_f : {f, -f}) {
        ASSERT_EQ(float_to_half(signed_f).bits, half_reference(signed_f)) << signed_f;
      }
    }
  }
  EXPECT_EQ(float_to_half(65519.996f).bits, 0x7bff) << "the largest half";
  EXPECT_EQ(float_to_half(65520.0f).bits, 0x7c00) << "ties to even: infinity";
  EXPECT_EQ(float_to_half(-1e30f).bits, 0xfc00);
  EXPECT_EQ(float_to_half(1e-30f).bits, 0);
  EXPECT_EQ(float_to_half(-1e-30f).bits, 0x8000);
  EXPECT_EQ(float_to_half(0x1p-25f).bits, 0) << "half of the smallest: a tie, to even";
  EXPECT_EQ(half_to_float(Half{0x7bff}), kHalfMax);
}

TEST(Half, RandomFloats) {
  SplitMix64 rng(1);
  for (int i = 0; i < 2'000'000; ++i) {
    const auto f = std::bit_cast<float>(static_cast<uint32_t>(rng.next()));
    if (std::isnan(f)) {
      ASSERT_TRUE(is_nan(float_to_half(f).bits));
    } else {
      ASSERT_EQ(float_to_half(f).bits, half_reference(f)) << f;
    }
  }
}

// The vectorized functions differ from the scalar ones in nothing, NaN payloads included, and for
// any length.
TEST(Half, ArraysEqualScalarsBitForBit) {
  std::vector<Half> halves;
  for (uint32_t bits = 0; bits < 65536; ++bits) halves.push_back(Half{static_cast<uint16_t>(bits)});
  std::vector<float> floats(halves.size());
  half_to_float(halves.data(), floats.data(), 65536);
  for (size_t i = 0; i < halves.size(); ++i) {
    // A signalling NaN may come out quiet: both ways are the same number.
    const uint32_t quiet = is_nan(halves[i].bits) ? 0x00400000u : 0;
    ASSERT_EQ(std::bit_cast<uint32_t>(floats[i]) | quiet,
              std::bit_cast<uint32_t>(half_to_float(halves[i])) | quiet)
        << i;
  }
  SplitMix64 rng(2);
  for (float& f : floats) f = std::bit_cast<float>(static_cast<uint32_t>(rng.next()));
  std::vector<Half> out(floats.size());
  float_to_half(floats.data(), out.data(), 65536);
  for (size_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(out[i], float_to_half(floats[i])) << std::bit_cast<uint32_t>(floats[i]);
  }
  for (int64_t count = 0; count < 20; ++count) {
    std::vector<float> some(20, -1.0f);
    half_to_float(halves.data() + 1000, some.data(), count);
    for (int64_t i = 0; i < 20; ++i) {
      EXPECT_EQ(some[static_cast<size_t>(i)],
                i < count ? half_to_float(halves[static_cast<size_t>(1000 + i)]) : -1.0f);
    }
  }
}

TEST(BFloat16, EveryOneOf65536ValuesAndItsBoundaries) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const BFloat16 b{static_cast<uint16_t>(bits)};
    const float f = bfloat16_to_float(b);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(f))));
      continue;
    }
    ASSERT_EQ(float_to_bfloat16(f), b);
    if (std::isinf(f)) continue;
    const uint32_t exact = bits << 16;  // 0x8000 more is the middle to the next one away from zero
    const auto next = static_cast<uint16_t>(bits + 1);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(exact + 0x7fff)), b);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(exact + 0x8000)).bits,
              bits % 2 ? next : b.bits);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(exact + 0x8001)).bits, next);
  }
  const float nan = std::bit_cast<float>(0x7f800001u);  // its payload lies in the bits that go
  EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(nan))));
}

static_assert(half_to_float(Half{0x3c00}) == 1.0f);
static_assert(float_to_half(1.0f) == Half{0x3c00});

}  // namespace
}  // namespace lowkey
