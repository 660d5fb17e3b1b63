#include "eval/jsonl_line.h"

#include <algorithm>

#include "eval/task_file.h"

namespace lowkey {

JsonlLine::JsonlLine(std::string_view text, std::string_view source, int64_t number, int max_depth)
    : source_(source),
      number_(number),
      max_depth_(max_depth),
      keys_(static_cast<size_t>(max_depth) + 2) {
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
  if (!json_.is_object()) refuse("expected an object, found {}", json_.type_name());
}

// What the library would let through: keys given twice (the last would win) and deep nesting.
bool JsonlLine::check(int depth, Json::parse_event_t event, const Json& parsed) {
  if (depth > max_depth_) refuse("nested deeper than {}", max_depth_);
  const auto level = static_cast<size_t>(depth);
  if (event == Json::parse_event_t::object_start) {
    keys_[level + 1].clear();
  } else if (event == Json::parse_event_t::key) {
    const auto& key = parsed.get_ref<const std::string&>();
    if (!keys_[level].insert(key).second) refuse("field '{}' is given twice", key);
  }
  return true;
}

void JsonlLine::expect_fields(const Json& object, std::string_view path,
                              std::initializer_list<std::string_view> known) const {
  for (const auto& [key, unused] : object.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      refuse("{}unknown field '{}'; known: {}", path, key, fmt::join(known, ", "));
    }
  }
}

void JsonlLine::expect_label(const char* field) const {
  if (!json_.contains(field) || json_[field].is_string() || json_[field].is_number()) return;
  refuse("{}: expected a string or a number, found {}", field, json_[field].type_name());
}

const char* JsonlLine::either(const char* first, const char* second) const {
  const bool has_first = json_.contains(first), has_second = json_.contains(second);
  if (has_first && has_second) refuse("both \"{}\" and \"{}\": one of them", first, second);
  if (!has_first && !has_second) refuse("neither \"{}\" nor \"{}\"", first, second);
  return has_first ? first : second;
}

std::string JsonlLine::text(const Json& object, std::string_view path, const char* field) const {
  if (!object.contains(field)) refuse("{}\"{}\" is missing", path, field);
  const Json& value = object[field];
  if (!value.is_string()) {
    refuse("{}{}: expected a string, found {}", path, field, value.type_name());
  }
  const auto& string = value.get_ref<const std::string&>();
  if (string.find_first_not_of(" \t\r\n") == string.npos) refuse("{}{}: empty", path, field);
  return string;
}

void for_each_jsonl_line(std::string_view jsonl, std::string_view source_name,
                         std::string_view such_as,
                         const std::function<void(std::string_view line, int64_t number)>& visit) {
  size_t count = 0;
  for (int64_t number = 1; !jsonl.empty(); ++number) {
    const std::string_view line = jsonl.substr(0, jsonl.find('\n'));
    jsonl.remove_prefix(std::min(line.size() + 1, jsonl.size()));
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    if (line.size() > kMaxTaskLine) {
      fail(ErrorCode::kInvalidArgument, "{}:{}: a line of {} bytes; at most {}", source_name,
           number, line.size(), kMaxTaskLine);
    }
    if (++count > kMaxTaskExamples) {
      fail(ErrorCode::kInvalidArgument, "{}:{}: more than {} examples", source_name, number,
           kMaxTaskExamples);
    }
    visit(line, number);
  }
  if (count == 0) {
    fail(ErrorCode::kInvalidArgument, "{}: no examples: one JSON object a line, such as {}",
         source_name, such_as);
  }
}

}  // namespace lowkey
