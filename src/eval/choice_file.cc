#include "eval/choice_file.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/files.h"
#include "eval/jsonl_line.h"
#include "eval/task_file.h"

namespace lowkey {
namespace {

constexpr std::string_view kSuchAs =
    R"({"question": "...", "choices": ["...", "..."], "answer": 0})";
constexpr const char* kGoldFields[] = {"gold", "answer", "label"};

std::string letter(size_t choice) {
  return std::string(1, static_cast<char>('A' + choice));
}

class ChoiceLine : public JsonlLine {
 public:
  using JsonlLine::JsonlLine;

  ChoiceExample example() const {
    expect_fields(
        json(), "",
        {"question", "query", "choices", "gold", "answer", "label", "subject", "id", "ind"});
    expect_label("id");
    expect_label("ind");
    ChoiceExample example;
    example.line = number();
    const char* const field = either("question", "query");
    example.is_query = std::string_view(field) == "query";
    example.question = text(json(), "", field);
    if (json().contains("subject")) example.subject = text(json(), "", "subject");
    if (!json().contains("choices")) refuse("\"choices\" is missing");
    const Json& choices = json()["choices"];
    if (!choices.is_array()) refuse("choices: expected an array, found {}", choices.type_name());
    if (choices.size() < 2 || choices.size() > kMaxChoices) {
      refuse("choices: {} of them; 2 to {}", choices.size(), kMaxChoices);
    }
    for (size_t i = 0; i < choices.size(); ++i) {
      if (!choices[i].is_string()) {
        refuse("choices[{}]: expected a string, found {}", i, choices[i].type_name());
      }
      example.choices.push_back(choices[i].get<std::string>());
      if (example.choices.back().find_first_not_of(" \t\r\n") == std::string::npos) {
        refuse("choices[{}]: empty", i);
      }
    }
    example.gold = gold(choices.size());
    return example;
  }

 private:
  int32_t gold(size_t choices) const {
    const char* field = nullptr;
    for (const char* name : kGoldFields) {
      if (!json().contains(name)) continue;
      if (field) refuse("both \"{}\" and \"{}\": one of them", field, name);
      field = name;
    }
    if (!field) refuse("no \"answer\" (or \"gold\", \"label\")");
    const Json& value = json()[field];
    size_t index = kMaxChoices;
    if (value.is_number_unsigned()) {
      index = value.get<uint64_t>() < choices ? value.get<size_t>() : kMaxChoices;
    } else if (value.is_string() && value.get_ref<const std::string&>().size() == 1) {
      const char c = value.get_ref<const std::string&>()[0];
      if (c >= 'A' && c <= 'Z') index = static_cast<size_t>(c - 'A');
      if (c >= '0' && c <= '9') index = static_cast<size_t>(c - '0');
    }
    if (index >= choices) {
      refuse("{}: none of the {} choices: an index from 0, or a letter from A", field, choices);
    }
    return static_cast<int32_t>(index);
  }
};

std::vector<ChoiceExample> read_examples(const std::filesystem::path& path) {
  return parse_choices(read_file(path, kMaxTaskBytes), path.filename().string());
}

// Of the candidates, those that may be shown before `asked`: its subject's, not itself.
std::vector<ChoiceExample> shots_for(const ChoiceExample& asked,
                                     std::span<const ChoiceExample> candidates, size_t most) {
  std::vector<ChoiceExample> shots;
  for (const ChoiceExample& candidate : candidates) {
    if (shots.size() == most) break;
    if (candidate.subject == asked.subject && !candidate.same_as(asked)) shots.push_back(candidate);
  }
  return shots;
}

}  // namespace

bool ChoiceExample::same_as(const ChoiceExample& other) const {
  return question == other.question && choices == other.choices && subject == other.subject;
}

std::vector<ChoiceExample> parse_choices(std::string_view jsonl, std::string_view source_name) {
  std::vector<ChoiceExample> examples;
  for_each_jsonl_line(jsonl, source_name, kSuchAs, [&](std::string_view line, int64_t number) {
    examples.push_back(ChoiceLine(line, source_name, number).example());
    if (examples.back().is_query != examples.front().is_query) {
      fail(ErrorCode::kInvalidArgument, "{}:{}: a {} in a file of {}", source_name, number,
           examples.back().is_query ? "query" : "question",
           examples.front().is_query ? "queries" : "questions");
    }
  });
  return examples;
}

ChoiceTask read_choices(const std::filesystem::path& path, const std::string& few_shot) {
  std::vector<ChoiceExample> asked = read_examples(path);
  ChoiceTask task;
  task.name = path.filename().string();
  task.style = asked.front().is_query ? ChoiceStyle::kText : ChoiceStyle::kLetters;
  const bool subjects = std::any_of(asked.begin(), asked.end(),
                                    [](const ChoiceExample& e) { return !e.subject.empty(); });
  std::vector<ChoiceExample> shown;
  size_t most = kMaxTaskExamples;
  bool from_others = false;
  if (const auto count = shot_count(few_shot, asked.size(), task.name)) {
    most = *count;
    from_others = subjects;
    const auto middle = asked.begin() + static_cast<std::ptrdiff_t>(*count);
    shown.assign(asked.begin(), subjects ? asked.end() : middle);
    if (!subjects) asked.erase(asked.begin(), middle);
  } else if (!few_shot.empty()) {
    shown = read_examples(few_shot);
    if (shown.front().is_query != asked.front().is_query) {
      fail(ErrorCode::kInvalidArgument, "{}: queries and questions cannot be shots of each other",
           few_shot);
    }
  }
  for (const ChoiceExample& example : asked) {
    // A question whose answer was shown measures nothing.
    const bool was_shown =
        !from_others && std::any_of(shown.begin(), shown.end(), [&](const ChoiceExample& shot) {
          return shot.same_as(example);
        });
    if (was_shown) continue;
    ChoiceQuestion question{example, shots_for(example, shown, most)};
    if (!shown.empty() && most > 0 && question.shots.empty()) {
      fail(ErrorCode::kInvalidArgument, "{}:{}: no shots of its subject, '{}'", task.name,
           example.line, example.subject);
    }
    task.shots = std::max(task.shots, question.shots.size());
    task.questions.push_back(std::move(question));
  }
  if (task.questions.empty()) {
    fail(ErrorCode::kInvalidArgument, "{}: every example is a shot: nothing is left to ask",
         task.name);
  }
  return task;
}

std::string choice_prompt(const ChoiceExample& example, ChoiceStyle style) {
  if (style == ChoiceStyle::kText) {
    return example.is_query ? example.question : "Question: " + example.question + "\nAnswer:";
  }
  std::string text = example.question;
  for (size_t i = 0; i < example.choices.size(); ++i) {
    text += "\n" + letter(i) + ". " + example.choices[i];
  }
  return text + "\nAnswer:";
}

std::string choice_continuation(const ChoiceExample& example, ChoiceStyle style, size_t choice) {
  return " " + (style == ChoiceStyle::kLetters ? letter(choice) : example.choices[choice]);
}

std::string choice_beginning(const ChoiceQuestion& question, ChoiceStyle style) {
  std::string text;
  if (style == ChoiceStyle::kLetters && !question.asked.subject.empty()) {
    std::string subject = question.asked.subject;
    std::replace(subject.begin(), subject.end(), '_', ' ');
    text = "The following are multiple choice questions (with answers) about " + subject + ".\n\n";
  }
  for (const ChoiceExample& shot : question.shots) {
    text += choice_prompt(shot, style) +
            choice_continuation(shot, style, static_cast<size_t>(shot.gold)) + "\n\n";
  }
  return text;
}

}  // namespace lowkey
