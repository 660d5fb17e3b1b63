#include "units.h"

#include <gtest/gtest.h>

#include <limits>

namespace lowkey {
namespace {

TEST(Units, Bytes) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.00 KiB");
  EXPECT_EQ(human_bytes(1536), "1.50 KiB");
  EXPECT_EQ(human_bytes(10240), "10.0 KiB");
  EXPECT_EQ(human_bytes(96576768), "92.1 MiB");
  EXPECT_EQ(human_bytes(uint64_t{12} << 30), "12.0 GiB");
  EXPECT_EQ(human_bytes(std::numeric_limits<uint64_t>::max()), "16.0 EiB");
}

// Rounding up never prints a fourth digit or 1024 of a unit.
TEST(Units, BytesAtTheEdges) {
  EXPECT_EQ(human_bytes(10239), "10.0 KiB");
  EXPECT_EQ(human_bytes(102399), "100 KiB");
  EXPECT_EQ(human_bytes(1024 * 1024 - 1), "1.00 MiB");
  EXPECT_EQ(human_bytes(1023 * 1024), "1023 KiB");
}

TEST(Units, Durations) {
  EXPECT_EQ(human_duration(-1), "0.0 s");
  EXPECT_EQ(human_duration(0.42), "0.4 s");
  EXPECT_EQ(human_duration(9.96), "10 s");
  EXPECT_EQ(human_duration(59.4), "59 s");
  EXPECT_EQ(human_duration(59.6), "1 min 00 s");
  EXPECT_EQ(human_duration(185), "3 min 05 s");
  EXPECT_EQ(human_duration(7800), "2 h 10 min");
  EXPECT_EQ(human_duration(std::numeric_limits<double>::infinity()), "888888 h 53 min");
  EXPECT_EQ(human_duration(std::numeric_limits<double>::quiet_NaN()), "0.0 s");
}

TEST(Units, Separators) {
  EXPECT_EQ(with_separators(0), "0");
  EXPECT_EQ(with_separators(999), "999");
  EXPECT_EQ(with_separators(1000), "1,000");
  EXPECT_EQ(with_separators(-1234567), "-1,234,567");
  EXPECT_EQ(with_separators(-123), "-123");
}

TEST(Units, Counts) {
  EXPECT_EQ(parse_count("4096"), 4096);
  EXPECT_EQ(parse_count("0"), 0);
  EXPECT_EQ(parse_count("32k"), 32768);
  EXPECT_EQ(parse_count("32K"), 32768);
  EXPECT_EQ(parse_count("1m"), 1048576);
  for (const char* wrong : {"", "k", "-1", "+1", "1.5k", "1kk", "1 k", " 1", "1x",
                            "9223372036854775808", "9223372036854775807k"}) {
    EXPECT_EQ(parse_count(wrong), std::nullopt) << wrong;
  }
}

TEST(Units, Sizes) {
  EXPECT_EQ(parse_bytes("4096"), 4096);
  EXPECT_EQ(parse_bytes("640B"), 640);
  EXPECT_EQ(parse_bytes("16GiB"), int64_t{16} << 30);
  EXPECT_EQ(parse_bytes("16g"), int64_t{16} << 30);
  EXPECT_EQ(parse_bytes("1.5k"), 1536);
  EXPECT_EQ(parse_bytes("80GB"), 80'000'000'000);
  EXPECT_EQ(parse_bytes("0.5tb"), 500'000'000'000);
  for (const char* wrong : {"", "GiB", "-1", "+1", "1x", "1kk", "1ib", "1 GiB", "1gibs", "1e9",
                            "nan", "inf", "8192P"}) {
    EXPECT_EQ(parse_bytes(wrong), std::nullopt) << wrong;
  }
}

}  // namespace
}  // namespace lowkey
