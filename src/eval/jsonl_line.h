#pragma once
// Files of one JSON object a line, as people write them: what is wrong with a line is said with
// where it is. Torch-free.
#include <fmt/ranges.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace lowkey {

// One line; refuse() and all that check throw Error kInvalidArgument "NAME:LINE: ...".
class JsonlLine {
 public:
  using Json = nlohmann::json;

  // Throws for what is no JSON, for an object nested deeper than `max_depth`, for fields given
  // twice, and for what is no object.
  JsonlLine(std::string_view text, std::string_view source, int64_t number, int max_depth = 2);

  const Json& json() const { return json_; }
  int64_t number() const { return number_; }

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kInvalidArgument, "{}:{}: {}", source_, number_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  // `path` names `object` in messages: "" or "messages[2]: ".
  void expect_fields(const Json& object, std::string_view path,
                     std::initializer_list<std::string_view> known) const;
  // Throws unless it is absent, a string or a number.
  void expect_label(const char* field) const;
  // Which of the two there is; throws unless it is exactly one.
  const char* either(const char* first, const char* second) const;
  // A string that is more than blanks.
  std::string text(const Json& object, std::string_view path, const char* field) const;

 private:
  bool check(int depth, Json::parse_event_t event, const Json& parsed);

  std::string_view source_;
  int64_t number_;
  int max_depth_;
  std::vector<std::set<std::string>> keys_;  // by depth
  Json json_;
};

// Calls `visit` with every line that is not blank, and its number from 1. Throws Error
// kInvalidArgument "NAME:LINE: ..." for a line or a number of lines beyond task_file.h's limits,
// and where there is none at all; `such_as` is then an example of one.
void for_each_jsonl_line(std::string_view jsonl, std::string_view source_name,
                         std::string_view such_as,
                         const std::function<void(std::string_view line, int64_t number)>& visit);

}  // namespace lowkey
