#include "load/unicode.h"

#include <gtest/gtest.h>

#include "core/rng.h"
#include "load/byte_alphabet.h"
#include "load/utf8.h"

namespace lowkey {
namespace {

TEST(Utf8, LengthFollowsTheStandardsTable) {
  const std::vector<std::pair<std::string, size_t>> cases = {{"", 0},
                                                             {"a", 1},
                                                             {std::string(1, '\0'), 1},
                                                             {"\xc2\x80", 2},
                                                             {"\xc1\xbf", 0},
                                                             {"\xc2", 0},
                                                             {"\xe0\xa0\x80", 3},
                                                             {"\xe0\x9f\xbf", 0},
                                                             {"\xed\x9f\xbf", 3},
                                                             {"\xed\xa0\x80", 0},
                                                             {"\xef\xbf\xbf", 3},
                                                             {"\xf0\x90\x80\x80", 4},
                                                             {"\xf0\x8f\xbf\xbf", 0},
                                                             {"\xf4\x8f\xbf\xbf", 4},
                                                             {"\xf4\x90\x80\x80", 0},
                                                             {"\xf5\x80\x80\x80", 0},
                                                             {"\x80", 0},
                                                             {"\xff", 0},
                                                             {"\xe2\x82", 0},
                                                             {"\xe2\x28\xa1", 0}};
  for (const auto& [bytes, length] : cases) {
    EXPECT_EQ(utf8_length(bytes), length) << ::testing::PrintToString(bytes);
  }
}

TEST(Utf8, EveryCodePointSurvives) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c == 0xd800) c = 0xe000;
    std::string bytes;
    utf8_append(bytes, c);
    ASSERT_EQ(utf8_length(bytes), bytes.size()) << std::hex << static_cast<uint32_t>(c);
    ASSERT_EQ(utf8_decode(bytes), c);
    for (size_t n = 1; n < bytes.size(); ++n) {
      ASSERT_EQ(utf8_unfinished_suffix(bytes.substr(0, n)), n);
      ASSERT_EQ(utf8_length(bytes.substr(0, n)), 0u);
    }
    ASSERT_EQ(utf8_unfinished_suffix(bytes), 0u);
  }
}

TEST(Utf8, InvalidPartsAreReplacedOneByOne) {
  // The example of the Unicode standard, section 3.9.
  EXPECT_EQ(utf8_replace_invalid("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64"),
            "a\ufffd\ufffd\ufffdb\ufffdc\ufffd\ufffdd");
  EXPECT_EQ(utf8_replace_invalid("\xed\xa0\x80"), "\ufffd\ufffd\ufffd");
  EXPECT_EQ(utf8_replace_invalid("plain \u00e9"), "plain \u00e9");
}

TEST(Nfc, ComposesAndOrders) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", ""},
      {"plain", "plain"},
      {"e\u0301", "\u00e9"},
      {"a\u0302\u0323", "\u1ead"},         // marks swap places, then compose
      {"q\u0307\u0323", "q\u0323\u0307"},  // ordered, nothing to compose
      {"\u212b", "\u00c5"},                // a singleton
      {"\u0958", "\u0915\u093c"},          // excluded from composition
      {"\u1100\u1161\u11a8", "\uac01"},    // Hangul
      {"\uac00\u11a8", "\uac01"},
      {"\u0344", "\u0308\u0301"},
      {"\ufb01", "\ufb01"},  // compatibility characters stay
      {"\u0301", "\u0301"},
      {"\U0001d15e", "\U0001d157\U0001d165"},
      {"\u1e9b\u0323", "\u1e9b\u0323"},
  };
  for (const auto& [in, out] : cases) {
    EXPECT_EQ(normalize_nfc(in), out) << in;
    EXPECT_EQ(normalize_nfc(out), out) << in;
  }
}

TEST(Nfc, IsIdempotent) {
  SplitMix64 rng(3);
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (int n = 0; n < 6; ++n) {
      // Mostly from where marks and composites live.
      auto c = static_cast<char32_t>(rng.below(rng.below(3) == 0 ? 0x110000 : 0x3200));
      if (c >= 0xd800 && c < 0xe000) c = 'x';
      utf8_append(text, c);
    }
    const std::string once = normalize_nfc(text);
    ASSERT_EQ(normalize_nfc(once), once) << ::testing::PrintToString(text);
  }
}

TEST(ByteAlphabet, IsOneToOne) {
  for (size_t byte = 0; byte < 256; ++byte) {
    const std::string& character = byte_alphabet()[byte];
    EXPECT_EQ(bytes_from_alphabet(character), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(byte_alphabet()[' '], "\u0120");
  EXPECT_EQ(byte_alphabet()['\n'], "\u010a");
  EXPECT_EQ(bytes_from_alphabet("\u0120the"), " the");
  EXPECT_EQ(bytes_from_alphabet("a b"), std::nullopt);
  EXPECT_EQ(bytes_from_alphabet("\u4e00"), std::nullopt);
}

}  // namespace
}  // namespace lowkey
