#include "eval/task_file.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "eval/answers.h"
#include "support/paths.h"

namespace lowkey {
namespace {

using testing::ElementsAre;

constexpr const char* kThree = R"({"question": "2+3?", "answer": "2+3 = 5. #### 5"}

{"answer": "Paris", "question": "Capital of France?", "id": 7}
{"messages": [{"role": "system", "content": "Brief."}, {"role": "user", "content": "A is 1."},)"
                               R"( {"role": "assistant", "content": "Yes."},)"
                               R"( {"role": "user", "content": "What is A?"}], "answer": "1"})";

std::vector<int64_t> lines(const std::vector<TaskExample>& examples) {
  std::vector<int64_t> all;
  for (const TaskExample& example : examples) all.push_back(example.line);
  return all;
}

std::vector<std::string> spelled(const std::vector<ChatMessage>& messages) {
  std::vector<std::string> all;
  for (const ChatMessage& message : messages) all.push_back(message.role + ": " + message.content);
  return all;
}

std::string refusal(std::string_view jsonl) {
  try {
    parse_task(jsonl, "t.jsonl");
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
}

TEST(TaskFile, ReadsQuestionsAndConversations) {
  const std::vector<TaskExample> examples = parse_task(kThree, "t.jsonl");
  ASSERT_EQ(examples.size(), 3u);
  EXPECT_THAT(lines(examples), ElementsAre(1, 3, 4));  // blank lines count
  EXPECT_TRUE(examples[0].is_question);
  EXPECT_THAT(spelled(examples[0].messages), ElementsAre("user: 2+3?"));
  EXPECT_EQ(examples[0].worked, "2+3 = 5. #### 5");
  EXPECT_EQ(examples[1].worked, "Paris");
  EXPECT_FALSE(examples[2].is_question);
  EXPECT_THAT(spelled(examples[2].messages), ElementsAre("system: Brief.", "user: A is 1.",
                                                         "assistant: Yes.", "user: What is A?"));
  // The same file as Windows writes it.
  std::string crlf = kThree;
  for (size_t at = 0; (at = crlf.find('\n', at)) != crlf.npos; at += 2) crlf.insert(at, "\r");
  EXPECT_EQ(parse_task(crlf + "\r\n", "t.jsonl").size(), 3u);
}

struct Bad {
  const char* line;
  const char* message;
};

TEST(TaskFile, EveryBadLineIsNamedAndSaysWhatIsWrong) {
  const Bad all[] = {
      {"[]", "expected an object, found array"},
      {"{}", "neither \"question\" nor \"messages\""},
      {R"({"question":"a","messages":[],"answer":"1"})",
       "both \"question\" and \"messages\": one of them"},
      {R"({"question":"a"})", "\"answer\" is missing"},
      {R"({"question":"a","answer":42})", "answer: expected a string, found number"},
      {R"({"question":["a"],"answer":"42"})", "question: expected a string, found array"},
      {R"({"question":" \n","answer":"42"})", "question: empty"},
      {R"({"question":"a","answer":"so ####  "})", "answer: nothing after \"####\""},
      {R"({"question":"a","answer":""})", "answer: empty"},
      {R"({"question":"a","answer":"1","level":3})",
       "unknown field 'level'; known: question, messages, answer, id"},
      {R"({"question":"a","answer":"1","answer":"2"})", "field 'answer' is given twice"},
      {R"({"question":"a","answer":"1","id":[]})",
       "id: expected a string or a number, found array"},
      {R"({"messages":{},"answer":"1"})", "messages: expected an array, found object"},
      {R"({"messages":[],"answer":"1"})", "messages: the last must be the user's"},
      {R"({"messages":["a"],"answer":"1"})", "messages[0]: expected an object, found string"},
      {R"({"messages":[{"role":"user"}],"answer":"1"})", "messages[0]: \"content\" is missing"},
      {R"({"messages":[{"role":"user","content":"a","name":"b"}],"answer":"1"})",
       "messages[0]: unknown field 'name'; known: role, content"},
      {R"({"messages":[{"role":"system","content":"a"}],"answer":"1"})",
       "messages: the last must be the user's"},
      {R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"answer":"1"})",
       "messages: the last must be the user's"},
      {R"({"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}],"answer":"1"})",
       "messages[1]: role 'user' where the assistant's turn is: [system,] user, assistant, ..., "
       "user"},
      {R"({"messages":[{"role":"tool","content":"a"}],"answer":"1"})",
       "messages[0]: role 'tool' where the user's turn is: [system,] user, assistant, ..., user"},
      {R"({"messages":[{"role":"user","content":5}],"answer":"1"})",
       "messages[0]: content: expected a string, found number"},
      {R"({"messages":[{"role":"user","content":[{"text":"a"}]}],"answer":"1"})",
       "nested deeper than 3"},
  };
  const std::string good = R"({"question":"a","answer":"1"})";
  for (const Bad& bad : all) {
    EXPECT_EQ(refusal(good + "\n" + bad.line + "\n"), std::string("t.jsonl:2: ") + bad.message);
  }
  EXPECT_THAT(refusal(good + "\n\n" + R"({"question": "a",)"),
              testing::StartsWith("t.jsonl:3: not JSON: column 18: "));
  EXPECT_THAT(refusal("{\"question\": \"\xff\", \"answer\": \"1\"}"),
              testing::StartsWith("t.jsonl:1: not JSON: column "));
  EXPECT_THAT(refusal(good + good), testing::StartsWith("t.jsonl:1: not JSON: column "));
  for (const char* nothing : {"", "\n", " \r\n\t\n"}) {
    EXPECT_EQ(refusal(nothing),
              "t.jsonl: no examples: one JSON object a line, such as {\"question\": \"...\", "
              "\"answer\": \"42\"}");
  }
}

TEST(TaskFile, HasLimits) {
  const std::string good = "{\"question\":\"a\",\"answer\":\"1\"}\n";
  const std::string longest(kMaxTaskLine - good.size() + 1, 'x');
  const std::string line = "{\"question\":\"a" + longest + "\",\"answer\":\"1\"}";
  ASSERT_EQ(line.size(), kMaxTaskLine);
  EXPECT_EQ(parse_task(line, "t").size(), 1u);
  EXPECT_EQ(refusal(good + line + " "), "t.jsonl:2: a line of 1048577 bytes; at most 1048576");
  std::string many;
  for (size_t i = 0; i < kMaxTaskExamples; ++i) many += good;
  EXPECT_EQ(parse_task(many, "t").size(), kMaxTaskExamples);
  EXPECT_EQ(refusal(many + good), "t.jsonl:100001: more than 100000 examples");
  std::string turns;
  for (size_t i = 0; i <= kMaxTaskMessages; ++i) turns += (i == 0 ? "" : ",") + std::string("1");
  EXPECT_EQ(refusal("{\"messages\":[" + turns + "],\"answer\":\"1\"}"),
            "t.jsonl:1: messages: 257 of them; at most 256");
}

TEST(TaskForms, AreThoseOfTheHarness) {
  const std::vector<TaskExample> e = parse_task(kThree, "t.jsonl");
  const std::vector<TaskExample> shots = {e[0], e[1]};
  EXPECT_EQ(task_text({}, e[1]), "Question: Capital of France?\nAnswer:");
  EXPECT_EQ(task_text(shots, e[0]),
            "Question: 2+3?\nAnswer: 2+3 = 5. #### 5\n\n"
            "Question: Capital of France?\nAnswer: Paris\n\n"
            "Question: 2+3?\nAnswer:");
  EXPECT_EQ(task_text({&e[2], 1}, e[2]),
            "Brief.\n\n"
            "Question: A is 1.\nAnswer: Yes.\n\nQuestion: What is A?\nAnswer: 1\n\n"
            "Question: A is 1.\nAnswer: Yes.\n\nQuestion: What is A?\nAnswer:");
  EXPECT_THAT(spelled(task_turns(shots, e[1])),
              ElementsAre("user: Question: 2+3?\nAnswer:", "assistant: 2+3 = 5. #### 5",
                          "user: Question: Capital of France?\nAnswer:", "assistant: Paris",
                          "user: Question: Capital of France?\nAnswer:"));
  EXPECT_THAT(spelled(task_turns({&e[2], 1}, e[0])),
              ElementsAre("user: A is 1.", "assistant: Yes.", "user: What is A?", "assistant: 1",
                          "user: Question: 2+3?\nAnswer:"));
  EXPECT_EQ(spelled(task_turns({&e[0], 1}, e[2]))[0], "system: Brief.");
}

class TaskShots : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }
  Task read(const std::string& few_shot) { return read_task(folder_ / "t.jsonl", few_shot); }
  std::string refused(const std::string& few_shot) {
    try {
      read(few_shot);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  test::TempDir folder_;
};

TEST_F(TaskShots, AreNeverAsked) {
  write("t.jsonl", kThree);
  const Task none = read("");
  EXPECT_EQ(none.name, "t.jsonl");
  EXPECT_TRUE(none.shots.empty());
  EXPECT_THAT(lines(none.asked), ElementsAre(1, 3, 4));
  const Task first = read("1");
  EXPECT_THAT(lines(first.shots), ElementsAre(1));
  EXPECT_THAT(lines(first.asked), ElementsAre(3, 4));
  EXPECT_THAT(lines(read("0").asked), ElementsAre(1, 3, 4));
  EXPECT_EQ(refused("3"), "t.jsonl: 3 shots of 3 examples leave nothing to ask");
  EXPECT_EQ(refused("99999999999999999999999"),
            "t.jsonl: 99999999999999999999999 shots of 3 examples leave nothing to ask");

  // From another file, which shows one that would be asked, and one with another answer.
  write("shots.jsonl", R"({"question": "Capital of France?", "answer": "Paris"}
{"question": "2+3?", "answer": "#### 5"})");
  const Task other = read((folder_ / "shots.jsonl").string());
  EXPECT_EQ(other.shots.size(), 2u);
  EXPECT_THAT(lines(other.asked), ElementsAre(1, 4));
  EXPECT_EQ(refused((folder_ / "t.jsonl").string()),
            "t.jsonl: every example is a shot: nothing is left to ask");
  EXPECT_THAT(refused((folder_ / "nothing.jsonl").string()), testing::HasSubstr("nothing.jsonl"));
  // The same question twice in the file: shown once, not asked either.
  write("t.jsonl",
        std::string(kThree) + "\n{\"question\": \"2+3?\", \"answer\": \"2+3 = 5. #### 5\"}");
  EXPECT_THAT(lines(read("1").asked), ElementsAre(3, 4));
}

}  // namespace
}  // namespace lowkey
