#pragma once
// Questions with choices, one JSON object a line, and the texts a model's choice is read from.
// Torch-free.
//
//   {"query": "Question: ...\nAnswer:", "choices": ["...", "..."], "gold": 1}
//   {"question": "...", "choices": [...], "answer": 1, "subject": "abstract_algebra"}
//
// A query is the whole prompt, as ARC and HellaSwag have it; a question is asked the way MMLU is.
// "gold", "answer" or "label": a choice's index from 0, or its letter. "id" and "ind" are ignored;
// blank lines too.
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lowkey {

inline constexpr size_t kMaxChoices = 26;  // letters

// What is scored after the prompt: a choice's text, or its letter with all choices in the prompt.
enum class ChoiceStyle : uint8_t { kText, kLetters };

struct ChoiceExample {
  std::string question = {};              // or query
  bool is_query = false;                  // the prompt as it is
  std::vector<std::string> choices = {};  // at least two
  int32_t gold = 0;                       // index of the right one
  std::string subject = {};               // "" for none
  int64_t line = 0;                       // of the file, from 1

  // Whether it asks the same, wherever it stands.
  bool same_as(const ChoiceExample& other) const;
};

// Throws Error kInvalidArgument "NAME:LINE: ..." for the first line that is not such an object; as
// parse_task.
std::vector<ChoiceExample> parse_choices(std::string_view jsonl, std::string_view source_name);

// A question with what is shown before it.
struct ChoiceQuestion {
  ChoiceExample asked;
  std::vector<ChoiceExample> shots;
};

struct ChoiceTask {
  std::string name;  // of the file
  ChoiceStyle style = ChoiceStyle::kText;
  std::vector<ChoiceQuestion> questions;
  size_t shots = 0;  // the most that any question has
};

// `few_shot`: "" for none; a number N: where lines have subjects, the first N others of a
// question's own are its shots, and all are asked; elsewhere the file's first N are shots and not
// asked. Else a file, whose examples (of the question's subject, where lines have subjects) are
// shots and never asked. Throws Error as parse_choices and read_file; kInvalidArgument where no
// question is left, where a file mixes questions and queries, or where one has a subject that the
// shots' file lacks.
ChoiceTask read_choices(const std::filesystem::path& path, const std::string& few_shot);

// lm-evaluation-harness's forms. kText: the query, or "Question: ...\nAnswer:"; its continuations
// are " choice". kLetters: "...\nA. ...\nB. ...\nAnswer:" with " A", " B", ...; before everything
// "The following are multiple choice questions (with answers) about SUBJECT.\n\n". Shots are
// answered prompts, parted by empty lines.
std::string choice_beginning(const ChoiceQuestion& question, ChoiceStyle style);  // up to the asked
std::string choice_prompt(const ChoiceExample& example, ChoiceStyle style);
std::string choice_continuation(const ChoiceExample& example, ChoiceStyle style, size_t choice);

}  // namespace lowkey
