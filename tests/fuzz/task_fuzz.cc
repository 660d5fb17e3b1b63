// Any text as a task file: an Error that names a line, or questions with something to compare, in
// both forms. The same text as a model's answer: judging it holds what it promises.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"
#include "eval/answers.h"
#include "eval/choice_file.h"
#include "eval/mt_bench_file.h"
#include "eval/task_file.h"

namespace {

void check_judging(std::string_view text) {
  using namespace lowkey;
  for (const auto& number : {flexible_number(text), strict_number(text)}) {
    if (!number) continue;
    LOWKEY_CHECK(number->data() >= text.data() &&
                 number->data() + number->size() <= text.data() + text.size());
    LOWKEY_CHECK(number->find_first_not_of("-$0123456789.,") == number->npos && !number->empty());
  }
  const std::string words = normalize_words(text);
  LOWKEY_CHECK(normalize_words(words) == words);
  const std::string_view answer = final_answer(text);
  if (answer.empty()) return;
  // Whoever says the answer and no more is right.
  const Judgement judgement = judge("#### " + std::string(answer), answer);
  LOWKEY_CHECK(judgement.flexible, "'{}'", answer);
  LOWKEY_CHECK(judge(text, answer).given.size() <= text.size());
}

// The same text as questions with choices, as MT-Bench's, and as answers to these.
void check_other_files(std::string_view text) {
  using namespace lowkey;
  try {
    for (const ChoiceExample& example : parse_choices(text, "fuzz")) {
      LOWKEY_CHECK(example.choices.size() >= 2 && example.gold >= 0 &&
                   static_cast<size_t>(example.gold) < example.choices.size());
      for (const ChoiceStyle style : {ChoiceStyle::kText, ChoiceStyle::kLetters}) {
        LOWKEY_CHECK(!choice_prompt(example, style).empty());
        const auto gold = static_cast<size_t>(example.gold);
        LOWKEY_CHECK(choice_continuation(example, style, gold).size() > 1);
      }
    }
  } catch (const Error& error) {
    LOWKEY_CHECK(error.code() == ErrorCode::kInvalidArgument, "{}", error.what());
  }
  const MtBenchSettings settings = {"a", "b", "16", "f32", "greedy", 0, 1};
  try {
    for (const MtBenchQuestion& question : parse_mt_bench(text, "fuzz")) {
      const std::string line = mt_bench_answer_line(question, question.turns, settings, 0);
      LOWKEY_CHECK(parse_mt_bench_answers(line, "own", settings).ids.count(question.id) == 1);
    }
  } catch (const Error& error) {
    LOWKEY_CHECK(error.code() == ErrorCode::kInvalidArgument, "{}", error.what());
  }
  try {
    LOWKEY_CHECK(parse_mt_bench_answers(text, "fuzz", settings).bytes <= text.size());
  } catch (const Error& error) {
    LOWKEY_CHECK(error.code() == ErrorCode::kInvalidArgument, "{}", error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check_judging(text);
  check_other_files(text);
  try {
    const std::vector<lowkey::TaskExample> examples = lowkey::parse_task(text, "fuzz");
    LOWKEY_CHECK(!examples.empty());
    int64_t line = 0;
    for (const lowkey::TaskExample& example : examples) {
      LOWKEY_CHECK(example.line > line);
      line = example.line;
      LOWKEY_CHECK(!example.messages.empty() && example.messages.back().role == "user");
      LOWKEY_CHECK(!lowkey::final_answer(example.worked).empty());
      LOWKEY_CHECK(lowkey::task_text({&example, 1}, example).ends_with("\nAnswer:"));
      const auto turns = lowkey::task_turns({&example, 1}, example);
      LOWKEY_CHECK(turns.back().role == "user" && turns.size() >= 3);
    }
  } catch (const lowkey::Error& error) {
    LOWKEY_CHECK(std::string_view(error.what()).starts_with("fuzz:"), "{}", error.what());
  }
  return 0;
}
