#include "eval/task_file.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/files.h"
#include "eval/answers.h"
#include "eval/jsonl_line.h"

namespace lowkey {
namespace {

constexpr int kMaxDepth = 3;  // an object, its messages, one of them

// One line of the file as an example.
class ExampleLine : public JsonlLine {
 public:
  ExampleLine(std::string_view text, std::string_view source, int64_t number)
      : JsonlLine(text, source, number, kMaxDepth) {}

  TaskExample example() const {
    expect_fields(json(), "", {"question", "messages", "answer", "id"});
    expect_label("id");
    TaskExample example;
    example.line = number();
    example.is_question = std::string_view(either("question", "messages")) == "question";
    if (example.is_question) {
      example.messages.push_back({"user", text(json(), "", "question")});
    } else {
      read_messages(example.messages);
    }
    example.worked = text(json(), "", "answer");
    if (final_answer(example.worked).empty()) refuse("answer: nothing after \"####\"");
    return example;
  }

 private:
  void read_messages(std::vector<ChatMessage>& messages) const {
    const Json& array = json()["messages"];
    if (!array.is_array()) refuse("messages: expected an array, found {}", array.type_name());
    if (array.size() > kMaxTaskMessages) {
      refuse("messages: {} of them; at most {}", array.size(), kMaxTaskMessages);
    }
    bool users_turn = true;
    for (size_t i = 0; i < array.size(); ++i) {
      const std::string path = fmt::format("messages[{}]: ", i);
      if (!array[i].is_object()) {
        refuse("{}expected an object, found {}", path, array[i].type_name());
      }
      expect_fields(array[i], path, {"role", "content"});
      const std::string role = text(array[i], path, "role");
      const char* turn = users_turn ? "user" : "assistant";
      if (role != turn && !(i == 0 && role == "system")) {
        refuse("{}role '{}' where the {}'s turn is: [system,] user, assistant, ..., user", path,
               role, turn);
      }
      if (role != "system") users_turn = !users_turn;
      messages.push_back({role, text(array[i], path, "content")});
    }
    if (messages.empty() || messages.back().role != "user") {
      refuse("messages: the last must be the user's");
    }
  }
};

std::string asked_text(const TaskExample& example, const ChatMessage& message) {
  return example.is_question ? "Question: " + message.content + "\nAnswer:" : message.content;
}

// The system message that stands before everything, if the asked example has one.
const ChatMessage* system_message(const TaskExample& asked) {
  const ChatMessage& first = asked.messages.front();
  return first.role == "system" ? &first : nullptr;
}

std::vector<TaskExample> read_examples(const std::filesystem::path& path) {
  return parse_task(read_file(path, kMaxTaskBytes), path.filename().string());
}

}  // namespace

bool TaskExample::same_as(const TaskExample& other) const {
  return worked == other.worked &&
         std::equal(messages.begin(), messages.end(), other.messages.begin(), other.messages.end(),
                    [](const ChatMessage& a, const ChatMessage& b) {
                      return a.role == b.role && a.content == b.content;
                    });
}

std::vector<TaskExample> parse_task(std::string_view jsonl, std::string_view source_name) {
  std::vector<TaskExample> examples;
  for_each_jsonl_line(jsonl, source_name, R"({"question": "...", "answer": "42"})",
                      [&](std::string_view line, int64_t number) {
                        examples.push_back(ExampleLine(line, source_name, number).example());
                      });
  return examples;
}

std::optional<size_t> shot_count(const std::string& few_shot, size_t examples,
                                 std::string_view source_name) {
  if (few_shot.empty() || few_shot.find_first_not_of("0123456789") != few_shot.npos) {
    return std::nullopt;
  }
  size_t count = 0;
  const char* end = few_shot.data() + few_shot.size();
  const bool fits = std::from_chars(few_shot.data(), end, count).ec == std::errc();
  if (!fits || count >= examples) {
    fail(ErrorCode::kInvalidArgument, "{}: {} shots of {} examples leave nothing to ask",
         source_name, few_shot, examples);
  }
  return count;
}

Task read_task(const std::filesystem::path& path, const std::string& few_shot) {
  Task task{path.filename().string(), {}, read_examples(path)};
  if (const auto count = shot_count(few_shot, task.asked.size(), task.name)) {
    const auto middle = task.asked.begin() + static_cast<std::ptrdiff_t>(*count);
    task.shots.assign(task.asked.begin(), middle);
    task.asked.erase(task.asked.begin(), middle);
  } else if (!few_shot.empty()) {
    task.shots = read_examples(few_shot);
  }
  // A question whose answer was shown measures nothing.
  std::erase_if(task.asked, [&](const TaskExample& example) {
    return std::any_of(task.shots.begin(), task.shots.end(),
                       [&](const TaskExample& shot) { return shot.same_as(example); });
  });
  if (task.asked.empty()) {
    fail(ErrorCode::kInvalidArgument, "{}: every example is a shot: nothing is left to ask",
         task.name);
  }
  return task;
}

std::string task_text(std::span<const TaskExample> shots, const TaskExample& asked) {
  std::string text;
  if (const ChatMessage* system = system_message(asked)) text = system->content + "\n\n";
  // In a text, a conversation's turns are questions and answers too.
  const auto add = [&](const TaskExample& example) {
    for (const ChatMessage& message : example.messages) {
      if (message.role == "user") text += "Question: " + message.content + "\nAnswer:";
      if (message.role == "assistant") text += " " + message.content + "\n\n";
    }
  };
  for (const TaskExample& shot : shots) {
    add(shot);
    text += " " + shot.worked + "\n\n";
  }
  add(asked);
  return text;
}

std::vector<ChatMessage> task_turns(std::span<const TaskExample> shots, const TaskExample& asked) {
  std::vector<ChatMessage> turns;
  if (const ChatMessage* system = system_message(asked)) turns.push_back(*system);
  const auto add = [&](const TaskExample& example) {
    for (const ChatMessage& message : example.messages) {
      if (message.role == "user") turns.push_back({"user", asked_text(example, message)});
      if (message.role == "assistant") turns.push_back(message);
    }
  };
  for (const TaskExample& shot : shots) {
    add(shot);
    turns.push_back({"assistant", shot.worked});
  }
  add(asked);
  return turns;
}

}  // namespace lowkey
