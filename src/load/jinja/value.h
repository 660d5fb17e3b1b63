#pragma once
// What a template computes with: Python's values as far as chat templates use them. Values are
// immutable and shared, but for namespaces; nothing can contain itself, so destruction ends.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "load/jinja/text.h"

namespace lowkey::jinja {

// Limits of one rendering. spend() throws Error kInvalidArgument when they are used up.
class Budget {
 public:
  static constexpr uint64_t kMaxSteps = 1'000'000;
  static constexpr size_t kMaxTextBytes = size_t{4} << 20;

  void spend(uint64_t steps = 1);
  // Making or reading this many bytes: a step per 64.
  void spend_bytes(size_t bytes) { spend(1 + bytes / 64); }
  // Searching this many bytes for others: at its worst several times as slow.
  void spend_search(size_t bytes) { spend(1 + bytes / 8); }

 private:
  uint64_t left_ = kMaxSteps;
};

class Value;
struct Sequence;
struct Mapping;
using List = std::vector<Value>;
using Dict = std::vector<std::pair<Value, Value>>;  // in order of insertion, keys unique

struct Undefined {
  std::string name;  // what was looked for
};
struct None {};

// Of a {% set ns.x = ... %}.
struct Namespace {
  std::vector<std::pair<std::string, Value>> members;
};

// The `loop` of a {% for %}.
struct Loop {
  std::shared_ptr<const Sequence> items;
  size_t index = 0;  // from 0
};

enum class Builtin : uint8_t { kRange, kNamespace, kDict, kRaiseException, kStrftimeNow };

struct MacroStatement;
struct Callable {
  const MacroStatement* macro = nullptr;  // or else:
  Builtin builtin = Builtin::kRange;
  size_t scopes = 0;  // of a macro: how many were open where it was defined
};

enum class ValueType : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kDict,
  kNamespace,
  kLoop,
  kCallable,
};

class Value {
 public:
  static constexpr uint32_t kMaxDepth = 64;

  Value() : data_(None{}) {}
  explicit Value(bool b) : data_(b) {}
  explicit Value(int64_t i) : data_(i) {}
  explicit Value(double d) : data_(d) {}
  // Throws Error kInvalidArgument beyond Budget::kMaxTextBytes.
  explicit Value(Text text);
  explicit Value(std::string_view trusted) : Value(Text(trusted)) {}
  explicit Value(const char* trusted) : Value(std::string_view(trusted)) {}
  explicit Value(std::shared_ptr<Namespace> names) : data_(std::move(names)) {}
  explicit Value(std::shared_ptr<const Loop> loop) : data_(std::move(loop)) {}
  explicit Value(Callable callable) : data_(callable) {}
  // Throw Error kInvalidArgument when they nest too deeply or hold a namespace, a loop or a macro
  // (which could close a circle).
  static Value list(List items, bool tuple = false);
  static Value dict(Dict entries);
  static Value undefined(std::string_view name) { return Value(Undefined{std::string(name)}); }

  ValueType type() const { return static_cast<ValueType>(data_.index()); }
  bool is(ValueType type) const { return this->type() == type; }
  // In messages: "a string", "undefined", ...
  std::string_view type_name() const;

  // Each needs the value to be of that type.
  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int() const { return std::get<int64_t>(data_); }
  double as_float() const { return std::get<double>(data_); }
  const Text& as_text() const { return *std::get<std::shared_ptr<const Text>>(data_); }
  std::string_view as_view() const { return as_text().view(); }
  const List& as_list() const;
  const std::shared_ptr<const Sequence>& as_sequence() const {
    return std::get<std::shared_ptr<const Sequence>>(data_);
  }
  const Dict& as_dict() const;
  Namespace& as_namespace() const { return *std::get<std::shared_ptr<Namespace>>(data_); }
  const Loop& as_loop() const { return *std::get<std::shared_ptr<const Loop>>(data_); }
  const Callable& as_callable() const { return std::get<Callable>(data_); }
  const std::string& undefined_name() const { return std::get<Undefined>(data_).name; }

  bool is_number() const;  // bool, int, float: Python's bools count
  double number() const;   // of one of those
  bool is_integer() const { return is(ValueType::kBool) || is(ValueType::kInt); }
  int64_t integer() const;  // of bool or int
  bool is_string() const { return is(ValueType::kString); }
  bool truthy() const;

  // May this be an element of a list, a dict or a namespace?
  bool storable() const { return type() <= ValueType::kDict; }
  uint32_t depth() const;  // 0 unless a list or dict

 private:
  explicit Value(Undefined u) : data_(std::move(u)) {}
  explicit Value(std::shared_ptr<const Sequence> items) : data_(std::move(items)) {}
  explicit Value(std::shared_ptr<const Mapping> entries) : data_(std::move(entries)) {}

  // The order of ValueType.
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>,
               std::shared_ptr<const Sequence>, std::shared_ptr<const Mapping>,
               std::shared_ptr<Namespace>, std::shared_ptr<const Loop>, Callable>
      data_;
};

struct Sequence {
  List items;
  uint32_t depth = 0;
  bool tuple = false;  // prints with round brackets and equals no list; otherwise the same
};
struct Mapping {
  Dict entries;
  uint32_t depth;
};

inline const List& Value::as_list() const {
  return as_sequence()->items;
}
inline const Dict& Value::as_dict() const {
  return std::get<std::shared_ptr<const Mapping>>(data_)->entries;
}

// [[noreturn]] "chat template: ..." as Error kInvalidArgument.
[[noreturn]] void template_error(std::string_view what);

const Value* find(const Dict& dict, std::string_view key, Budget& budget);  // null if absent
bool equal(const Value& a, const Value& b, Budget& budget);                 // Python's ==
// Python's <; throws for types that have no order.
bool less(const Value& a, const Value& b, Budget& budget);
bool contains(const Value& container, const Value& item, Budget& budget);  // item in container

// str(value): what {{ value }} prints. Undefined prints as nothing.
Text to_text(const Value& value, Budget& budget);
// json.dumps(value, ensure_ascii=False, indent=indent); indent < 0: on one line.
Text to_json(const Value& value, int indent, Budget& budget);

// The elements of a list, the keys of a dict, the characters of a string, nothing for undefined.
// Throws for anything else.
List iterate(const Value& value, Budget& budget);

// Characters as Python counts them; each byte that is not UTF-8 is one.
size_t text_length(std::string_view text);
// The byte at which character `index` begins (text.size() beyond the end).
size_t text_offset(std::string_view text, size_t index);
bool is_python_space(char32_t c);  // str.isspace()
// The byte range that str.strip(chars) leaves; white space if `chars` is null.
std::pair<size_t, size_t> stripped(std::string_view text, const std::string_view* chars, bool left,
                                   bool right);

}  // namespace lowkey::jinja
