#include "load/json.h"

#include "core/error.h"
#include "core/files.h"

namespace lowkey {

void check_json_limits(std::string_view text, const JsonLimits& limits,
                       const std::string& source_name, uint64_t offset) {
  int depth = 0;
  bool in_string = false;
  size_t string_start = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      } else if (i - string_start > limits.string_bytes) {
        fail(ErrorCode::kCorruptFile, "{}: at byte {}: a JSON string is longer than {} bytes",
             source_name, offset + string_start, limits.string_bytes);
      }
    } else if (c == '"') {
      in_string = true;
      string_start = i;
    } else if (c == '{' || c == '[') {
      if (++depth > limits.depth) {
        fail(ErrorCode::kCorruptFile, "{}: at byte {}: JSON nests deeper than {}", source_name,
             offset + i, limits.depth);
      }
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
}

nlohmann::json read_json_file(const std::filesystem::path& path, uint64_t max_bytes) {
  const std::string text = read_file(path, max_bytes);
  check_json_limits(text, {}, path.string());
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    fail(ErrorCode::kCorruptFile, "{}: at byte {}: not valid JSON", path.string(), error.byte);
  } catch (const nlohmann::json::exception&) {
    fail(ErrorCode::kCorruptFile, "{}: not valid JSON: a number is out of range", path.string());
  }
}

JsonFields::JsonFields(const nlohmann::json& object, std::string source_name, std::string path)
    : object_(&object), source_name_(std::move(source_name)), path_(std::move(path)) {
  if (!object.is_object()) {
    fail(ErrorCode::kCorruptFile, "{}: {} is {}, not an object", source_name_,
         path_.empty() ? "the top level" : "'" + path_.substr(0, path_.size() - 1) + "'",
         object.type_name());
  }
}

const nlohmann::json* JsonFields::find(std::string_view name) const {
  const auto at = object_->find(name);
  return at == object_->end() || at->is_null() ? nullptr : &*at;
}

bool JsonFields::mentions(std::string_view name) const {
  return object_->contains(name);
}

std::optional<int64_t> JsonFields::get_int(std::string_view name) const {
  const nlohmann::json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_number_integer()) fail_type(name, "an integer");
  if (value->is_number_unsigned() && !std::in_range<int64_t>(value->get<uint64_t>()))
    fail(ErrorCode::kCorruptFile, "{} is {}, out of range", describe(name), value->get<uint64_t>());
  return value->get<int64_t>();
}

std::optional<double> JsonFields::get_float(std::string_view name) const {
  const nlohmann::json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_number()) fail_type(name, "a number");
  return value->get<double>();
}

std::optional<bool> JsonFields::get_bool(std::string_view name) const {
  const nlohmann::json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) fail_type(name, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonFields::get_string(std::string_view name) const {
  const nlohmann::json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_string()) fail_type(name, "a string");
  return value->get<std::string>();
}

std::optional<JsonFields> JsonFields::get_object(std::string_view name) const {
  const nlohmann::json* value = find(name);
  if (!value) return std::nullopt;
  return JsonFields(*value, source_name_, path_ + std::string(name) + ".");
}

std::string JsonFields::describe(std::string_view name) const {
  return fmt::format("{}: '{}{}'", source_name_, path_, name);
}

void JsonFields::fail_missing(std::string_view name) const {
  fail(ErrorCode::kCorruptFile, "{} is missing", describe(name));
}

void JsonFields::fail_type(std::string_view name, const char* expected) const {
  fail(ErrorCode::kCorruptFile, "{} is {}, not {}", describe(name), find(name)->type_name(),
       expected);
}

}  // namespace lowkey
