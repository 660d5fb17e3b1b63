#include "eval/mt_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "engine/session.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

const MtBenchSettings kSettings = {"tiny-16", "tiny.gguf", "16", "f32", "greedy", 0, 8};

template <typename Call>
std::string refusal(const Call& call) {
  try {
    call();
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
}

TEST(MtBenchFile, ReadsQuestions) {
  const auto questions = parse_mt_bench(
      R"({"question_id": 81, "category": "writing", "turns": ["a", "b"]}
{"question_id": 82, "category": "math", "turns": ["c"], "reference": ["d"]})",
      "q.jsonl");
  ASSERT_EQ(questions.size(), 2u);
  EXPECT_EQ(questions[0].id, 81);
  EXPECT_THAT(questions[0].turns, testing::ElementsAre("a", "b"));
  EXPECT_EQ(fastchat_temperature(questions[0].category), 0.7);
  EXPECT_EQ(fastchat_temperature("math"), 0);
  EXPECT_EQ(fastchat_temperature("stem"), 0.1);
  const auto message = [](const char* line) {
    return refusal([&] { parse_mt_bench(line, "q.jsonl"); });
  };
  EXPECT_EQ(message(R"({"category": "a", "turns": ["a"]})"),
            "q.jsonl:1: \"question_id\" is missing");
  EXPECT_EQ(message(R"({"question_id": "a", "category": "a", "turns": ["a"]})"),
            "q.jsonl:1: question_id: expected a whole number, found string");
  EXPECT_EQ(message(R"({"question_id": 1, "category": "a", "turns": []})"),
            "q.jsonl:1: turns: 0 of them; 1 to 16");
  EXPECT_EQ(message(R"({"question_id": 1, "category": "a", "turns": [1]})"),
            "q.jsonl:1: turns[0]: expected a string, found number");
  EXPECT_EQ(message("{\"question_id\": 1, \"category\": \"a\", \"turns\": [\"a\"]}\n"
                    "{\"question_id\": 1, \"category\": \"a\", \"turns\": [\"b\"]}"),
            "q.jsonl:2: question 1 is there twice");
}

TEST(MtBenchFile, WritesWhatFastChatReadsAndGoesOn) {
  const MtBenchQuestion question = {81, "writing", {"a", "b"}};
  const std::string line = mt_bench_answer_line(question, {"x\n", "y"}, kSettings, 12.5);
  ASSERT_TRUE(line.ends_with("\n"));
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["question_id"], 81);
  EXPECT_EQ(json["model_id"], "tiny-16");
  EXPECT_EQ(json["choices"], nlohmann::json::parse(R"([{"index": 0, "turns": ["x\n", "y"]}])"));
  EXPECT_EQ(json["tstamp"], 12.5);
  EXPECT_EQ(json["answer_id"].get<std::string>().size(), 22u);
  // The same answer, the same id; another, another.
  const auto id = [&](const std::vector<std::string>& answers, double when) {
    return nlohmann::json::parse(
        mt_bench_answer_line(question, answers, kSettings, when))["answer_id"];
  };
  EXPECT_EQ(id({"x\n", "y"}, 99), json["answer_id"]);
  EXPECT_NE(id({"x", "y"}, 12.5), json["answer_id"]);

  // A file that was cut off goes on after its last whole line.
  const std::string cut = line + line.substr(0, line.size() / 2);
  const MtBenchAnswered answered = parse_mt_bench_answers(cut, "a.jsonl", kSettings);
  EXPECT_THAT(answered.ids, testing::ElementsAre(81));
  EXPECT_EQ(answered.bytes, line.size());
  EXPECT_EQ(parse_mt_bench_answers("", "a.jsonl", kSettings).bytes, 0u);
  EXPECT_EQ(parse_mt_bench_answers(line.substr(0, 9), "a.jsonl", kSettings).bytes, 0u);
  const auto message = [&](const std::string& text, const MtBenchSettings& settings) {
    return refusal([&] { parse_mt_bench_answers(text, "a.jsonl", settings); });
  };
  EXPECT_EQ(message(line + line, kSettings), "a.jsonl:2: question 81 is answered twice");
  MtBenchSettings other = kSettings;
  other.max_tokens = 9;
  EXPECT_EQ(message(line, other),
            "a.jsonl:1: this answer was made with another model, cache or sampling: another -o");
  other = kSettings;
  other.model_id = "b";
  EXPECT_EQ(message(line, other),
            "a.jsonl:1: an answer of 'tiny-16', not of 'b': another -o, or another --model-id");
  EXPECT_EQ(message("{\"a\": 1}\n", kSettings), "a.jsonl:1: \"model_id\" is missing");
}

TEST(MtBench, AnswersEveryTurnThroughTheTemplate) {
  const test::TempDir folder;
  test::TinyModel({.seed = 12, .head_dim = 32}).write_gguf(folder / "tiny.gguf");
  Engine engine(folder / "tiny.gguf", {.weights = WeightStorage::kF32, .threads = 2}, {});
  const CacheSpec spec = resolve_recipe(parse_recipe("kivi-2:r32"), engine.kv_shape());
  MtBenchQuestion question = {81, "writing", {"hello", "again"}};
  MtBenchOptions options{.max_tokens = 8};
  std::vector<std::string> answers = answer_mt_bench(engine, spec, question, options, {});
  // A random model may have nothing to say to a word.
  for (char c = 'a'; c <= 'z' && answers[0].empty(); ++c) {
    question.turns[0] = std::string(3, c);
    answers = answer_mt_bench(engine, spec, question, options, {});
  }
  ASSERT_EQ(answers.size(), 2u);
  // What a conversation gives that is held turn by turn.
  Session session(engine, spec);
  GenerateOptions generate;
  generate.sampling.temperature = 0;
  generate.max_tokens = 8;
  const auto trimmed = [](std::string text) {
    text.erase(0, text.find_first_not_of(" \t\n\v\f\r"));
    text.erase(text.find_last_not_of(" \t\n\v\f\r") + 1);
    return text;
  };
  const auto first =
      session.generate(engine.encode_chat({{"user", question.turns[0]}}), generate, {});
  EXPECT_EQ(answers[0], trimmed(first.text));
  ASSERT_FALSE(answers[0].empty());
  const auto second = session.generate(
      engine.encode_chat(
          {{"user", question.turns[0]}, {"assistant", answers[0]}, {"user", "again"}}),
      generate, {});
  EXPECT_EQ(answers[1], trimmed(second.text));
  // Sampled answers follow from the seed, and a category without temperature from nothing.
  options.sampling = MtBenchSampling::kFastChat;
  options.seed = 1;
  const auto sampled = answer_mt_bench(engine, spec, question, options, {});
  EXPECT_EQ(answer_mt_bench(engine, spec, question, options, {}), sampled);
  bool differs = false;  // bytes that are no characters all look alike
  for (options.seed = 2; options.seed < 12 && !differs; ++options.seed) {
    differs = answer_mt_bench(engine, spec, question, options, {}) != sampled;
  }
  EXPECT_TRUE(differs);
  EXPECT_EQ(answer_mt_bench(engine, spec, {81, "math", question.turns}, options, {}), answers);
  options.max_tokens = 500;
  EXPECT_THAT(refusal([&] { answer_mt_bench(engine, spec, question, options, {}); }),
              testing::MatchesRegex("question 81, turn 2: .*: fewer --max-tokens"));
}

}  // namespace
}  // namespace lowkey
