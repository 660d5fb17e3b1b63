#pragma once
// Strict reading of our JSON formats: every complaint is "SOURCE: PATH: what", unknown fields,
// wrong types and keys given twice are complaints. Torch-free; errors are Error kInvalidArgument.
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "recipe/names.h"

namespace lowkey {

// A value, where it is, and whom to blame. Borrows the document and the source's name.
class JsonNode {
 public:
  using Json = nlohmann::json;

  JsonNode(const Json& value, std::string_view source, std::string path)
      : value_(&value), source_(source), path_(std::move(path)) {}

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kInvalidArgument, "{}: {}", where(),
         fmt::format(format, std::forward<Args>(args)...));
  }

  // "SOURCE: PATH", or "SOURCE" for the document itself.
  std::string where() const;
  std::string_view source() const { return source_; }

  // An object with these fields and no others.
  void expect_fields(std::initializer_list<std::string_view> known) const;
  void expect_fields(std::span<const std::string_view> known) const;

  bool has(const char* key) const { return value_->contains(key); }
  JsonNode operator[](const char* key) const;  // refuses what is missing
  std::vector<JsonNode> elements() const;
  std::vector<std::pair<std::string, JsonNode>> members() const;

  bool is_string() const { return value_->is_string(); }
  const std::string& text() const;
  bool boolean() const;
  double number() const;
  double number(double min, double max) const;  // max may be infinity: none
  int32_t integer(int32_t min, int32_t max) const;
  std::string sha256() const;

  template <typename E>
  E choice() const {
    std::vector<std::string_view> names;
    for (const EnumName<E>& entry : kEnumNames<E>) {
      if (text() == entry.name) return entry.value;
      names.push_back(entry.name);
    }
    refuse("unknown value '{}'; known: {}", text(), fmt::join(names, ", "));
  }

 private:
  JsonNode child(const std::string& key) const;
  void expect(bool right, std::string_view wanted) const;

  const Json* value_;
  std::string_view source_;
  std::string path_;
};

// A parsed document. Throws Error kInvalidArgument: not JSON (with line and column), a key given
// twice, nested deeper than max_depth (at most kMaxJsonDepth). `source_name` must outlive it.
inline constexpr int kMaxJsonDepth = 16;

class StrictJson {
 public:
  StrictJson(std::string_view json, std::string_view source_name, int max_depth);
  JsonNode root() const { return JsonNode(parsed_, source_, ""); }

 private:
  std::string_view source_;
  nlohmann::json parsed_;
};

// Which of the formats that live in .json files this is, by its top-level fields; kOther also for
// what is not JSON: its reader says why.
enum class JsonFormat : uint8_t { kRecipe, kFront, kModelOpt, kOther };
JsonFormat json_format(std::string_view json);

}  // namespace lowkey
