#pragma once
// Whether a generated answer is right: exact match as EleutherAI's lm-evaluation-harness scores
// GSM8K, so that figures can be compared, and a rule for answers that are no numbers. Torch-free,
// pure.
//
// Numbers (every step as there):
//   flexible   the last match of (-?[$0-9.,]{2,})|(-?[0-9]+) in the text
//   strict     the first match of "#### (-?[0-9.,]+)"
//   both       compared as strings without ',' and '$' and without one '.' at the end: "1,234." is
//              "1234", but "42.0" is not "42", and after "42..." the flexible answer is wrong
// Others, compared as words: text between blanks, ASCII in lower case, without the punctuation
// around each word.
//   flexible   the answer's words stand in the text, one after the other
//   strict     what follows the first "####" on its line, or where there is none the whole text, is
//              the answer and nothing else
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lowkey {

// What counts of an answer that shows its work: what follows the last "####", else all of it;
// without blanks around it.
std::string_view final_answer(std::string_view worked);

// 42, -7, $1,234.50, .5: judged as a number. "3,5,9" is none: its commas part no thousands.
bool is_number(std::string_view answer);

// The number as the text writes it; none if there is no such match.
std::optional<std::string_view> flexible_number(std::string_view text);
std::optional<std::string_view> strict_number(std::string_view text);

// As numbers are compared.
std::string normalize_number(std::string_view number);
// As others are: words with one blank between them.
std::string normalize_words(std::string_view text);

struct Judgement {
  std::string given;  // what the flexible rule took for the answer, normalized; "" if nothing
  bool flexible = false;
  bool strict = false;
  friend bool operator==(const Judgement&, const Judgement&) = default;
};

// `answer` is what counts (final_answer). `given` tells whether two texts answer the same: for
// answers in words it is the answer where the text holds it, else the text's last line.
Judgement judge(std::string_view text, std::string_view answer);

struct Interval {
  double low = 0;
  double high = 1;
  friend bool operator==(const Interval&, const Interval&) = default;
};

// Wilson's 95% interval of a share (E. B. Wilson 1927), 0..1; 0 of 0 says nothing: 0 to 1.
// Unlike the normal approximation it holds for few trials and for shares near 0 and 1.
Interval wilson_95(int64_t successes, int64_t trials);

// McNemar's exact test (two-sided): of `lost` + `gained` questions that two runs answer
// differently, one right and one wrong, how likely a split at least as uneven is if both are
// equally likely.
double mcnemar_exact(int64_t lost, int64_t gained);

}  // namespace lowkey
