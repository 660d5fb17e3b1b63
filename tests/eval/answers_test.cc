#include "eval/answers.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lowkey {
namespace {

TEST(FinalAnswer, IsWhatFollowsTheLastMark) {
  EXPECT_EQ(final_answer("3 + 4 = 7\n#### 7"), "7");
  EXPECT_EQ(final_answer("#### 1\nno: #### 1,234 \n"), "1,234");
  EXPECT_EQ(final_answer(" Paris\n"), "Paris");
  EXPECT_EQ(final_answer("####7"), "7");
  EXPECT_EQ(final_answer("so #### "), "");
  EXPECT_EQ(final_answer(""), "");
}

TEST(IsNumber, TakesOnlyNumbers) {
  for (const char* number : {"42", "-7", "0", "3.5", ".5", "1,234", "1,234,567.89", "$5", "-$5",
                             "42.", "007", "1234567"}) {
    EXPECT_TRUE(is_number(number)) << number;
  }
  for (const char* other : {"", "-", "$", ".", "3,5,9", "1,23", ",123", "1234,567", "12,3456",
                            "50%", "4 apples", "1e5", "1.2.3", "12:30", "--5", "x", "1 2"}) {
    EXPECT_FALSE(is_number(other)) << other;
  }
}

struct Extracted {
  const char* text;
  const char* flexible;  // null: no match
  const char* strict;
};

// Expected values are what Python gives:
//   flexible: [[m for m in t if m][0] for t in re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)",
//   text)][-1] strict:   re.findall(r"#### (\-?[0-9\.\,]+)", text)[0]
const Extracted kExtracted[] = {
    {"", nullptr, nullptr},
    {"no number", nullptr, nullptr},
    {"7", "7", nullptr},
    {"3 + 4 = 7.", "7.", nullptr},
    {"He has $1,234.50 now.", "$1,234.50", nullptr},
    {"from 5 to -12 degrees", "-12", nullptr},
    {"10-3", "-3", nullptr},
    {"a - 3", "3", nullptr},
    {"--5", "-5", nullptr},
    {"The answer is 42...", "42...", nullptr},
    {"It is 42, and that is it...", "...", nullptr},  // the last match, though it is no number
    {"It is 42, no, really - . -", "42,", nullptr},
    {"$ 5", "5", nullptr},
    {"5 $", "5", nullptr},
    {"5 $.", "$.", nullptr},
    {"-$5", "-$5", nullptr},
    {"x1y22z", "22", nullptr},
    {"- ", nullptr, nullptr},
    {"-", nullptr, nullptr},
    {"#### 42", "42", "42"},
    {"#### -1,000.\n#### 7", "7", "-1,000."},
    {"#### $5", "$5", nullptr},
    {"####5 #### x #### 6", "6", "6"},
    {"##### 8", "8", "8"},
    {"####  9", "9", nullptr},
    {"#### -", nullptr, nullptr},
};

TEST(Extraction, IsWhatTheRegularExpressionsOfGsm8kFind) {
  for (const Extracted& row : kExtracted) {
    const auto flexible = flexible_number(row.text);
    ASSERT_EQ(flexible.has_value(), row.flexible != nullptr) << row.text;
    if (flexible) {
      EXPECT_EQ(*flexible, row.flexible) << row.text;
    }
    const auto strict = strict_number(row.text);
    ASSERT_EQ(strict.has_value(), row.strict != nullptr) << row.text;
    if (strict) {
      EXPECT_EQ(*strict, row.strict) << row.text;
    }
  }
}

TEST(Normalize, DropsWhatTheTaskIgnores) {
  EXPECT_EQ(normalize_number("$1,234."), "1234");
  EXPECT_EQ(normalize_number("42.."), "42.");  // one '.', as its regular expression
  EXPECT_EQ(normalize_number("42.0"), "42.0");
  EXPECT_EQ(normalize_number("-7"), "-7");
  EXPECT_EQ(normalize_words("  The (Eiffel)  TOWER,\nin Paris! "), "the eiffel tower in paris");
  EXPECT_EQ(normalize_words("x = 50% of $5"), "x = 50% of $5");
  EXPECT_EQ(normalize_words("Größe"), "größe");
  EXPECT_EQ(normalize_words(" . , !"), "");
  EXPECT_EQ(normalize_words("it's well-known"), "it's well-known");
}

TEST(Judge, Numbers) {
  EXPECT_EQ(judge("3 + 4 = 7 coins.\n#### 7", "7"), (Judgement{"7", true, true}));
  EXPECT_EQ(judge("He has $1,234.", "1,234"), (Judgement{"1234", true, false}));
  EXPECT_EQ(judge("#### 7\nQ: what is 8?", "7"), (Judgement{"8", false, true}));
  EXPECT_EQ(judge("42.0", "42"), (Judgement{"42.0", false, false}));
  EXPECT_EQ(judge("no idea", "42"), (Judgement{"", false, false}));
  EXPECT_EQ(judge("17", "7"), (Judgement{"17", false, false}));
  EXPECT_EQ(judge("-7", "7"), (Judgement{"-7", false, false}));
}

TEST(Judge, Words) {
  EXPECT_EQ(judge("It is Paris, of course.", "Paris"), (Judgement{"paris", true, false}));
  EXPECT_EQ(judge("paris.", "Paris"), (Judgement{"paris", true, true}));
  EXPECT_EQ(judge("Hm.\n#### Paris\nQ", "Paris"), (Judgement{"paris", true, true}));
  // Whole words only, in order.
  EXPECT_EQ(judge("comparison", "Paris"), (Judgement{"comparison", false, false}));
  EXPECT_EQ(judge("the tower Eiffel\nis it", "Eiffel tower"), (Judgement{"is it", false, false}));
  EXPECT_EQ(judge("3, 5, 9", "3,5,9"), (Judgement{"3 5 9", false, false}));
  EXPECT_EQ(judge("so 3, 5,\n9!", "3, 5, 9"), (Judgement{"3 5 9", true, false}));
  // An answer of punctuation alone is looked for as it is.
  EXPECT_EQ(judge("it is ?!", "?!"), (Judgement{"?!", true, false}));
  EXPECT_EQ(judge(" ?! ", "?!"), (Judgement{"?!", true, true}));
  EXPECT_EQ(judge("what", "?!"), (Judgement{"what", false, false}));
}

// Wilson's interval of 81 of 263 is 0.2553 to 0.3662 (Newcombe 1998, table I: 81/263 and 15/148 by
// method 3, "score").
TEST(Wilson, PublishedValues) {
  const Interval large = wilson_95(81, 263);
  EXPECT_NEAR(large.low, 0.2553, 5e-5);
  EXPECT_NEAR(large.high, 0.3662, 5e-5);
  const Interval small = wilson_95(15, 148);
  EXPECT_NEAR(small.low, 0.0624, 5e-5);
  EXPECT_NEAR(small.high, 0.1605, 5e-5);
  const Interval none = wilson_95(0, 20);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, 0.1611, 5e-5);
  const Interval all = wilson_95(20, 20);
  EXPECT_NEAR(all.low, 1 - 0.1611, 5e-5);
  EXPECT_EQ(all.high, 1);
  EXPECT_EQ(wilson_95(0, 0), (Interval{0, 1}));
}

}  // namespace
}  // namespace lowkey
