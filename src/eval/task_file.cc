#include "eval/task_file.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "eval/answers.h"

namespace lowkey {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 3;  // an object, its messages, one of them

// One line of the file: what is wrong with it is said with where it is.
class Line {
 public:
  Line(std::string_view text, std::string_view source, int64_t number)
      : source_(source), number_(number) {
    try {
      json_ = Json::parse(text, [this](int depth, Json::parse_event_t event, Json& parsed) {
        return check(depth, event, parsed);
      });
    } catch (const Json::exception& error) {
      // "[json.exception.parse_error.101] parse error at line 1, column 5: ...": from the column
      // on, the line is ours to say.
      std::string_view what = error.what();
      if (const size_t column = what.find("column "); column != what.npos) {
        what.remove_prefix(column);
      }
      refuse("not JSON: {}", what);
    }
  }

  TaskExample example() const {
    if (!json_.is_object()) refuse("expected an object, found {}", json_.type_name());
    expect_fields(json_, "", {"question", "messages", "answer", "id"});
    if (json_.contains("id") && !json_["id"].is_string() && !json_["id"].is_number()) {
      refuse("id: expected a string or a number, found {}", json_["id"].type_name());
    }
    TaskExample example;
    example.line = number_;
    example.is_question = json_.contains("question");
    if (example.is_question == json_.contains("messages")) {
      refuse("{}", example.is_question ? "both \"question\" and \"messages\": one of them"
                                       : "neither \"question\" nor \"messages\"");
    }
    if (example.is_question) {
      example.messages.push_back({"user", text(json_, "", "question")});
    } else {
      read_messages(example.messages);
    }
    example.worked = text(json_, "", "answer");
    if (final_answer(example.worked).empty()) refuse("answer: nothing after \"####\"");
    return example;
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kInvalidArgument, "{}:{}: {}", source_, number_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  // What the library would let through: keys given twice (the last would win) and deep nesting.
  bool check(int depth, Json::parse_event_t event, const Json& parsed) {
    if (depth > kMaxDepth) refuse("nested deeper than {}", kMaxDepth);
    const auto level = static_cast<size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      keys_[level + 1].clear();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_[level].insert(key).second) refuse("field '{}' is given twice", key);
    }
    return true;
  }

  void expect_fields(const Json& object, std::string_view path,
                     std::initializer_list<std::string_view> known) const {
    for (const auto& [key, unused] : object.items()) {
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        refuse("{}unknown field '{}'; known: {}", path, key, fmt::join(known, ", "));
      }
    }
  }

  // A string that is more than blanks.
  std::string text(const Json& object, std::string_view path, const char* field) const {
    if (!object.contains(field)) refuse("{}\"{}\" is missing", path, field);
    const Json& value = object[field];
    if (!value.is_string()) {
      refuse("{}{}: expected a string, found {}", path, field, value.type_name());
    }
    const auto& string = value.get_ref<const std::string&>();
    if (string.find_first_not_of(" \t\r\n") == string.npos) refuse("{}{}: empty", path, field);
    return string;
  }

  void read_messages(std::vector<ChatMessage>& messages) const {
    const Json& array = json_["messages"];
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

  std::string_view source_;
  int64_t number_;
  std::array<std::set<std::string>, kMaxDepth + 2> keys_;
  Json json_;
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
  for (int64_t number = 1; !jsonl.empty(); ++number) {
    const std::string_view line = jsonl.substr(0, jsonl.find('\n'));
    jsonl.remove_prefix(std::min(line.size() + 1, jsonl.size()));
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    if (line.size() > kMaxTaskLine) {
      fail(ErrorCode::kInvalidArgument, "{}:{}: a line of {} bytes; at most {}", source_name,
           number, line.size(), kMaxTaskLine);
    }
    if (examples.size() == kMaxTaskExamples) {
      fail(ErrorCode::kInvalidArgument, "{}:{}: more than {} examples", source_name, number,
           kMaxTaskExamples);
    }
    examples.push_back(Line(line, source_name, number).example());
  }
  if (examples.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "{}: no examples: one JSON object a line, such as {{\"question\": \"...\", \"answer\": "
         "\"42\"}}",
         source_name);
  }
  return examples;
}

Task read_task(const std::filesystem::path& path, const std::string& few_shot) {
  Task task{path.filename().string(), {}, read_examples(path)};
  const bool number =
      !few_shot.empty() && few_shot.find_first_not_of("0123456789") == few_shot.npos;
  if (number) {
    size_t count = 0;
    const char* end = few_shot.data() + few_shot.size();
    const bool fits = std::from_chars(few_shot.data(), end, count).ec == std::errc();
    if (!fits || count >= task.asked.size()) {
      fail(ErrorCode::kInvalidArgument, "{}: {} shots of {} examples leave nothing to ask",
           task.name, few_shot, task.asked.size());
    }
    const auto middle = task.asked.begin() + static_cast<std::ptrdiff_t>(count);
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
