// Filters ("x | trim") and tests ("x is defined").
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "load/jinja/builtins.h"
#include "load/jinja/call_arguments.h"
#include "load/jinja/strings.h"

namespace lowkey::jinja {

namespace {

using TestFunction = bool (*)(const Value&, const ArgumentReader&, Budget&);

struct TestEntry {
  std::string_view name;
  bool has_operand;
  TestFunction run;
};

bool even(const Value& value) {
  if (!value.is_integer()) template_error(fmt::format("{} is not an integer", value.type_name()));
  return value.integer() % 2 == 0;
}

bool is_defined(const Value& v, const ArgumentReader&, Budget&) {
  return !v.is(ValueType::kUndefined);
}
template <ValueType type>
bool is_type(const Value& v, const ArgumentReader&, Budget&) {
  return v.is(type);
}
bool is_equal(const Value& v, const ArgumentReader& a, Budget& b) {
  return equal(v, a.need(0), b);
}
bool is_not_equal(const Value& v, const ArgumentReader& a, Budget& b) {
  return !equal(v, a.need(0), b);
}
bool is_less(const Value& v, const ArgumentReader& a, Budget& b) {
  return less(v, a.need(0), b);
}
bool is_greater(const Value& v, const ArgumentReader& a, Budget& b) {
  return less(a.need(0), v, b);
}
bool is_sequence(const Value& v, const ArgumentReader&, Budget&) {
  return v.is(ValueType::kString) || v.is(ValueType::kList) || v.is(ValueType::kDict) ||
         v.is(ValueType::kUndefined);
}

constexpr TestEntry kTests[] = {
    {"defined", false, is_defined},
    {"undefined", false,
     [](const Value& v, const ArgumentReader& a, Budget& b) { return !is_defined(v, a, b); }},
    {"none", false, is_type<ValueType::kNone>},
    {"boolean", false, is_type<ValueType::kBool>},
    {"integer", false, is_type<ValueType::kInt>},
    {"float", false, is_type<ValueType::kFloat>},
    {"number", false, [](const Value& v, const ArgumentReader&, Budget&) { return v.is_number(); }},
    {"string", false, is_type<ValueType::kString>},
    {"mapping", false, is_type<ValueType::kDict>},
    {"iterable", false, is_sequence},
    {"sequence", false, is_sequence},
    {"callable", false, is_type<ValueType::kCallable>},
    {"true", false,
     [](const Value& v, const ArgumentReader&, Budget&) {
       return v.is(ValueType::kBool) && v.as_bool();
     }},
    {"false", false,
     [](const Value& v, const ArgumentReader&, Budget&) {
       return v.is(ValueType::kBool) && !v.as_bool();
     }},
    {"even", false, [](const Value& v, const ArgumentReader&, Budget&) { return even(v); }},
    {"odd", false, [](const Value& v, const ArgumentReader&, Budget&) { return !even(v); }},
    {"divisibleby", true,
     [](const Value& v, const ArgumentReader& a, Budget&) {
       const int64_t divisor = a.need_integer(0);
       if (divisor == 0) template_error("divisibleby 0");
       if (!v.is_integer()) template_error(fmt::format("{} divisibleby", v.type_name()));
       return divisor == -1 || v.integer() % divisor == 0;
     }},
    {"in", true,
     [](const Value& v, const ArgumentReader& a, Budget& b) { return contains(a.need(0), v, b); }},
    {"sameas", true,
     [](const Value& v, const ArgumentReader& a, Budget& b) {
       return v.type() == a.need(0).type() && equal(v, a.need(0), b);
     }},
    {"eq", true, is_equal},
    {"equalto", true, is_equal},
    {"==", true, is_equal},
    {"ne", true, is_not_equal},
    {"!=", true, is_not_equal},
    {"lt", true, is_less},
    {"lessthan", true, is_less},
    {"<", true, is_less},
    {"gt", true, is_greater},
    {"greaterthan", true, is_greater},
    {">", true, is_greater},
    {"ge", true,
     [](const Value& v, const ArgumentReader& a, Budget& b) { return !less(v, a.need(0), b); }},
    {"le", true,
     [](const Value& v, const ArgumentReader& a, Budget& b) { return !less(a.need(0), v, b); }},
};

const TestEntry* find_test(std::string_view name) {
  for (const TestEntry& entry : kTests) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

// "a.b" of each element, for map, selectattr, sort and the like.
Value member(const Value& value, const Value& path, Context& context) {
  if (path.is_integer()) {
    const auto at = static_cast<size_t>(path.integer());
    if (value.is(ValueType::kList) && at < value.as_list().size()) return value.as_list()[at];
    return Value::undefined("item");
  }
  if (!path.is_string()) template_error("an attribute's name is a string");
  Value out = value;
  std::string_view rest = path.as_view();
  while (true) {
    const size_t dot = rest.find('.');
    out = attribute(out, rest.substr(0, dot), context);
    if (dot == std::string_view::npos) return out;
    rest.remove_prefix(dot + 1);
  }
}

// select, reject, selectattr, rejectattr: [attribute,] [test, operands...]
Value filter_items(const Value& value, const CallArguments& arguments, bool by_attribute, bool keep,
                   Context& context) {
  if (!arguments.named.empty()) template_error("select and reject take no named arguments");
  auto next = arguments.positional.begin();
  const auto end = arguments.positional.end();
  const Value* path = nullptr;
  if (by_attribute) {
    if (next == end) template_error("selectattr and rejectattr need an attribute's name");
    path = &*next++;
  }
  std::string_view test;
  if (next != end) {
    if (!next->is_string()) template_error("the name of a test is a string");
    test = (next++)->as_view();
  }
  const CallArguments operands{{next, end}, {}};
  List out;
  for (const Value& item : iterate(value, context.budget)) {
    const Value tested = path ? member(item, *path, context) : item;
    const bool holds = test.empty() ? tested.truthy() : apply_test(test, tested, operands, context);
    if (holds == keep) out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value map_items(const Value& value, const CallArguments& arguments, Context& context) {
  List out;
  if (arguments.positional.empty()) {
    const ArgumentReader a("map", arguments, {"attribute", "default"});
    for (const Value& item : iterate(value, context.budget)) {
      Value found = member(item, a.need(0), context);
      if (found.is(ValueType::kUndefined) && a.find(1)) found = *a.find(1);
      out.push_back(std::move(found));
    }
    return Value::list(std::move(out));
  }
  if (!arguments.positional[0].is_string()) template_error("map needs the name of a filter");
  const std::string name(arguments.positional[0].as_view());
  // A filter that calls filters could call itself.
  if (!is_filter(name) || name == "map") template_error(fmt::format("map cannot apply '{}'", name));
  const CallArguments rest{{arguments.positional.begin() + 1, arguments.positional.end()},
                           arguments.named};
  for (const Value& item : iterate(value, context.budget)) {
    out.push_back(apply_filter(name, item, rest, context));
  }
  return Value::list(std::move(out));
}

Value lowered(const Value& value, bool case_sensitive, Budget& budget) {
  if (case_sensitive || !value.is_string()) return value;
  return Value(lower(value.as_text(), budget));
}

Value sort_items(List items, bool reverse, bool case_sensitive, const Value* path,
                 Context& context) {
  std::vector<std::pair<Value, Value>> keyed;  // what to compare, the item
  for (Value& item : items) {
    const Value key = path ? member(item, *path, context) : item;
    keyed.emplace_back(lowered(key, case_sensitive, context.budget), std::move(item));
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? less(b.first, a.first, context.budget)
                   : less(a.first, b.first, context.budget);
  });
  List out;
  for (auto& entry : keyed) out.push_back(std::move(entry.second));
  return Value::list(std::move(out));
}

Value to_int(const Value& value, int64_t fallback, int64_t base) {
  if (value.is_integer()) return Value(value.integer());
  if (value.is(ValueType::kFloat)) {
    const double number = value.as_float();
    if (!(std::abs(number) < 9.2e18)) return Value(fallback);
    return Value(static_cast<int64_t>(number));
  }
  if (!value.is_string()) return Value(fallback);
  if (base < 2 || base > 36) template_error("int needs a base from 2 to 36");
  const auto [begin, end] = stripped(value.as_view(), nullptr, true, true);
  std::string_view text = value.as_view().substr(begin, end - begin);
  if (text.starts_with('+')) text.remove_prefix(1);
  int64_t number = 0;
  const auto [stop, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, static_cast<int>(base));
  if (error == std::errc() && stop == text.data() + text.size()) return Value(number);
  double real = 0;
  const auto [real_stop, real_error] =
      std::from_chars(text.data(), text.data() + text.size(), real);
  if (real_error == std::errc() && real_stop == text.data() + text.size()) {
    return to_int(Value(real), fallback, base);
  }
  return Value(fallback);
}

Value to_float(const Value& value, double fallback) {
  if (value.is_number()) return Value(value.number());
  if (!value.is_string()) return Value(fallback);
  const auto [begin, end] = stripped(value.as_view(), nullptr, true, true);
  const std::string_view text = value.as_view().substr(begin, end - begin);
  double number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && stop == text.data() + text.size();
  return Value(whole ? number : fallback);
}

Value length(const Value& value, Budget& budget) {
  switch (value.type()) {
    case ValueType::kUndefined: return Value(int64_t{0});
    case ValueType::kString:
      budget.spend_bytes(value.as_text().size());
      return Value(static_cast<int64_t>(text_length(value.as_view())));
    case ValueType::kList: return Value(static_cast<int64_t>(value.as_list().size()));
    case ValueType::kDict: return Value(static_cast<int64_t>(value.as_dict().size()));
    default: template_error(fmt::format("{} has no length", value.type_name()));
  }
}

Value end_item(const Value& value, bool last, Budget& budget) {
  List items = iterate(value, budget);
  if (items.empty()) return Value::undefined(last ? "last item" : "first item");
  return last ? items.back() : items.front();
}

Value extreme(const Value& value, bool greatest, Budget& budget) {
  const List items = iterate(value, budget);
  if (items.empty()) return Value::undefined(greatest ? "max" : "min");
  const Value* best = &items[0];
  for (const Value& item : items) {
    if (greatest ? less(*best, item, budget) : less(item, *best, budget)) best = &item;
  }
  return *best;
}

Value sum(const Value& value, const Value* path, Context& context) {
  int64_t whole = 0;
  double real = 0;
  bool is_real = false;
  for (const Value& item : iterate(value, context.budget)) {
    const Value number = path ? member(item, *path, context) : item;
    if (!number.is_number()) template_error(fmt::format("sum of {}", number.type_name()));
    real += number.number();
    if (!number.is_integer()) {
      is_real = true;
    } else if (__builtin_add_overflow(whole, number.integer(), &whole)) {
      template_error("sum overflows");
    }
  }
  return is_real ? Value(real) : Value(whole);
}

Value absolute(const Value& value) {
  if (value.is(ValueType::kFloat)) return Value(std::abs(value.as_float()));
  if (!value.is_integer()) template_error(fmt::format("abs of {}", value.type_name()));
  if (value.integer() == std::numeric_limits<int64_t>::min()) template_error("abs overflows");
  return Value(std::abs(value.integer()));
}

Value round_number(const Value& value, const ArgumentReader& a) {
  if (!value.is_number()) template_error(fmt::format("round of {}", value.type_name()));
  const int64_t precision = a.integer(0, 0);
  const std::string method = a.find(1) ? std::string(a.need_text(1).view()) : "common";
  if (precision < 0 || precision > 15) template_error("round needs a precision from 0 to 15");
  const double factor = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.number() * factor;
  if (method == "common") return Value(std::nearbyint(scaled) / factor);
  if (method == "ceil") return Value(std::ceil(scaled) / factor);
  if (method == "floor") return Value(std::floor(scaled) / factor);
  template_error("round knows the methods common, ceil and floor");
}

Value unique(const Value& value, bool case_sensitive, Budget& budget) {
  List out, seen;
  for (const Value& item : iterate(value, budget)) {
    Value key = lowered(item, case_sensitive, budget);
    const auto same = [&](const Value& other) { return equal(key, other, budget); };
    if (std::any_of(seen.begin(), seen.end(), same)) continue;
    seen.push_back(std::move(key));
    out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value items_of(const Value& value, Budget& budget) {
  if (value.is(ValueType::kUndefined)) return Value::list({});
  if (!value.is(ValueType::kDict)) {
    template_error(fmt::format("{} has no items", value.type_name()));
  }
  budget.spend(value.as_dict().size());
  List out;
  for (const auto& [key, item] : value.as_dict()) out.push_back(Value::list({key, item}, true));
  return Value::list(std::move(out));
}

Value reversed(const Value& value, Budget& budget) {
  List items = iterate(value, budget);
  std::reverse(items.begin(), items.end());
  return value.is_string() ? Value(join(items, Text(), budget)) : Value::list(std::move(items));
}

using FilterFunction = Value (*)(const Value&, const ArgumentReader&, Context&);

struct FilterEntry {
  std::string_view name;
  std::array<std::string_view, 4> parameters;
  FilterFunction run;
};

Value run_length(const Value& v, const ArgumentReader&, Context& c) {
  return length(v, c.budget);
}
Value run_default(const Value& v, const ArgumentReader& a, Context&) {
  const bool missing = v.is(ValueType::kUndefined) || (a.flag(1, false) && !v.truthy());
  if (!missing) return v;
  return a.find(0) ? *a.find(0) : Value("");
}
Value run_text(const Value& v, Text (*map)(const Text&, Budget&), Context& c) {
  return Value(map(to_text(v, c.budget), c.budget));
}

constexpr FilterEntry kFilters[] = {
    {"abs", {}, [](const Value& v, const ArgumentReader&, Context&) { return absolute(v); }},
    {"capitalize",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return run_text(v, capitalize, c); }},
    {"count", {}, run_length},
    {"d", {"default_value", "boolean"}, run_default},
    {"default", {"default_value", "boolean"}, run_default},
    {"dictsort",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) {
       const Value first(int64_t{0});
       return sort_items(items_of(v, c.budget).as_list(), false, false, &first, c);
     }},
    {"first",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) {
       return end_item(v, false, c.budget);
     }},
    {"float",
     {"default"},
     [](const Value& v, const ArgumentReader& a, Context&) {
       if (a.find(0) && !a.find(0)->is_number()) template_error("float needs a number as default");
       return to_float(v, a.find(0) ? a.find(0)->number() : 0.0);
     }},
    {"indent",
     {"width", "first", "blank"},
     [](const Value& v, const ArgumentReader& a, Context& c) {
       std::string prefix;
       if (a.find(0) && a.find(0)->is_string()) {
         prefix = a.find(0)->as_view();
       } else {
         const int64_t width = a.integer(0, 4);
         if (width < 0 || width > 1000) template_error("indent needs a width from 0 to 1000");
         prefix.assign(static_cast<size_t>(width), ' ');
       }
       return Value(
           indent(to_text(v, c.budget), prefix, a.flag(1, false), a.flag(2, false), c.budget));
     }},
    {"int",
     {"default", "base"},
     [](const Value& v, const ArgumentReader& a, Context&) {
       return to_int(v, a.integer(0, 0), a.integer(1, 10));
     }},
    {"items",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return items_of(v, c.budget); }},
    {"join",
     {"d", "attribute"},
     [](const Value& v, const ArgumentReader& a, Context& c) {
       List items = iterate(v, c.budget);
       if (a.find(1)) {
         for (Value& item : items) item = member(item, *a.find(1), c);
       }
       const Text separator = a.find(0) ? to_text(*a.find(0), c.budget) : Text();
       return Value(join(items, separator, c.budget));
     }},
    {"last",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return end_item(v, true, c.budget); }},
    {"length", {}, run_length},
    {"list",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) {
       return Value::list(iterate(v, c.budget));
     }},
    {"lower",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return run_text(v, lower, c); }},
    {"max",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return extreme(v, true, c.budget); }},
    {"min",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return extreme(v, false, c.budget); }},
    {"replace",
     {"old", "new", "count"},
     [](const Value& v, const ArgumentReader& a, Context& c) {
       return Value(replace(to_text(v, c.budget), a.need_text(0), a.need_text(1), a.integer(2, -1),
                            c.budget));
     }},
    {"reverse",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return reversed(v, c.budget); }},
    {"round",
     {"precision", "method"},
     [](const Value& v, const ArgumentReader& a, Context&) { return round_number(v, a); }},
    {"safe",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return Value(to_text(v, c.budget)); }},
    {"sort",
     {"reverse", "case_sensitive", "attribute"},
     [](const Value& v, const ArgumentReader& a, Context& c) {
       return sort_items(iterate(v, c.budget), a.flag(0, false), a.flag(1, false), a.find(2), c);
     }},
    {"string",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return Value(to_text(v, c.budget)); }},
    {"sum",
     {"attribute"},
     [](const Value& v, const ArgumentReader& a, Context& c) { return sum(v, a.find(0), c); }},
    {"title",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return run_text(v, title_words, c); }},
    {"tojson",
     {"indent", "ensure_ascii"},
     [](const Value& v, const ArgumentReader& a, Context& c) {
       const int64_t indent = a.integer(0, -1);
       if (indent > 100) template_error("tojson: an indent of more than 100");
       if (a.flag(1, false)) template_error("tojson with ensure_ascii is not supported");
       return Value(to_json(v, static_cast<int>(std::max<int64_t>(indent, -1)), c.budget));
     }},
    {"trim",
     {"chars"},
     [](const Value& v, const ArgumentReader& a, Context& c) {
       return Value(strip(to_text(v, c.budget), a.find(0), true, true, c.budget));
     }},
    {"unique",
     {"case_sensitive"},
     [](const Value& v, const ArgumentReader& a, Context& c) {
       return unique(v, a.flag(0, false), c.budget);
     }},
    {"upper",
     {},
     [](const Value& v, const ArgumentReader&, Context& c) { return run_text(v, upper, c); }},
};

// Filters whose arguments are not a fixed list.
constexpr std::array<std::string_view, 5> kItemFilters = {"map", "select", "reject", "selectattr",
                                                          "rejectattr"};

const FilterEntry* find_filter(std::string_view name) {
  for (const FilterEntry& entry : kFilters) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

bool is_item_filter(std::string_view name) {
  return std::find(kItemFilters.begin(), kItemFilters.end(), name) != kItemFilters.end();
}

}  // namespace

bool is_filter(std::string_view name) {
  return find_filter(name) || is_item_filter(name);
}
bool is_test(std::string_view name) {
  return find_test(name) != nullptr;
}

Value apply_filter(std::string_view name, const Value& value, const CallArguments& arguments,
                   Context& context) {
  context.budget.spend();
  if (name == "map") return map_items(value, arguments, context);
  if (is_item_filter(name)) {
    return filter_items(value, arguments, name.ends_with("attr"), name.starts_with("select"),
                        context);
  }
  const FilterEntry* entry = find_filter(name);
  if (entry == nullptr) template_error(fmt::format("no filter named '{}'", name));
  const ArgumentReader reader(name, arguments, entry->parameters);
  return entry->run(value, reader, context);
}

bool apply_test(std::string_view name, const Value& value, const CallArguments& arguments,
                Context& context) {
  context.budget.spend();
  const TestEntry* entry = find_test(name);
  if (entry == nullptr) template_error(fmt::format("no test named '{}'", name));
  const ArgumentReader reader = entry->has_operand ? ArgumentReader(name, arguments, {"other"})
                                                   : ArgumentReader(name, arguments, {});
  return entry->run(value, reader, context.budget);
}

}  // namespace lowkey::jinja
