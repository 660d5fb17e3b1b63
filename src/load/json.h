#pragma once
// JSON from files that cannot be trusted: limits first, errors with file and byte, typed fields.
// Torch-free, thread-safe.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace lowkey {

struct JsonLimits {
  int depth = 64;
  uint64_t string_bytes = uint64_t{4} << 20;
};

// One pass over the text, before a parser spends memory on it: nesting and string lengths. The text
// may still not be JSON. Throws Error kCorruptFile; `offset` is where in the file the text begins.
void check_json_limits(std::string_view text, const JsonLimits& limits,
                       const std::string& source_name, uint64_t offset = 0);

// Throws Error: kNotFound, kIo, kResourceExhausted (larger than max_bytes), kCorruptFile
// ("FILE: at byte N: not valid JSON").
nlohmann::json read_json_file(const std::filesystem::path& path, uint64_t max_bytes);

// Fields of one object, checked for their type as they are read. A field that is null counts as
// absent, as Hugging Face writes it. Errors kCorruptFile: "FILE: 'a.b' is ..., not ...".
class JsonFields {
 public:
  // Borrows `object`. `path` is put before the names in messages: "" or "rope_scaling.". Throws if
  // it is not an object.
  JsonFields(const nlohmann::json& object, std::string source_name, std::string path = "");

  bool has(std::string_view name) const { return find(name) != nullptr; }
  bool mentions(std::string_view name) const;               // even as null
  const nlohmann::json* find(std::string_view name) const;  // nothing: absent or null
  std::optional<int64_t> get_int(std::string_view name) const;
  std::optional<double> get_float(std::string_view name) const;  // integers count
  std::optional<bool> get_bool(std::string_view name) const;
  std::optional<std::string> get_string(std::string_view name) const;
  std::optional<JsonFields> get_object(std::string_view name) const;

  // The value, or an Error naming the field.
  template <typename T>
  T need(std::optional<T> value, std::string_view name) const {
    if (!value) fail_missing(name);
    return *std::move(value);
  }

  // "FILE: 'path.name'", for messages.
  std::string describe(std::string_view name) const;
  const std::string& source_name() const { return source_name_; }

 private:
  [[noreturn]] void fail_missing(std::string_view name) const;
  [[noreturn]] void fail_type(std::string_view name, const char* expected) const;

  const nlohmann::json* object_;
  std::string source_name_;
  std::string path_;
};

}  // namespace lowkey
