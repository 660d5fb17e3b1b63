#include "eval/answers.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"

namespace lowkey {
namespace {

constexpr std::string_view kMark = "####";
constexpr std::string_view kBlanks = " \t\n\v\f\r";
// Around words it says nothing; $, %, +, = and their like belong to an answer.
constexpr std::string_view kPunctuation = "!\"'()*,-.:;?[]_`{}~";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string_view trim(std::string_view text, std::string_view what) {
  const size_t first = text.find_first_not_of(what);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(what) - first + 1);
}

// The length of the run of such characters that begins at `at`.
template <typename Predicate>
size_t run_length(std::string_view text, size_t at, const Predicate& wanted) {
  size_t end = at;
  while (end < text.size() && wanted(text[end])) ++end;
  return end - at;
}

// What may follow "####" on its line; the whole text where that is missing.
std::string_view marked_or_all(std::string_view text) {
  const size_t mark = text.find(kMark);
  if (mark == text.npos) return text;
  text.remove_prefix(mark + kMark.size());
  return text.substr(0, text.find('\n'));
}

std::string_view last_line(std::string_view text) {
  text = trim(text, kBlanks);
  const size_t line_break = text.rfind('\n');
  return line_break == text.npos ? text : text.substr(line_break + 1);
}

bool holds_words(const std::string& text, const std::string& words) {
  // Whole words: blanks of both stand for their ends.
  return (" " + text + " ").find(" " + words + " ") != std::string::npos;
}

}  // namespace

std::string_view final_answer(std::string_view worked) {
  if (const size_t mark = worked.rfind(kMark); mark != worked.npos) {
    worked.remove_prefix(mark + kMark.size());
  }
  return trim(worked, kBlanks);
}

bool is_number(std::string_view answer) {
  if (answer.starts_with('-')) answer.remove_prefix(1);
  if (answer.starts_with('$')) answer.remove_prefix(1);
  if (answer.ends_with('.')) answer.remove_suffix(1);
  const size_t point = answer.find('.');
  const std::string_view whole = answer.substr(0, point);
  const std::string_view part = point == answer.npos ? "" : answer.substr(point + 1);
  if (whole.empty() && part.empty()) return false;
  if (!std::all_of(part.begin(), part.end(), is_digit)) return false;
  if (point != answer.npos && part.empty()) return false;
  // Digits, or one to three of them and then groups of three.
  size_t at = run_length(whole, 0, is_digit);
  if (at == whole.size()) return true;
  if (at == 0 || at > 3) return false;
  while (at < whole.size()) {
    if (whole[at] != ',' || run_length(whole, at + 1, is_digit) != 3) return false;
    at += 4;
  }
  return true;
}

std::optional<std::string_view> flexible_number(std::string_view text) {
  const auto in_number = [](char c) { return is_digit(c) || c == '$' || c == '.' || c == ','; };
  std::optional<std::string_view> last;
  for (size_t at = 0; at < text.size();) {
    const size_t sign = text[at] == '-' ? 1 : 0;
    const size_t run = run_length(text, at + sign, in_number);
    if (run >= 2 || (run == 1 && is_digit(text[at + sign]))) {
      last = text.substr(at, sign + run);
      at += sign + run;
    } else {
      ++at;
    }
  }
  return last;
}

std::optional<std::string_view> strict_number(std::string_view text) {
  const auto in_number = [](char c) { return is_digit(c) || c == '.' || c == ','; };
  for (size_t mark = text.find("#### "); mark != text.npos; mark = text.find("#### ", mark + 1)) {
    const size_t begin = mark + kMark.size() + 1;
    const size_t sign = begin < text.size() && text[begin] == '-' ? 1 : 0;
    const size_t run = run_length(text, begin + sign, in_number);
    if (run > 0) return text.substr(begin, sign + run);
  }
  return std::nullopt;
}

std::string normalize_number(std::string_view number) {
  std::string text(number);
  std::erase(text, ',');
  std::erase(text, '$');
  if (text.ends_with('.')) text.pop_back();
  return text;
}

std::string normalize_words(std::string_view text) {
  std::string words;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = std::min(text.find_first_not_of(kBlanks, at), text.size());
    const size_t end = std::min(text.find_first_of(kBlanks, begin), text.size());
    const std::string_view word = trim(text.substr(begin, end - begin), kPunctuation);
    if (!word.empty() && !words.empty()) words += ' ';
    std::transform(word.begin(), word.end(), std::back_inserter(words), lower);
    at = end;
  }
  return words;
}

Judgement judge(std::string_view text, std::string_view answer) {
  Judgement judgement;
  if (is_number(answer)) {
    const std::string wanted = normalize_number(answer);
    if (const auto number = flexible_number(text)) judgement.given = normalize_number(*number);
    judgement.flexible = judgement.given == wanted;
    const auto number = strict_number(text);
    judgement.strict = number && normalize_number(*number) == wanted;
    return judgement;
  }
  const std::string wanted = normalize_words(answer);
  if (wanted.empty()) {  // nothing but punctuation: literally
    judgement.flexible = text.find(answer) != text.npos;
    judgement.strict = trim(marked_or_all(text), kBlanks) == answer;
    judgement.given = judgement.flexible ? answer : trim(last_line(text), kBlanks);
    return judgement;
  }
  judgement.flexible = holds_words(normalize_words(text), wanted);
  judgement.strict = normalize_words(marked_or_all(text)) == wanted;
  judgement.given = judgement.flexible ? wanted : normalize_words(last_line(text));
  return judgement;
}

Interval wilson_95(int64_t successes, int64_t trials) {
  LOWKEY_CHECK(successes >= 0 && successes <= trials, "{} of {}", successes, trials);
  if (trials == 0) return {};
  constexpr double kZ = 1.959963984540054;  // the normal distribution's 97.5th percentile
  const auto n = static_cast<double>(trials);
  const double share = static_cast<double>(successes) / n;
  const double scale = 1 / (1 + kZ * kZ / n);
  const double middle = (share + kZ * kZ / (2 * n)) * scale;
  const double half = kZ * scale * std::sqrt(share * (1 - share) / n + kZ * kZ / (4 * n * n));
  // At the ends the formula is exact but for rounding.
  return {successes == 0 ? 0 : std::max(0.0, middle - half),
          successes == trials ? 1 : std::min(1.0, middle + half)};
}

double mcnemar_exact(int64_t lost, int64_t gained) {
  LOWKEY_CHECK(lost >= 0 && gained >= 0, "{} and {}", lost, gained);
  const int64_t n = lost + gained;
  // Binomial terms C(n, i) / 2^n as logarithms: n may be thousands.
  const auto log_factorial = [](int64_t i) { return std::lgamma(static_cast<double>(i) + 1); };
  double tail = 0;
  for (int64_t i = 0; i <= std::min(lost, gained); ++i) {
    tail += std::exp(log_factorial(n) - log_factorial(i) - log_factorial(n - i) -
                     static_cast<double>(n) * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

}  // namespace lowkey
