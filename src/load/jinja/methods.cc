// Attributes and methods of values, and the global functions.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <functional>
#include <string>

#include "load/jinja/builtins.h"
#include "load/jinja/call_arguments.h"
#include "load/jinja/strings.h"
#include "load/search.h"
#include "load/utf8.h"

namespace lowkey::jinja {

namespace {

// "x".startswith("a") or ("a", "b").
bool has_affix(std::string_view text, const Value& wanted, bool at_end, Budget& budget) {
  if (wanted.is(ValueType::kList)) {
    return std::any_of(wanted.as_list().begin(), wanted.as_list().end(),
                       [&](const Value& one) { return has_affix(text, one, at_end, budget); });
  }
  if (!wanted.is_string()) {
    template_error(
        fmt::format("startswith and endswith need a string, not {}", wanted.type_name()));
  }
  budget.spend_bytes(wanted.as_text().size());
  return at_end ? text.ends_with(wanted.as_view()) : text.starts_with(wanted.as_view());
}

int64_t count_text(std::string_view text, std::string_view wanted) {
  if (wanted.empty()) return static_cast<int64_t>(text_length(text)) + 1;
  int64_t count = 0;
  for (size_t at = 0; (at = find_text(text, wanted, at)) != std::string_view::npos;
       at += wanted.size()) {
    ++count;
  }
  return count;
}

Value find_in_text(std::string_view text, std::string_view wanted) {
  const size_t hit = wanted.empty() ? 0 : find_text(text, wanted);
  if (hit == std::string_view::npos) return Value(int64_t{-1});
  return Value(static_cast<int64_t>(text_length(text.substr(0, hit))));
}

bool all_characters(std::string_view text, bool (*test)(char32_t)) {
  if (text.empty()) return false;
  while (!text.empty()) {
    const size_t n = utf8_length(text);
    if (n == 0 || !test(utf8_decode(text.substr(0, n)))) return false;
    text.remove_prefix(n);
  }
  return true;
}

struct PlainMethod {  // takes no arguments
  std::string_view name;
  Value (*run)(const Text& self, Budget& budget);
};

constexpr PlainMethod kPlainMethods[] = {
    {"upper", [](const Text& self, Budget& budget) { return Value(upper(self, budget)); }},
    {"lower", [](const Text& self, Budget& budget) { return Value(lower(self, budget)); }},
    {"title", [](const Text& self, Budget& budget) { return Value(title(self, budget)); }},
    {"capitalize",
     [](const Text& self, Budget& budget) { return Value(capitalize(self, budget)); }},
    {"splitlines",
     [](const Text& self, Budget& budget) { return Value::list(split_lines(self, budget)); }},
    {"isspace",
     [](const Text& self, Budget&) { return Value(all_characters(self.view(), is_python_space)); }},
    {"isdigit",
     [](const Text& self, Budget&) {
       return Value(all_characters(self.view(), [](char32_t c) { return c >= '0' && c <= '9'; }));
     }},
};

const PlainMethod* find_plain_method(std::string_view name) {
  const auto found = std::find_if(std::begin(kPlainMethods), std::end(kPlainMethods),
                                  [&](const PlainMethod& method) { return method.name == name; });
  return found == std::end(kPlainMethods) ? nullptr : found;
}

Value string_method(std::string_view name, const Text& self, const CallArguments& arguments,
                    Context& context) {
  Budget& budget = context.budget;
  budget.spend_search(self.size());
  const auto read = [&](std::initializer_list<std::string_view> names) {
    return ArgumentReader(name, arguments, names);
  };
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    return Value(strip(self, read({"chars"}).find(0), name != "rstrip", name != "lstrip", budget));
  }
  if (name == "split" || name == "rsplit") {
    const ArgumentReader a = read({"sep", "maxsplit"});
    return Value::list(split(self, a.find(0), a.integer(1, -1), name == "rsplit", budget));
  }
  if (name == "startswith" || name == "endswith") {
    const ArgumentReader a = read({"prefix"});
    return Value(has_affix(self.view(), a.need(0), name == "endswith", budget));
  }
  if (name == "replace") {
    const ArgumentReader a = read({"old", "new", "count"});
    return Value(replace(self, a.need_text(0), a.need_text(1), a.integer(2, -1), budget));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const ArgumentReader a = read({"affix"});
    const std::string_view affix = a.need_text(0).view();
    const bool at_end = name == "removesuffix";
    const bool there = at_end ? self.view().ends_with(affix) : self.view().starts_with(affix);
    if (!there) return Value(self);
    return Value(at_end ? self.slice(0, self.size() - affix.size())
                        : self.slice(affix.size(), self.size()));
  }
  if (name == "find") {
    const ArgumentReader a = read({"sub"});
    return find_in_text(self.view(), a.need_text(0).view());
  }
  if (name == "count") {
    const ArgumentReader a = read({"sub"});
    return Value(count_text(self.view(), a.need_text(0).view()));
  }
  if (name == "join") {
    const ArgumentReader a = read({"items"});
    const List items = iterate(a.need(0), budget);
    for (const Value& item : items) {
      if (!item.is_string()) template_error(fmt::format("join of {}", item.type_name()));
    }
    return Value(join(items, self, budget));
  }
  if (const auto* plain = find_plain_method(name)) {
    read({});
    return plain->run(self, budget);
  }
  template_error(fmt::format("strings have no method '{}' here", name));
}

Value dict_method(std::string_view name, const Dict& self, const CallArguments& arguments,
                  Context& context) {
  context.budget.spend(1 + self.size());
  if (name == "get") {
    const ArgumentReader a(name, arguments, {"key", "default"});
    for (const auto& [key, value] : self) {
      if (equal(key, a.need(0), context.budget)) return value;
    }
    return a.find(1) ? *a.find(1) : Value();
  }
  const ArgumentReader none(name, arguments, {});
  List out;
  for (const auto& [key, value] : self) {
    if (name == "keys") {
      out.push_back(key);
    } else if (name == "values") {
      out.push_back(value);
    } else if (name == "items") {
      out.push_back(Value::list({key, value}, true));
    } else {
      break;
    }
  }
  if (name != "keys" && name != "values" && name != "items") {
    template_error(fmt::format("dicts have no method '{}' here", name));
  }
  return Value::list(std::move(out));
}

Value loop_method(std::string_view name, const Loop& self, const CallArguments& arguments) {
  if (name != "cycle" || !arguments.named.empty() || arguments.positional.empty()) {
    template_error(fmt::format("loops have no method '{}' here", name));
  }
  return arguments.positional[self.index % arguments.positional.size()];
}

Value loop_attribute(const Loop& loop, std::string_view name) {
  const List& items = loop.items->items;
  const auto number = [](size_t n) { return Value(static_cast<int64_t>(n)); };
  if (name == "index") return number(loop.index + 1);
  if (name == "index0") return number(loop.index);
  if (name == "revindex") return number(items.size() - loop.index);
  if (name == "revindex0") return number(items.size() - loop.index - 1);
  if (name == "first") return Value(loop.index == 0);
  if (name == "last") return Value(loop.index + 1 == items.size());
  if (name == "length") return number(items.size());
  if (name == "previtem" && loop.index > 0) return items[loop.index - 1];
  if (name == "nextitem" && loop.index + 1 < items.size()) return items[loop.index + 1];
  return Value::undefined(fmt::format("loop.{}", name));
}

Value make_range(const CallArguments& arguments, Budget& budget) {
  const ArgumentReader a("range", arguments, {"start", "stop", "step"});
  const bool one = a.find(1) == nullptr;
  const int64_t start = one ? 0 : a.need_integer(0);
  const int64_t stop = one ? a.need_integer(0) : a.need_integer(1);
  const int64_t step = a.integer(2, 1);
  if (step == 0) template_error("range needs a step other than 0");
  // In 128 bits: stop - start may not fit 64.
  __extension__ using Wide = __int128;
  const Wide distance = step > 0 ? Wide{stop} - start : Wide{start} - stop;
  const Wide stride = step > 0 ? Wide{step} : -Wide{step};
  const Wide count = distance <= 0 ? Wide{0} : (distance + stride - 1) / stride;
  budget.spend(count > Wide{Budget::kMaxSteps} ? Budget::kMaxSteps + 1
                                               : static_cast<uint64_t>(count));
  List out;
  out.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < static_cast<int64_t>(count); ++i) out.emplace_back(start + i * step);
  return Value::list(std::move(out));
}

// strftime in English whatever the locale, for the fields that templates use.
std::string format_time(std::string_view format, const std::tm& time) {
  constexpr std::array<std::string_view, 12> kMonths = {
      "January", "February", "March",     "April",   "May",      "June",
      "July",    "August",   "September", "October", "November", "December"};
  constexpr std::array<std::string_view, 7> kDays = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                                     "Thursday", "Friday", "Saturday"};
  const std::string_view month = kMonths[static_cast<size_t>(time.tm_mon)];
  const std::string_view day = kDays[static_cast<size_t>(time.tm_wday)];
  const int hour12 = time.tm_hour % 12 == 0 ? 12 : time.tm_hour % 12;
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const char field = ++i < format.size() ? format[i] : '\0';
    switch (field) {
      case 'Y': out += fmt::format("{:04}", time.tm_year + 1900); break;
      case 'y': out += fmt::format("{:02}", time.tm_year % 100); break;
      case 'm': out += fmt::format("{:02}", time.tm_mon + 1); break;
      case 'B': out += month; break;
      case 'b': out += month.substr(0, 3); break;
      case 'd': out += fmt::format("{:02}", time.tm_mday); break;
      case 'j': out += fmt::format("{:03}", time.tm_yday + 1); break;
      case 'A': out += day; break;
      case 'a': out += day.substr(0, 3); break;
      case 'H': out += fmt::format("{:02}", time.tm_hour); break;
      case 'I': out += fmt::format("{:02}", hour12); break;
      case 'M': out += fmt::format("{:02}", time.tm_min); break;
      case 'S': out += fmt::format("{:02}", time.tm_sec); break;
      case 'p': out += time.tm_hour < 12 ? "AM" : "PM"; break;
      case '%': out += '%'; break;
      default: template_error(fmt::format("strftime_now does not know the field '%{}'", field));
    }
  }
  return out;
}

Value strftime_now(const CallArguments& arguments, Context& context) {
  const ArgumentReader a("strftime_now", arguments, {"format"});
  const Text& format = a.need_text(0);
  context.budget.spend_bytes(16 * format.size());
  std::tm time{};
  if (context.now) {
    const std::time_t seconds = std::chrono::system_clock::to_time_t(*context.now);
    gmtime_r(&seconds, &time);
  } else {
    const std::time_t seconds = std::time(nullptr);
    localtime_r(&seconds, &time);
  }
  return Value(format_time(format.view(), time));
}

}  // namespace

Value attribute(const Value& value, std::string_view name, Context& context) {
  switch (value.type()) {
    case ValueType::kDict:
      if (const Value* found = find(value.as_dict(), name, context.budget)) return *found;
      break;
    case ValueType::kNamespace:
      for (const auto& [member, held] : value.as_namespace().members) {
        context.budget.spend();
        if (member == name) return held;
      }
      break;
    case ValueType::kLoop: return loop_attribute(value.as_loop(), name);
    case ValueType::kUndefined:
      template_error(
          fmt::format("'{}' is undefined, so it has no '{}'", value.undefined_name(), name));
    default: break;
  }
  return Value::undefined(name);
}

Value call_method(std::string_view name, const Value& self, const CallArguments& arguments,
                  Context& context) {
  switch (self.type()) {
    case ValueType::kString: return string_method(name, self.as_text(), arguments, context);
    case ValueType::kDict: return dict_method(name, self.as_dict(), arguments, context);
    case ValueType::kLoop: return loop_method(name, self.as_loop(), arguments);
    case ValueType::kUndefined:
      template_error(
          fmt::format("'{}' is undefined, so it has no '{}'", self.undefined_name(), name));
    default: template_error(fmt::format("{} has no method '{}' here", self.type_name(), name));
  }
}

Value call_builtin(Builtin builtin, const CallArguments& arguments, Context& context) {
  switch (builtin) {
    case Builtin::kRange: return make_range(arguments, context.budget);
    case Builtin::kNamespace: {
      if (!arguments.positional.empty()) template_error("namespace takes only named arguments");
      auto names = std::make_shared<Namespace>();
      for (const auto& [name, value] : arguments.named) {
        if (!value.storable()) {
          template_error(fmt::format("a namespace cannot hold {}", value.type_name()));
        }
        names->members.emplace_back(name, value);
      }
      return Value(std::move(names));
    }
    case Builtin::kDict: {
      if (!arguments.positional.empty()) template_error("dict takes only named arguments here");
      Dict entries;
      for (const auto& [name, value] : arguments.named) entries.emplace_back(Value(name), value);
      return Value::dict(std::move(entries));
    }
    case Builtin::kRaiseException: {
      const ArgumentReader a("raise_exception", arguments, {"message"});
      const Text message = to_text(a.need(0), context.budget);
      template_error(utf8_replace_invalid(message.view().substr(0, 1000)));
    }
    case Builtin::kStrftimeNow: return strftime_now(arguments, context);
  }
  return Value();
}

}  // namespace lowkey::jinja
