#include "tune/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "support/paths.h"
#include "support/tiny_model.h"
#include "tune/measurer.h"

namespace lowkey::tune {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class CalibrationTest : public testing::Test {
 protected:
  CalibrationTest() {
    test::TinyModel({.seed = 5, .head_dim = 32, .max_context = 512})
        .write_gguf(folder_.path() / "tiny.gguf");
    engine_ = std::make_unique<Engine>(folder_.path() / "tiny.gguf",
                                       EngineOptions{.weights = WeightStorage::kF32, .threads = 2},
                                       ProgressFn{});
  }

  std::filesystem::path file(const std::string& text) {
    const auto path = folder_.path() / "chats.jsonl";
    std::ofstream(path) << text;
    return path;
  }

  std::string error_of(const std::string& text) {
    try {
      read_chats(file(text));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptFile);
      return error.what();
    }
    return "no error";
  }

  test::TempDir folder_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(CalibrationTest, ReadsBothFormsOfChats) {
  const ChatFile chats = read_chats(file(
      R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]})"
      "\n\n"
      R"({"question_id": 81, "turns": ["Write.", "Again."]})"
      "\n"));
  ASSERT_EQ(chats.conversations.size(), 1u);
  EXPECT_EQ(chats.conversations[0].messages[1].content, "Ho");
  ASSERT_EQ(chats.scripts.size(), 1u);
  EXPECT_THAT(chats.scripts[0].user_turns, ElementsAre("Write.", "Again."));
  EXPECT_EQ(chats.scripts[0].name, "chats.jsonl 3");
}

TEST_F(CalibrationTest, NamesTheLineOfABadChat) {
  EXPECT_THAT(error_of("{\"turns\": [\"a\"]}\nnonsense\n"), HasSubstr("chats.jsonl:2: not a JSON"));
  EXPECT_THAT(error_of("{\"turns\": []}\n"), HasSubstr("chats.jsonl:1: 'turns' is not a list"));
  EXPECT_THAT(error_of("{\"turns\": [1]}\n"), HasSubstr("'turns' is not a list of texts"));
  EXPECT_THAT(error_of("{\"messages\": [3]}\n"), HasSubstr("a message is no object"));
  EXPECT_THAT(error_of("{\"messages\": [{\"role\": \"user\"}]}\n"), HasSubstr("messages.content"));
  EXPECT_THAT(error_of("{\"text\": \"a\"}\n"), HasSubstr("neither 'messages' nor 'turns'"));
  EXPECT_THAT(error_of("\n"), HasSubstr("holds no conversation"));
}

TEST_F(CalibrationTest, ScoresFromTheFirstAnswerOn) {
  const Conversation conversation{
      "c", {{"user", "ab cd"}, {"assistant", "ef"}, {"user", "gh"}, {"assistant", "ij"}}};
  const Document document = chat_document(*engine_, conversation, 500);
  ASSERT_TRUE(engine_->has_chat_template());
  const std::vector<int32_t> before = engine_->encode_chat({{"user", "ab cd"}});
  ASSERT_EQ(document.scored.size(), 1u);
  const int64_t first = document.scored[0].first;
  EXPECT_GE(first, std::ssize(before) - 1);  // the answer's first letters may join its last token
  EXPECT_LE(first, std::ssize(before));
  EXPECT_EQ(document.scored[0].last, std::ssize(document.tokens));
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + first, document.tokens.begin()));

  EXPECT_EQ(chat_document(*engine_, conversation, std::ssize(before) + 3).scored[0].last,
            std::ssize(before) + 3);
  // Cut before anything was said: nothing to score.
  EXPECT_TRUE(chat_document(*engine_, conversation, 5).scored.empty());
  // A text that is only read counts whole.
  const Document text = chat_document(*engine_, {"t", {{kPlainText, "abcdef"}}}, 500);
  EXPECT_EQ(text.scored, (std::vector<TokenRange>{{1, std::ssize(text.tokens)}}));
}

TEST_F(CalibrationTest, AnswersAreTheSameForASeed) {
  Script script{.name = "s", .user_turns = {"One.", "Two."}, .max_answer_tokens = 12};
  const Conversation a = answer(*engine_, script, 400, 7, {}),
                     b = answer(*engine_, script, 400, 7, {});
  EXPECT_EQ(a.messages[1].role, "assistant");
  EXPECT_EQ(a.messages[3].content, b.messages[3].content);
  // The second turn might not fit: the conversation ends before it.
  EXPECT_EQ(answer(*engine_, script, 50, 7, {}).messages.size(), 2u);
}

TEST_F(CalibrationTest, SetsShareNothing) {
  std::string text;
  for (int i = 0; i < 900; ++i) text += static_cast<char>('a' + i * i % 26);
  const CalibrationSets sets = text_sets(*engine_, text, 100, 6, "text");
  EXPECT_EQ(sets.calibration.size(), 3u);
  EXPECT_EQ(sets.heldout.size(), 3u);
  EXPECT_THROW(text_sets(*engine_, text.substr(0, 90), 100, 6, "text"), Error);

  SetFiller filler(100);
  int added = 0;
  for (; !filler.full(); ++added) {
    filler.add({"d" + std::to_string(added), std::vector<int32_t>(41, added), {{1, 41}}});
  }
  const CalibrationSets filled = filler.take();
  ASSERT_EQ(filled.calibration.size(), 3u);  // 40 scored tokens each
  ASSERT_EQ(filled.heldout.size(), 3u);
  EXPECT_EQ(filled.calibration[2].name, "d2");
  EXPECT_EQ(filled.heldout[0].name, "d6");
  SetFiller empty(10);
  empty.add({"d", {1, 2}, {{1, 2}}});
  EXPECT_THROW(empty.take(), Error);

  CalibrationSets changed = filled;
  EXPECT_EQ(documents_sha256(changed), documents_sha256(filled));
  changed.heldout[1].tokens[5] ^= 1;
  EXPECT_NE(documents_sha256(changed), documents_sha256(filled));
}

TEST_F(CalibrationTest, MeasuresBothSetsAndATask) {
  const Document document{"d", std::vector<int32_t>(60, 7), {{1, 60}}};
  Document other = document;
  for (size_t i = 0; i < other.tokens.size(); ++i)
    other.tokens[i] = static_cast<int32_t>(i * 5 % 250);
  const Task task{"t",
                  {},
                  parse_task("{\"question\": \"a\", \"answer\": \"1\"}\n"
                             "{\"question\": \"b\", \"answer\": \"2\"}\n",
                             "t")};
  Measurer measurer(*engine_, {{document}, {other}},
                    split_task(*engine_, task, PromptForm::kText, {.max_tokens = 4}));
  const Measurement plain = measurer.measure({DataSet::kCalibration, "16"}, {});
  EXPECT_EQ(plain.kl, 0);
  EXPECT_GT(plain.ppl, 1);
  EXPECT_TRUE(plain.task_accuracy.has_value());
  const Measurement two = measurer.measure({DataSet::kCalibration, "kivi-2:r32"}, {});
  const Measurement heldout = measurer.measure({DataSet::kHeldout, "kivi-2:r32"}, {});
  EXPECT_GT(two.kl, 0);
  EXPECT_GT(heldout.kl, 0);
  EXPECT_NE(two.kl, heldout.kl);
  EXPECT_EQ(measurer.measure({DataSet::kCalibration, "kivi-2:r32"}, {}), two);
}

TEST(MeasurementOf, IntervalTreatsNeighboursAsOne) {
  std::vector<PositionScore> scores;
  for (int i = 0; i < 320; ++i) {
    scores.push_back({1.0, i / 32 % 2 == 0 ? 0.1 : 0.3, true});
  }
  const Measurement m = measurement_of(scores);
  EXPECT_NEAR(m.kl, 0.2, 1e-12);
  // Ten means, half 0.1 and half 0.3: their standard deviation is 0.1 * sqrt(10 / 9).
  EXPECT_NEAR(m.kl_ci, 1.96 * 0.1 * std::sqrt(10.0 / 9) / std::sqrt(10.0), 1e-12);
  EXPECT_EQ(measurement_of({{1, 0.5, true}}).kl_ci, 0);
}

TEST(Journaled, MeasurementsSurviveTheTrip) {
  const Job job{DataSet::kHeldout, "0=16,*=kivi-2:r32+i1"};
  const Measurement m{.kl = 1 / 3.0,
                      .kl_ci = 1e-17,
                      .kl_p999 = 2.5,
                      .ppl = 21.5400000000001,
                      .top1_agreement = 0.9,
                      .task_accuracy = 0.25};
  const nlohmann::json json = nlohmann::json::parse(to_json(job, m).dump());
  const auto [job_again, m_again] = job_from_json(json, "j");
  EXPECT_EQ(job_again, job);
  EXPECT_EQ(m_again, m);
  EXPECT_THROW(job_from_json({{"recipe", 3}}, "j"), Error);
}

}  // namespace
}  // namespace lowkey::tune
