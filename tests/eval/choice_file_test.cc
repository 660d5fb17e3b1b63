#include "eval/choice_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "support/paths.h"

namespace lowkey {
namespace {

using testing::ElementsAre;

std::string refusal(std::string_view jsonl) {
  try {
    parse_choices(jsonl, "c.jsonl");
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
}

TEST(ChoiceFile, ReadsQueriesAndQuestions) {
  const auto queries = parse_choices(
      R"({"query": "Q:", "choices": ["a", "b"], "gold": 1, "id": 4}

{"ind": 3, "query": "R", "choices": ["a", "b", "c"], "label": "2"})",
      "c.jsonl");
  ASSERT_EQ(queries.size(), 2u);
  EXPECT_TRUE(queries[0].is_query);
  EXPECT_EQ(queries[0].gold, 1);
  EXPECT_EQ(queries[1].gold, 2);
  EXPECT_EQ(queries[1].line, 3);
  EXPECT_THAT(queries[1].choices, ElementsAre("a", "b", "c"));
  const auto question = parse_choices(
      R"({"question": "Q", "choices": ["a", "b"], "answer": "B", "subject": "s"})", "c.jsonl");
  EXPECT_FALSE(question[0].is_query);
  EXPECT_EQ(question[0].gold, 1);
  EXPECT_EQ(question[0].subject, "s");
}

TEST(ChoiceFile, SaysWhatIsWrongWhere) {
  EXPECT_EQ(refusal("\n[1]"), "c.jsonl:2: expected an object, found array");
  EXPECT_EQ(refusal(R"({"choices": ["a", "b"], "gold": 0})"),
            R"(c.jsonl:1: neither "question" nor "query")");
  EXPECT_EQ(refusal(R"({"query": "a", "question": "a", "choices": ["a", "b"], "gold": 0})"),
            R"(c.jsonl:1: both "question" and "query": one of them)");
  EXPECT_EQ(refusal(R"({"query": "a", "choices": ["a"], "gold": 0})"),
            "c.jsonl:1: choices: 1 of them; 2 to 26");
  EXPECT_EQ(refusal(R"({"query": "a", "choices": ["a", 5], "gold": 0})"),
            "c.jsonl:1: choices[1]: expected a string, found number");
  EXPECT_EQ(refusal(R"({"query": "a", "choices": ["a", " "], "gold": 0})"),
            "c.jsonl:1: choices[1]: empty");
  EXPECT_EQ(refusal(R"({"query": "a", "choices": ["a", "b"]})"),
            R"(c.jsonl:1: no "answer" (or "gold", "label"))");
  EXPECT_EQ(refusal(R"({"query": "a", "choices": ["a", "b"], "gold": 0, "answer": 0})"),
            R"(c.jsonl:1: both "gold" and "answer": one of them)");
  for (const char* gold : {"2", "-1", "\"C\"", "\"AB\"", "1.5", "18446744073709551615", "[0]"}) {
    EXPECT_EQ(
        refusal(std::string(R"({"query": "a", "choices": ["a", "b"], "gold": )") + gold + "}"),
        "c.jsonl:1: gold: none of the 2 choices: an index from 0, or a letter from A")
        << gold;
  }
  EXPECT_EQ(refusal(R"({"query": "a", "choices": ["a", "b"], "gold": 0}
{"question": "a", "choices": ["a", "b"], "gold": 0})"),
            "c.jsonl:2: a question in a file of queries");
  EXPECT_EQ(refusal(R"({"query": "a", "choices": ["a", "b"], "gold": 0, "gold": 1})"),
            "c.jsonl:1: field 'gold' is given twice");
}

class ChoiceShots : public testing::Test {
 protected:
  std::filesystem::path write(const char* name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  static std::string line(const std::string& question, const std::string& subject) {
    return R"({"question": ")" + question +
           R"(", "choices": ["x", "y"], "answer": 1, "subject": ")" + subject + "\"}\n";
  }
  static std::vector<std::string> shots(const ChoiceQuestion& question) {
    std::vector<std::string> all;
    for (const ChoiceExample& shot : question.shots) all.push_back(shot.question);
    return all;
  }
  std::string refused(const std::filesystem::path& path, const std::string& few_shot) {
    try {
      read_choices(path, few_shot);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  test::TempDir folder_;
};

TEST_F(ChoiceShots, AreTheSubjectsOthers) {
  const auto path = write("a.jsonl", line("1", "s") + line("2", "t") + line("3", "s") +
                                         line("4", "s") + line("5", "t"));
  const ChoiceTask task = read_choices(path, "2");
  ASSERT_EQ(task.questions.size(), 5u);
  EXPECT_EQ(task.shots, 2u);
  EXPECT_EQ(task.style, ChoiceStyle::kLetters);
  EXPECT_THAT(shots(task.questions[0]), ElementsAre("3", "4"));
  EXPECT_THAT(shots(task.questions[1]), ElementsAre("5"));
  EXPECT_THAT(shots(task.questions[3]), ElementsAre("1", "3"));
  EXPECT_EQ(read_choices(path, "0").shots, 0u);
  EXPECT_EQ(refused(path, "5"), "a.jsonl: 5 shots of 5 examples leave nothing to ask");
  // Of a file: all of the subject, and what they show is not asked.
  const auto dev = write("dev.jsonl", line("6", "s") + line("2", "t") + line("7", "s"));
  const ChoiceTask with_file = read_choices(path, dev.string());
  ASSERT_EQ(with_file.questions.size(), 4u);
  EXPECT_THAT(shots(with_file.questions[0]), ElementsAre("6", "7"));
  EXPECT_THAT(shots(with_file.questions[3]), ElementsAre("2"));
  EXPECT_EQ(refused(path, write("s.jsonl", line("6", "s")).string()),
            "a.jsonl:2: no shots of its subject, 't'");
  EXPECT_EQ(refused(path, path.string()),
            "a.jsonl: every example is a shot: nothing is left to ask");
}

TEST_F(ChoiceShots, AreTheFirstWhereNothingHasASubject) {
  const auto path = write("a.jsonl", R"({"query": "1", "choices": ["x", "y"], "gold": 0}
{"query": "2", "choices": ["x", "y"], "gold": 0}
{"query": "3", "choices": ["x", "y"], "gold": 0})");
  const ChoiceTask task = read_choices(path, "2");
  ASSERT_EQ(task.questions.size(), 1u);
  EXPECT_EQ(task.style, ChoiceStyle::kText);
  EXPECT_THAT(shots(task.questions[0]), ElementsAre("1", "2"));
  EXPECT_EQ(
      refused(path, write("q.jsonl", line("6", "s")).string()),
      (folder_ / "q.jsonl").string() + ": queries and questions cannot be shots of each other");
}

// As lm-evaluation-harness writes MMLU and ARC.
TEST_F(ChoiceShots, AreWrittenAsTheHarnessDoes) {
  const auto path = write("a.jsonl", line("One?", "high_school_x") + line("Two?", "high_school_x"));
  const ChoiceQuestion question = read_choices(path, "1").questions[0];
  EXPECT_EQ(choice_beginning(question, ChoiceStyle::kLetters) +
                choice_prompt(question.asked, ChoiceStyle::kLetters) +
                choice_continuation(question.asked, ChoiceStyle::kLetters, 1),
            "The following are multiple choice questions (with answers) about high school x.\n\n"
            "Two?\nA. x\nB. y\nAnswer: B\n\nOne?\nA. x\nB. y\nAnswer: B");
  EXPECT_EQ(choice_prompt(question.asked, ChoiceStyle::kText), "Question: One?\nAnswer:");
  EXPECT_EQ(choice_continuation(question.asked, ChoiceStyle::kText, 0), " x");
  ChoiceQuestion query{{.question = "As it is:", .is_query = true, .choices = {"x", "y"}}, {}};
  EXPECT_EQ(choice_beginning(query, ChoiceStyle::kText), "");
  EXPECT_EQ(choice_prompt(query.asked, ChoiceStyle::kText), "As it is:");
}

}  // namespace
}  // namespace lowkey
