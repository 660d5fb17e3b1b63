#include "recipe/json_node.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

namespace lowkey {
namespace {

using Json = nlohmann::json;

constexpr size_t kSha256Digits = 64;

std::string_view type_name(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return "an array";
    case Json::value_t::string: return "a string";
    case Json::value_t::boolean: return "true or false";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned: return "an integer";
    case Json::value_t::number_float: return "a number";
    default: return "null";
  }
}

// Refuses what the library would let through: keys given twice (the last would win) and deep
// nesting.
class StrictKeys {
 public:
  StrictKeys(std::string_view source, int max_depth) : source_(source), max_depth_(max_depth) {}

  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > max_depth_) {
      fail(ErrorCode::kInvalidArgument, "{}: nested deeper than {}", source_, max_depth_);
    }
    const auto level = static_cast<size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      keys_[level + 1].clear();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_[level].insert(key).second) {
        fail(ErrorCode::kInvalidArgument, "{}: field '{}' is given twice in one object", source_,
             key);
      }
    }
    return true;
  }

 private:
  std::string_view source_;
  int max_depth_;
  std::array<std::set<std::string>, kMaxJsonDepth + 2> keys_;
};

}  // namespace

std::string JsonNode::where() const {
  return path_.empty() ? std::string(source_) : fmt::format("{}: {}", source_, path_);
}

void JsonNode::expect_fields(std::initializer_list<std::string_view> known) const {
  expect_fields(std::span(known.begin(), known.size()));
}

void JsonNode::expect_fields(std::span<const std::string_view> known) const {
  expect(value_->is_object(), "an object");
  for (const auto& [key, unused] : value_->items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      child(key).refuse("unknown field; known: {}", fmt::join(known, ", "));
    }
  }
}

JsonNode JsonNode::operator[](const char* key) const {
  if (!has(key)) child(key).refuse("missing");
  return child(key);
}

std::vector<JsonNode> JsonNode::elements() const {
  expect(value_->is_array(), "an array");
  std::vector<JsonNode> nodes;
  for (size_t i = 0; i < value_->size(); ++i) {
    nodes.emplace_back((*value_)[i], source_, fmt::format("{}[{}]", path_, i));
  }
  return nodes;
}

std::vector<std::pair<std::string, JsonNode>> JsonNode::members() const {
  expect(value_->is_object(), "an object");
  std::vector<std::pair<std::string, JsonNode>> nodes;
  for (const auto& [key, unused] : value_->items()) nodes.emplace_back(key, child(key));
  return nodes;
}

const std::string& JsonNode::text() const {
  expect(value_->is_string(), "a string");
  return value_->get_ref<const std::string&>();
}

bool JsonNode::boolean() const {
  expect(value_->is_boolean(), "true or false");
  return value_->get<bool>();
}

double JsonNode::number() const {
  expect(value_->is_number(), "a number");
  return value_->get<double>();
}

double JsonNode::number(double min, double max) const {
  const double value = number();
  if (value < min || value > max) {
    if (std::isinf(max)) refuse("{} is out of range: at least {}", value, min);
    refuse("{} is out of range: {} to {}", value, min, max);
  }
  return value;
}

int32_t JsonNode::integer(int32_t min, int32_t max) const {
  expect(value_->is_number_integer(), "an integer");
  // Unsigned numbers beyond int64 must not wrap into the range.
  const bool huge = value_->is_number_unsigned() && value_->get<uint64_t>() > INT32_MAX;
  const int64_t value = huge ? INT64_MAX : value_->get<int64_t>();
  if (value < min || value > max) {
    refuse("{} is out of range: {} to {}", value_->dump(), min, max);
  }
  return static_cast<int32_t>(value);
}

std::string JsonNode::sha256() const {
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (text().size() != kSha256Digits || !std::all_of(text().begin(), text().end(), is_digit)) {
    refuse("not a SHA-256: 64 digits 0-9a-f");
  }
  return text();
}

JsonNode JsonNode::child(const std::string& key) const {
  static const Json kNull;
  const auto found = value_->is_object() ? value_->find(key) : value_->end();
  return JsonNode(found == value_->end() ? kNull : *found, source_,
                  path_.empty() ? key : path_ + "." + key);
}

void JsonNode::expect(bool right, std::string_view wanted) const {
  if (!right) refuse("expected {}, found {}", wanted, type_name(*value_));
}

StrictJson::StrictJson(std::string_view json, std::string_view source_name, int max_depth)
    : source_(source_name) {
  LOWKEY_CHECK(max_depth <= kMaxJsonDepth, "{}", max_depth);
  try {
    parsed_ = Json::parse(json, StrictKeys(source_name, max_depth));
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 3, column 5: ..." without its tag.
    std::string_view what = error.what();
    if (const size_t tag = what.find("] "); tag != what.npos) what.remove_prefix(tag + 2);
    fail(ErrorCode::kInvalidArgument, "{}: not JSON: {}", source_name, what);
  }
}

JsonFormat json_format(std::string_view json) {
  // Deeper levels are dropped as they are read: only top-level names matter, and a file that is
  // nested without end must not be built. ModelOpt's own field may lie one level down.
  bool modelopt = false;
  const auto top_level = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth <= 2) {
      modelopt |= parsed.get_ref<const std::string&>() == "kv_cache_quantized_layers";
    }
    return depth <= 1;
  };
  const Json top = Json::parse(json, top_level, /*allow_exceptions=*/false);
  if (top.is_object() && top.contains("lowkey_recipe")) return JsonFormat::kRecipe;
  if (top.is_object() && top.contains("lowkey_front")) return JsonFormat::kFront;
  return modelopt ? JsonFormat::kModelOpt : JsonFormat::kOther;
}

}  // namespace lowkey
