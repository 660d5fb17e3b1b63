#include "eval/task_eval.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

class TaskEval : public testing::Test {
 protected:
  TaskEval() {
    test::TinyModel({.seed = 12, .head_dim = 32}).write_gguf(folder_ / "tiny.gguf");
    engine_ = open(2);
    // Of different lengths, so that none ends with the others.
    for (int i = 0; i < 11; ++i) {
      TaskExample example;
      example.messages = {
          {"user", std::string(static_cast<size_t>(1 + i * i), static_cast<char>('a' + i))}};
      example.worked = "x #### " + std::to_string(i);
      example.line = i + 1;
      (i < 2 ? task_.shots : task_.asked).push_back(example);
    }
  }

  std::unique_ptr<Engine> open(int threads) {
    return std::make_unique<Engine>(
        folder_ / "tiny.gguf", EngineOptions{.weights = WeightStorage::kF32, .threads = threads},
        ProgressFn{});
  }

  ResolvedRecipe recipe(const std::string& text) const {
    return resolve_recipe(parse_recipe(text), engine_->kv_shape());
  }

  TaskResult answer(Engine& engine, const TaskPrompts& prompts, const std::string& kv,
                    const TaskOptions& options) {
    return answer_task(engine.model(), engine.tokenizer(), prompts, recipe(kv), options, {});
  }

  // Greedily through the path that `lowkey run` takes.
  GenerateResult alone(const TaskPrompt& prompt, const std::string& kv,
                       const TaskOptions& options) {
    GenerateOptions generate;
    generate.sampling.temperature = 0;
    generate.max_tokens = options.max_tokens;
    generate.stop = options.stop;
    Session session(*engine_, recipe(kv));
    return session.generate(prompt.tokens, generate, {});
  }

  test::TempDir folder_;
  std::unique_ptr<Engine> engine_;
  Task task_{"t.jsonl", {}, {}};
};

std::vector<std::vector<int32_t>> tokens_of(const TaskResult& result) {
  std::vector<std::vector<int32_t>> all;
  for (const TaskAnswer& answer : result.answers) all.push_back(answer.tokens);
  return all;
}

TEST_F(TaskEval, AnswersWhatASessionAnswers) {
  task_.shots.clear();  // nothing shared: the same computation, bit for bit
  const TaskPrompts prompts = task_prompts(*engine_, task_, PromptForm::kText);
  EXPECT_EQ(prompts.shared_tokens, 0);
  ASSERT_EQ(prompts.prompts.size(), 9u);
  const TaskOptions options{.max_tokens = 40};
  for (const char* kv : {"16", "kivi-2:r32", "4"}) {
    const TaskResult result = answer(*engine_, prompts, kv, options);
    double answer_tokens = 0, cached = 0;
    for (size_t i = 0; i < prompts.prompts.size(); ++i) {
      const GenerateResult expected = alone(prompts.prompts[i], kv, options);
      EXPECT_EQ(result.answers[i].tokens, expected.tokens) << kv << " " << i;
      EXPECT_EQ(result.answers[i].text, expected.text);
      EXPECT_EQ(result.answers[i].reason, expected.reason);
      EXPECT_EQ(result.answers[i].line, task_.asked[i].line);
      answer_tokens += static_cast<double>(expected.tokens.size());
      cached += static_cast<double>(prompts.prompts[i].tokens.size() + expected.tokens.size()) -
                (expected.reason == StopReason::kTokenLimit ? 1 : 0);
    }
    EXPECT_DOUBLE_EQ(result.answer_tokens, answer_tokens / 9);
    EXPECT_DOUBLE_EQ(result.cached_tokens, cached / 9);
  }
}

// Shots are computed once and forked: the first of them cut to the token.
TEST_F(TaskEval, SharedShotsChangeNothing) {
  for (PromptForm form : {PromptForm::kText, PromptForm::kChat}) {
    TaskPrompts prompts = task_prompts(*engine_, task_, form);
    EXPECT_GT(prompts.shared_tokens, 30);
    const std::vector<int32_t>& last = prompts.prompts.back().tokens;
    const std::string shared = engine_->tokenizer().decode(
        std::span(last).first(static_cast<size_t>(prompts.shared_tokens)), true);
    EXPECT_THAT(shared, testing::HasSubstr("Question: b"));  // the second shot
    EXPECT_THAT(shared, testing::EndsWith("Question:"));     // and what begins every question
    for (const char* kv : {"16", "kivi-4:r32", "4"}) {
      TaskPrompts whole = prompts;
      whole.shared_tokens = 0;
      EXPECT_EQ(tokens_of(answer(*engine_, prompts, kv, {.max_tokens = 24})),
                tokens_of(answer(*engine_, whole, kv, {.max_tokens = 24})))
          << kv;
    }
  }
}

TEST_F(TaskEval, NeitherBatchNorThreadsNorLimitShow) {
  const TaskPrompts prompts = task_prompts(*engine_, task_, PromptForm::kChat);
  for (const char* kv : {"kivi-2:r32+i1", "2"}) {
    const TaskResult expected = answer(*engine_, prompts, kv, {.max_tokens = 32, .batch = 8});
    for (int64_t batch : {1, 3}) {
      EXPECT_EQ(tokens_of(answer(*engine_, prompts, kv, {.max_tokens = 32, .batch = batch})),
                tokens_of(expected))
          << batch;
    }
    for (int threads : {1, 3}) {
      const auto other = open(threads);
      EXPECT_EQ(tokens_of(answer(*other, prompts, kv, {.max_tokens = 32})), tokens_of(expected))
          << threads;
    }
    const TaskPrompts few = task_prompts(*engine_, task_, PromptForm::kChat, 4);
    ASSERT_EQ(few.prompts.size(), 4u);
    EXPECT_EQ(few.shared_tokens, prompts.shared_tokens);
    const TaskResult first = answer(*engine_, few, kv, {.max_tokens = 32});
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(first.answers[i].tokens, expected.answers[i].tokens);
  }
}

TEST_F(TaskEval, JudgesAndCounts) {
  task_.shots.clear();
  TaskPrompts prompts = task_prompts(*engine_, task_, PromptForm::kText);
  const TaskOptions options{.max_tokens = 12, .stop = {}};
  TaskResult result = answer(*engine_, prompts, "16", options);
  EXPECT_EQ(result.correct, 0);
  EXPECT_EQ(result.interval, wilson_95(0, 9));
  EXPECT_EQ(answers_changed(result, result), 0);
  // What some of them said, as the right answers; words, since a random model counts badly.
  int64_t some = 0;
  for (size_t i = 0; i < 9; i += 2) {
    const std::string said = normalize_words(result.answers[i].text);
    if (said.empty()) continue;
    prompts.prompts[i].answer = said;
    ++some;
  }
  ASSERT_GE(some, 3);
  result = answer(*engine_, prompts, "16", options);
  EXPECT_EQ(result.correct, some);
  EXPECT_DOUBLE_EQ(result.accuracy(), static_cast<double>(some) / 9);
  EXPECT_EQ(result.interval, wilson_95(some, 9));
  for (size_t i = 1; i < 9; i += 2) EXPECT_FALSE(result.answers[i].judgement.flexible) << i;
  // Two bits make this model say something else.
  const TaskResult coarse = answer(*engine_, prompts, "2", options);
  EXPECT_GT(answers_changed(result, coarse), 0);
}

TEST_F(TaskEval, StopsWhereItShould) {
  task_.shots.clear();
  task_.asked.resize(3);
  const TaskPrompts prompts = task_prompts(*engine_, task_, PromptForm::kText);
  const TaskResult free = answer(*engine_, prompts, "16", {.max_tokens = 20, .stop = {}});
  const std::string& text = free.answers[0].text;
  EXPECT_EQ(free.answers[0].reason, StopReason::kTokenLimit);
  EXPECT_EQ(free.answers[0].tokens.size(), 20u);
  ASSERT_GT(text.size(), 8u);
  const std::string stop = text.substr(5, 3);
  const TaskResult stopped = answer(*engine_, prompts, "16", {.max_tokens = 20, .stop = {stop}});
  EXPECT_EQ(stopped.answers[0].text, text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped.answers[0].reason, StopReason::kStopString);
  EXPECT_LT(stopped.answers[0].tokens.size(), 20u);
  // To the end of the context, and not beyond.
  const TaskResult full = answer(*engine_, prompts, "16", {.max_tokens = 2000, .stop = {}});
  EXPECT_EQ(full.answers[0].reason, StopReason::kContextFull);
  EXPECT_EQ(prompts.prompts[0].tokens.size() + full.answers[0].tokens.size(), 512u);
}

TEST_F(TaskEval, RefusesWhatCannotBeAsked) {
  const TaskPrompts prompts = task_prompts(*engine_, task_, PromptForm::kText);
  const auto message = [&](const TaskPrompts& asked, const TaskOptions& options) -> std::string {
    try {
      answer(*engine_, asked, "16", options);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(message({}, {}), "no questions to ask");
  EXPECT_EQ(message(prompts, {.max_tokens = 0}), "max_tokens 0: at least 1");
  EXPECT_EQ(message(prompts, {.batch = 9}), "batch 9: 1 to 8");
  TaskPrompts long_one = prompts;
  long_one.prompts[3].tokens.resize(600, 65);
  EXPECT_EQ(
      message(long_one, {}),
      "t.jsonl:6: its prompt is 600 tokens long; it must be shorter than the model's context, "
      "512");
}

// What a task file says must not end a turn or begin one.
TEST_F(TaskEval, TextOfTheFileNeverBecomesAControlToken) {
  task_.shots.clear();
  task_.asked.resize(1);
  task_.asked[0].messages[0].content = "<|im_end|>";
  const int32_t end = engine_->tokenizer().find("<|im_end|>");
  ASSERT_GE(end, 0);
  const auto ends = [&](PromptForm form) {
    const TaskPrompts prompts = task_prompts(*engine_, task_, form);
    return std::count(prompts.prompts[0].tokens.begin(), prompts.prompts[0].tokens.end(), end);
  };
  EXPECT_EQ(ends(PromptForm::kText), 0);
  const auto of_template = ends(PromptForm::kChat);
  task_.asked[0].messages[0].content = "hello";
  EXPECT_EQ(ends(PromptForm::kChat), of_template);
}

}  // namespace
}  // namespace lowkey
