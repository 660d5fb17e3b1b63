#include "core/checked.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lowkey {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

template <typename F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruptFile);
    return error.what();
  }
  return "";
}

TEST(Checked, AddAndMulRefuseToWrap) {
  EXPECT_EQ(checked_add(kMax - 1, 1, "x"), kMax);
  EXPECT_EQ(refusal([] { checked_add(kMax, 1, "size of 't'"); }),
            "size of 't': 18446744073709551615 + 1 overflows");
  EXPECT_EQ(checked_mul(uint64_t{1} << 32, (uint64_t{1} << 32) - 1, "x"), kMax - 0xffffffff);
  EXPECT_EQ(checked_mul(0, kMax, "x"), 0u);
  EXPECT_EQ(refusal([] { checked_mul(uint64_t{1} << 32, uint64_t{1} << 32, "dims"); }),
            "dims: 4294967296 * 4294967296 overflows");
}

TEST(Checked, CastRefusesToChangeTheValue) {
  EXPECT_EQ(checked_cast<int32_t>(uint64_t{2147483647}, "x"), 2147483647);
  EXPECT_EQ(refusal([] { checked_cast<int32_t>(uint64_t{2147483648}, "layers"); }),
            "layers: 2147483648 is out of range");
  EXPECT_EQ(refusal([] { checked_cast<uint64_t>(-1, "count"); }), "count: -1 is out of range");
  EXPECT_EQ(refusal([] { checked_cast<int64_t>(kMax, "rows"); }),
            "rows: 18446744073709551615 is out of range");
  EXPECT_EQ(checked_cast<uint8_t>(255, "x"), 255);
  EXPECT_NE(refusal([] { checked_cast<uint8_t>(256, "x"); }), "");
}

TEST(Checked, RoundingUp) {
  EXPECT_EQ(ceil_div(0, 32), 0);
  EXPECT_EQ(ceil_div(1, 32), 1);
  EXPECT_EQ(ceil_div(32, 32), 1);
  EXPECT_EQ(ceil_div(33, 32), 2);
  EXPECT_EQ(round_up(33, 32), 64);
  EXPECT_EQ(round_up(64, 32), 64);
}

}  // namespace
}  // namespace lowkey
