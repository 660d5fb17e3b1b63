#pragma once
// Questions with known answers, one JSON object a line, and how they are put to a model.
// Torch-free.
//
//   {"question": "...", "answer": "16 - 3 = 13, ... #### 42"}              GSM8K's own
//   {"question": "...", "answer": "42"}
//   {"messages": [{"role": "user", "content": "..."}, ...], "answer": "42"}
//
// A conversation is [system,] user, assistant, user, ..., user. "id", a string or a number, is
// ignored; blank lines too.
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "load/chat_template.h"

namespace lowkey {

inline constexpr uint64_t kMaxTaskBytes = uint64_t{64} << 20;
inline constexpr size_t kMaxTaskLine = size_t{1} << 20;  // bytes
inline constexpr size_t kMaxTaskExamples = 100'000;
inline constexpr size_t kMaxTaskMessages = 256;

struct TaskExample {
  std::vector<ChatMessage> messages;  // the last is the user's; a question is one of them
  bool is_question = true;            // "question", not "messages"
  std::string worked;                 // the answer as the file has it: what a shot shows
  int64_t line = 0;                   // of the file, from 1

  // Whether it asks and answers the same, wherever it stands.
  bool same_as(const TaskExample& other) const;
};

// Throws Error kInvalidArgument "NAME:LINE: ..." for the first line that is not such an object:
// unknown or repeated fields, wrong types, roles out of turn, an answer with nothing to compare, a
// limit passed. At least one example.
std::vector<TaskExample> parse_task(std::string_view jsonl, std::string_view source_name);

// Examples to be shown before each question, and those to be asked.
struct Task {
  std::string name;  // of the file
  std::vector<TaskExample> shots, asked;
};

// How many of a file's examples `few_shot` asks for as shots; none where it is no number. Throws
// Error kInvalidArgument naming the file where they leave nothing to ask.
std::optional<size_t> shot_count(const std::string& few_shot, size_t examples,
                                 std::string_view source_name);

// `few_shot`: "" for none; a number N: the file's first N are shots and not asked; else a file
// whose examples are shots, and none of which is asked. Throws Error as parse_task and read_file;
// kInvalidArgument where no question is left.
Task read_task(const std::filesystem::path& path, const std::string& few_shot);

// The two forms of lm-evaluation-harness, which the KVTuner paper measures with. As plain text:
//   Question: ...\nAnswer: worked\n\nQuestion: ...\nAnswer:
// and as turns (its fewshot_as_multiturn): a question is a user's "Question: ...\nAnswer:", a
// shot's answer the assistant's. Conversations keep their turns; of system messages only the asked
// one's is used, and stands first.
std::string task_text(std::span<const TaskExample> shots, const TaskExample& asked);
std::vector<ChatMessage> task_turns(std::span<const TaskExample> shots, const TaskExample& asked);

}  // namespace lowkey
