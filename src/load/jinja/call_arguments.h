#pragma once
// Reading the arguments of a built-in function by position or by name.
#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "load/jinja/builtins.h"

namespace lowkey::jinja {

class ArgumentReader {
 public:
  // `names`: the parameters in order, up to an empty one. Throws if there are too many arguments or
  // an unknown name.
  ArgumentReader(std::string_view function, const CallArguments& arguments,
                 std::initializer_list<std::string_view> names)
      : ArgumentReader(function, arguments, std::span(names.begin(), names.size())) {}
  ArgumentReader(std::string_view function, const CallArguments& arguments,
                 std::span<const std::string_view> names)
      : function_(function), names_(names.begin(), std::find(names.begin(), names.end(), "")) {
    values_.resize(names_.size(), nullptr);
    if (arguments.positional.size() > names_.size()) {
      template_error(fmt::format("{} takes at most {} arguments, not {}", function, names_.size(),
                                 arguments.positional.size()));
    }
    for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
    for (const auto& [name, value] : arguments.named) {
      size_t i = 0;
      while (i < names_.size() && names_[i] != name) ++i;
      if (i == names_.size()) {
        template_error(fmt::format("{} has no parameter '{}'", function, name));
      }
      if (values_[i]) template_error(fmt::format("{} is given '{}' twice", function, name));
      values_[i] = &value;
    }
  }

  const Value* find(size_t i) const { return values_[i]; }
  const Value& need(size_t i) const {
    if (!values_[i]) template_error(fmt::format("{} needs '{}'", function_, names_[i]));
    return *values_[i];
  }
  const Text& need_text(size_t i) const {
    const Value& value = need(i);
    if (!value.is_string()) wrong(i, "a string");
    return value.as_text();
  }
  int64_t integer(size_t i, int64_t fallback) const {
    if (!values_[i] || values_[i]->is(ValueType::kNone)) return fallback;
    if (!values_[i]->is_integer()) wrong(i, "an integer");
    return values_[i]->integer();
  }
  int64_t need_integer(size_t i) const {
    if (!need(i).is_integer()) wrong(i, "an integer");
    return values_[i]->integer();
  }
  bool flag(size_t i, bool fallback) const { return values_[i] ? values_[i]->truthy() : fallback; }

 private:
  [[noreturn]] void wrong(size_t i, std::string_view wanted) const {
    template_error(fmt::format("{}: '{}' is {}, not {}", function_, names_[i],
                               values_[i]->type_name(), wanted));
  }

  std::string_view function_;
  std::vector<const Value*> values_;
  std::vector<std::string_view> names_;
};

}  // namespace lowkey::jinja
