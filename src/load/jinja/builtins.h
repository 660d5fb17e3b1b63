#pragma once
// Filters, tests, string and dict methods, and global functions.
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "load/jinja/value.h"

namespace lowkey::jinja {

// Evaluated arguments of a call.
struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// What built-in functions may use of a rendering.
struct Context {
  Budget& budget;
  std::optional<std::chrono::sys_seconds> now;  // nothing: the local time of the call
};

bool is_filter(std::string_view name);
bool is_test(std::string_view name);

// Each throws Error kInvalidArgument: unknown name, wrong arguments, wrong type.
Value apply_filter(std::string_view name, const Value& value, const CallArguments& arguments,
                   Context& context);
bool apply_test(std::string_view name, const Value& value, const CallArguments& arguments,
                Context& context);
Value call_method(std::string_view name, const Value& self, const CallArguments& arguments,
                  Context& context);
Value call_builtin(Builtin builtin, const CallArguments& arguments, Context& context);

// value.name of dicts, namespaces and loops; undefined for everything else, as nothing else has
// attributes here.
Value attribute(const Value& value, std::string_view name, Context& context);

}  // namespace lowkey::jinja
