#include "load/jinja/interpreter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/error.h"
#include "load/jinja/lexer.h"
#include "load/jinja/strings.h"

namespace lowkey::jinja {

namespace {

// Of expressions, statements and macro calls together. Far above what templates do, far below what
// the stack holds.
constexpr int kMaxRecursion = 512;

enum class Flow : uint8_t { kNext, kBreak, kContinue };

class Interpreter {
 public:
  Interpreter(const Template& parsed, const Variables& globals, Context& context)
      : source_(parsed.source), globals_(globals), context_(context), budget_(context.budget) {
    scopes_.emplace_back();
  }

  Text run(const Block& body) {
    try {
      execute(body);
    } catch (const Error& e) {
      // The innermost node that was running names the place, once.
      fail(e.code(), "{}", locate(e.what()));
    }
    return std::move(printed_);
  }

 private:
  using Scope = Variables;

  class Depth {
   public:
    explicit Depth(Interpreter& interpreter) : interpreter_(interpreter) {
      if (++interpreter_.depth_ > kMaxRecursion) template_error("recursion is too deep");
    }
    ~Depth() { --interpreter_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Interpreter& interpreter_;
  };

  std::string locate(std::string_view message) const {
    constexpr std::string_view kPrefix = "chat template: ";
    if (message.starts_with(kPrefix)) message.remove_prefix(kPrefix.size());
    return fmt::format("{}{}: {}", kPrefix, position(source_, offset_), message);
  }

  // ---- variables

  const Value* lookup(std::string_view name) {
    for (size_t i = scopes_.size(); i-- > 0;) {
      if (const Value* found = lookup(scopes_[i], name)) return found;
    }
    return lookup(globals_, name);
  }

  // Names are few; templates that make many pay for them.
  const Value* lookup(const Scope& scope, std::string_view name) {
    if (scope.size() >= 16) budget_.spend(scope.size() / 16);
    for (const auto& [known, value] : scope) {
      if (known == name) return &value;
    }
    return nullptr;
  }

  void assign(std::string_view name, Value value) {
    Scope& scope = scopes_.back();
    budget_.spend(1 + scope.size() / 16);
    for (auto& [known, held] : scope) {
      if (known != name) continue;
      held = std::move(value);
      return;
    }
    scope.emplace_back(name, std::move(value));
  }

  void assign(const Target& target, Value value) {
    if (target.member.empty()) return assign(target.name, std::move(value));
    const Value* found = lookup(target.name);
    if (!found || !found->is(ValueType::kNamespace)) {
      template_error(
          fmt::format("'{}' is not a namespace: its members cannot be set", target.name));
    }
    if (!value.storable()) {
      template_error(fmt::format("a namespace cannot hold {}", value.type_name()));
    }
    auto& members = found->as_namespace().members;
    budget_.spend(1 + members.size() / 16);
    for (auto& [name, held] : members) {
      if (name != target.member) continue;
      held = std::move(value);
      return;
    }
    members.emplace_back(target.member, std::move(value));
  }

  // A scope for as long as the object lives.
  class NewScope {
   public:
    explicit NewScope(Interpreter& interpreter) : scopes_(interpreter.scopes_) {
      scopes_.emplace_back();
    }
    ~NewScope() { scopes_.pop_back(); }
    NewScope(const NewScope&) = delete;
    NewScope& operator=(const NewScope&) = delete;

   private:
    std::vector<Scope>& scopes_;
  };

  // Sets the scopes above the first `kept` aside for as long as the object lives: a macro sees what
  // was visible where it stands, not what its caller sees.
  class HiddenScopes {
   public:
    HiddenScopes(Interpreter& interpreter, size_t kept) : scopes_(interpreter.scopes_) {
      const auto first = scopes_.begin() + static_cast<ptrdiff_t>(std::min(kept, scopes_.size()));
      hidden_.assign(std::make_move_iterator(first), std::make_move_iterator(scopes_.end()));
      scopes_.erase(first, scopes_.end());
    }
    ~HiddenScopes() { std::move(hidden_.begin(), hidden_.end(), std::back_inserter(scopes_)); }
    HiddenScopes(const HiddenScopes&) = delete;
    HiddenScopes& operator=(const HiddenScopes&) = delete;

   private:
    std::vector<Scope>& scopes_;
    std::vector<Scope> hidden_;
  };

  // ---- output

  void print(const Text& text) {
    budget_.spend_bytes(text.size());
    if (out_->size() + text.size() > Budget::kMaxTextBytes) {
      template_error(fmt::format("prints more than {} bytes", Budget::kMaxTextBytes));
    }
    out_->append(text);
  }

  // What `body` prints.
  Text capture(const Block& body) {
    Text inner;
    Text* const outer = std::exchange(out_, &inner);
    try {
      execute(body);
    } catch (...) {
      out_ = outer;
      throw;
    }
    out_ = outer;
    return inner;
  }

  // ---- statements

  Flow execute(const Block& block) {
    for (const auto& statement : block) {
      if (const Flow flow = execute(*statement); flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  Flow execute(const Statement& statement) {
    const Depth depth(*this);
    budget_.spend();
    offset_ = statement.offset;
    return std::visit([this](const auto& node) { return execute_node(node); }, statement.node);
  }

  Flow execute_node(const Literal& node) {
    print(node.text.as_text());
    return Flow::kNext;
  }
  Flow execute_node(const Output& node) {
    const Value value = evaluate(*node.value);
    if (value.is_string()) {
      print(value.as_text());
    } else {
      print(to_text(value, budget_));
    }
    return Flow::kNext;
  }
  Flow execute_node(const If& node) {
    for (const auto& [condition, body] : node.branches) {
      if (evaluate(*condition).truthy()) return execute(body);
    }
    return execute(node.otherwise);
  }
  Flow execute_node(const Break&) { return Flow::kBreak; }
  Flow execute_node(const Continue&) { return Flow::kContinue; }

  Flow execute_node(const For& node) {
    List items = iterate(evaluate(*node.iterable), budget_);
    if (node.condition) {
      List kept;
      for (Value& item : items) {
        const NewScope scope(*this);
        unpack(node, item);
        if (evaluate(*node.condition).truthy()) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) {
      const NewScope scope(*this);
      return execute(node.otherwise);
    }
    // Not Value::list(): a loop may run over anything, and nothing can reach this list but `loop`.
    const auto all = std::make_shared<const Sequence>(Sequence{std::move(items)});
    for (size_t i = 0; i < all->items.size(); ++i) {
      budget_.spend();
      const NewScope scope(*this);
      unpack(node, all->items[i]);
      assign("loop", Value(std::make_shared<const Loop>(Loop{all, i})));
      const Flow flow = execute(node.body);
      if (flow == Flow::kBreak) break;
    }
    return Flow::kNext;
  }

  void unpack(const For& node, const Value& item) {
    if (node.targets.size() == 1) return assign(node.targets[0], item);
    const List parts = iterate(item, budget_);
    check_unpack(node.targets.size(), parts.size());
    for (size_t i = 0; i < parts.size(); ++i) assign(node.targets[i], parts[i]);
  }

  static void check_unpack(size_t targets, size_t values) {
    if (targets != values) {
      template_error(fmt::format("{} values for {} names", values, targets));
    }
  }

  Flow execute_node(const Set& node) {
    Value value = evaluate(*node.value);
    if (node.targets.size() == 1) {
      assign(node.targets[0], std::move(value));
      return Flow::kNext;
    }
    const List parts = iterate(value, budget_);
    check_unpack(node.targets.size(), parts.size());
    for (size_t i = 0; i < parts.size(); ++i) assign(node.targets[i], parts[i]);
    return Flow::kNext;
  }

  Flow execute_node(const SetBlock& node) {
    assign(node.target, filtered(captured_in_scope(node.body), node.filters));
    return Flow::kNext;
  }

  Flow execute_node(const FilterBlock& node) {
    print(to_text(filtered(captured_in_scope(node.body), node.filters), budget_));
    return Flow::kNext;
  }

  Value captured_in_scope(const Block& body) {
    const NewScope scope(*this);
    return Value(capture(body));
  }

  Value filtered(Value value, const std::vector<PostfixStep>& filters) {
    for (const PostfixStep& step : filters) {
      offset_ = step.offset;
      value = apply_step(std::get<Filter>(step.step), value);
    }
    return value;
  }

  Flow execute_node(const MacroStatement& node) {
    assign(node.name, Value(Callable{&node, Builtin::kRange, scopes_.size()}));
    return Flow::kNext;
  }

  Value call_macro(const Callable& callable, const CallArguments& arguments) {
    const Depth depth(*this);
    const HiddenScopes hidden(*this, callable.scopes);
    const NewScope scope(*this);
    bind(*callable.macro, arguments);
    return Value(capture(callable.macro->body));
  }

  void bind(const MacroStatement& macro, const CallArguments& arguments) {
    if (arguments.positional.size() > macro.parameters.size()) {
      template_error(fmt::format("macro '{}' takes {} arguments, not {}", macro.name,
                                 macro.parameters.size(), arguments.positional.size()));
    }
    for (const auto& [name, value] : arguments.named) {
      const auto known = [&name = name](const auto& parameter) { return parameter.first == name; };
      if (std::none_of(macro.parameters.begin(), macro.parameters.end(), known)) {
        template_error(fmt::format("macro '{}' has no parameter '{}'", macro.name, name));
      }
    }
    for (size_t i = 0; i < macro.parameters.size(); ++i) {
      const auto& [name, otherwise] = macro.parameters[i];
      Value value = Value::undefined(name);
      const auto named =
          std::find_if(arguments.named.begin(), arguments.named.end(),
                       [&name = name](const auto& argument) { return argument.first == name; });
      if (i < arguments.positional.size()) {
        value = arguments.positional[i];
      } else if (named != arguments.named.end()) {
        value = named->second;
      } else if (otherwise) {
        value = evaluate(*otherwise);
      }
      assign(name, std::move(value));
    }
  }

  // ---- expressions

  Value evaluate(const Expression& expression) {
    const Depth depth(*this);
    budget_.spend();
    return std::visit([&](const auto& node) { return evaluate_node(node, expression.offset); },
                      expression.node);
  }

  Value evaluate_node(const Value& literal, size_t) { return literal; }

  Value evaluate_node(const Name& node, size_t) {
    if (const Value* found = lookup(node.name)) return *found;
    return Value::undefined(node.name);
  }

  Value evaluate_node(const ListLiteral& node, size_t) {
    List items;
    items.reserve(node.items.size());
    for (const auto& item : node.items) items.push_back(evaluate(*item));
    return Value::list(std::move(items), node.tuple);
  }

  Value evaluate_node(const DictLiteral& node, size_t) {
    Dict entries;
    for (const auto& [key_node, value_node] : node.entries) {
      Value key = evaluate(*key_node);
      if (!key.is_string() && !key.is_number() && !key.is(ValueType::kNone)) {
        template_error(fmt::format("{} cannot be the key of a dict", key.type_name()));
      }
      Value value = evaluate(*value_node);
      const auto same = [&](const auto& entry) { return equal(entry.first, key, budget_); };
      const auto known = std::find_if(entries.begin(), entries.end(), same);
      if (known != entries.end()) {
        known->second = std::move(value);
      } else {
        entries.emplace_back(std::move(key), std::move(value));
      }
    }
    return Value::dict(std::move(entries));
  }

  Value evaluate_node(const Conditional& node, size_t) {
    if (evaluate(*node.condition).truthy()) return evaluate(*node.then);
    if (node.otherwise) return evaluate(*node.otherwise);
    return Value::undefined("the missing else of an inline if");
  }

  Value evaluate_node(const Logic& node, size_t) {
    Value value;
    for (const auto& operand : node.operands) {
      value = evaluate(*operand);
      if (value.truthy() != node.conjunction) break;
    }
    return value;
  }

  Value evaluate_node(const Not& node, size_t) { return Value(!evaluate(*node.operand).truthy()); }

  Value evaluate_node(const Negate& node, size_t offset) {
    const Value value = evaluate(*node.operand);
    offset_ = offset;
    if (value.is(ValueType::kFloat))
      return Value(node.negative ? -value.as_float() : value.as_float());
    if (!value.is_integer()) template_error(fmt::format("a sign before {}", value.type_name()));
    int64_t result = value.integer();
    if (node.negative && __builtin_sub_overflow(int64_t{0}, result, &result)) overflow();
    return Value(result);
  }

  Value evaluate_node(const Compare& node, size_t offset) {
    Value left = evaluate(*node.first);
    for (const auto& [comparison, operand] : node.rest) {
      Value right = evaluate(*operand);
      offset_ = offset;
      if (!holds(comparison, left, right)) return Value(false);
      left = std::move(right);
    }
    return Value(true);
  }

  bool holds(Comparison comparison, const Value& a, const Value& b) {
    switch (comparison) {
      case Comparison::kEqual: return equal(a, b, budget_);
      case Comparison::kNotEqual: return !equal(a, b, budget_);
      case Comparison::kLess: return less(a, b, budget_);
      case Comparison::kLessEqual: return less(a, b, budget_) || equal(a, b, budget_);
      case Comparison::kGreater: return less(b, a, budget_);
      case Comparison::kGreaterEqual: return less(b, a, budget_) || equal(a, b, budget_);
      case Comparison::kIn: return contains(b, a, budget_);
      case Comparison::kNotIn: return !contains(b, a, budget_);
    }
    return false;
  }

  // ---- arithmetic

  Value evaluate_node(const Arithmetic& node, size_t offset) {
    Value left = evaluate(*node.first);
    for (const auto& [op, operand] : node.rest) {
      const Value right = evaluate(*operand);
      offset_ = offset;
      left = calculate(op, left, right);
    }
    return left;
  }

  [[noreturn]] static void overflow() { template_error("an integer overflows"); }

  Value calculate(Operator op, const Value& a, const Value& b) {
    if (op == Operator::kConcat) return joined(to_text(a, budget_), to_text(b, budget_));
    if (op == Operator::kAdd && a.is_string() && b.is_string()) {
      return joined(a.as_text(), b.as_text());
    }
    if (op == Operator::kAdd && a.is(ValueType::kList) && b.is(ValueType::kList)) {
      budget_.spend(1 + a.as_list().size() + b.as_list().size());
      List items = a.as_list();
      items.insert(items.end(), b.as_list().begin(), b.as_list().end());
      return Value::list(std::move(items));
    }
    if (op == Operator::kMultiply && a.is_string() && b.is_integer()) {
      return Value(repeat(a.as_text(), b.integer(), budget_));
    }
    if (op == Operator::kMultiply && a.is_integer() && b.is_string()) {
      return Value(repeat(b.as_text(), a.integer(), budget_));
    }
    if (a.is_integer() && b.is_integer() && op != Operator::kDivide) {
      return integers(op, a.integer(), b.integer());
    }
    if (a.is_number() && b.is_number()) return Value(reals(op, a.number(), b.number()));
    constexpr std::string_view kSymbols[] = {"+", "-", "*", "/", "//", "%", "**", "~"};
    const auto describe = [](const Value& v) {
      return v.is(ValueType::kUndefined)
                 ? fmt::format("'{}', which is undefined", v.undefined_name())
                 : std::string(v.type_name());
    };
    template_error(fmt::format("'{}' of {} and {}", kSymbols[static_cast<size_t>(op)], describe(a),
                               describe(b)));
  }

  Value joined(const Text& a, const Text& b) {
    budget_.spend_bytes(a.size() + b.size());
    Text out = a;
    out.append(b);
    return Value(std::move(out));
  }

  Value integers(Operator op, int64_t a, int64_t b) {
    int64_t result = 0;
    switch (op) {
      case Operator::kAdd:
        if (__builtin_add_overflow(a, b, &result)) overflow();
        return Value(result);
      case Operator::kSubtract:
        if (__builtin_sub_overflow(a, b, &result)) overflow();
        return Value(result);
      case Operator::kMultiply:
        if (__builtin_mul_overflow(a, b, &result)) overflow();
        return Value(result);
      case Operator::kPower: return power(a, b);
      default: break;
    }
    if (b == 0) template_error("a division by zero");
    if (a == std::numeric_limits<int64_t>::min() && b == -1) overflow();
    // Python rounds down, and the remainder has the divisor's sign.
    int64_t quotient = a / b, remainder = a % b;
    if (remainder != 0 && (remainder < 0) != (b < 0)) {
      --quotient;
      remainder += b;
    }
    return Value(op == Operator::kFloorDivide ? quotient : remainder);
  }

  Value power(int64_t base, int64_t exponent) {
    if (exponent < 0)
      return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
    int64_t result = 1;
    for (; exponent > 0; exponent >>= 1) {
      if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) overflow();
      if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) overflow();
    }
    return Value(result);
  }

  static double reals(Operator op, double a, double b) {
    switch (op) {
      case Operator::kAdd: return a + b;
      case Operator::kSubtract: return a - b;
      case Operator::kMultiply: return a * b;
      case Operator::kPower: return std::pow(a, b);
      default: break;
    }
    if (b == 0) template_error("a division by zero");
    if (op == Operator::kDivide) return a / b;
    if (op == Operator::kFloorDivide) return std::floor(a / b);
    const double remainder = std::fmod(a, b);
    return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
  }

  // ---- what follows a value

  Value evaluate_node(const Postfix& node, size_t) {
    Value value = evaluate(*node.base);
    for (const PostfixStep& step : node.steps) {
      budget_.spend();
      value = std::visit(
          [&](const auto& what) {
            // Arguments are evaluated inside; the place is this step's again when it runs.
            offset_ = step.offset;
            return apply_step(what, std::move(value), step.offset);
          },
          step.step);
    }
    return value;
  }

  template <typename Step>
  Value apply_step(const Step& step, Value value, size_t) {
    return apply_step(step, std::move(value));
  }

  CallArguments evaluate_arguments(const Arguments& arguments) {
    const size_t offset = offset_;
    CallArguments out;
    for (const auto& argument : arguments.positional) out.positional.push_back(evaluate(*argument));
    for (const auto& [name, argument] : arguments.named) {
      out.named.emplace_back(name, evaluate(*argument));
    }
    offset_ = offset;
    return out;
  }

  Value apply_step(const Attribute& step, const Value& value) {
    return attribute(value, step.name, context_);
  }

  Value apply_step(const Item& step, const Value& value) {
    const size_t offset = offset_;
    const Value key = evaluate(*step.key);
    offset_ = offset;
    switch (value.type()) {
      case ValueType::kList:
      case ValueType::kString:
        if (key.is_integer()) return element(value, key.integer());
        break;
      case ValueType::kDict:
        for (const auto& [name, held] : value.as_dict()) {
          if (equal(name, key, budget_)) return held;
        }
        break;
      case ValueType::kUndefined:
      case ValueType::kNamespace:
      case ValueType::kLoop:
        if (key.is_string()) return attribute(value, key.as_view(), context_);
        if (value.is(ValueType::kUndefined)) {
          template_error(
              fmt::format("'{}' is undefined, so it has no items", value.undefined_name()));
        }
        break;
      default: break;
    }
    return Value::undefined(key.is_string() ? key.as_view() : "item");
  }

  Value element(const Value& value, int64_t index) {
    const int64_t size = length(value);
    if (index < 0) index += size;
    if (index < 0 || index >= size) return Value::undefined("item");
    if (value.is(ValueType::kList)) return value.as_list()[static_cast<size_t>(index)];
    const std::string_view text = value.as_view();
    const size_t begin = text_offset(text, static_cast<size_t>(index));
    const size_t end = begin + text_offset(text.substr(begin), 1);
    return Value(value.as_text().slice(begin, end));
  }

  // Of a list, or a string in characters.
  int64_t length(const Value& value) {
    if (value.is(ValueType::kList)) return static_cast<int64_t>(value.as_list().size());
    budget_.spend_bytes(2 * value.as_text().size());
    return static_cast<int64_t>(text_length(value.as_view()));
  }

  Value apply_step(const Slice& step, const Value& value) {
    const size_t offset = offset_;
    const auto bound = [&](const ExpressionPtr& node) -> std::optional<int64_t> {
      if (!node) return std::nullopt;
      const Value v = evaluate(*node);
      if (v.is(ValueType::kNone)) return std::nullopt;
      if (!v.is_integer()) template_error(fmt::format("a slice from {}", v.type_name()));
      return v.integer();
    };
    const std::optional<int64_t> from = bound(step.begin), to = bound(step.end);
    const int64_t stride = bound(step.step).value_or(1);
    offset_ = offset;
    if (!value.is(ValueType::kList) && !value.is_string()) {
      template_error(fmt::format("a slice of {}", value.type_name()));
    }
    if (stride == 0) template_error("a slice with step 0");
    const int64_t size = length(value);
    const auto clamp = [&](std::optional<int64_t> at, int64_t fallback) {
      const int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? size : size - 1;
      if (!at) return fallback;
      return std::clamp(*at < 0 ? *at + size : *at, low, high);
    };
    const int64_t begin = clamp(from, stride > 0 ? 0 : size - 1);
    const int64_t end = clamp(to, stride > 0 ? size : -1);
    if (value.is_string() && stride == 1) {
      const std::string_view text = value.as_view();
      const size_t first = text_offset(text, static_cast<size_t>(begin));
      const auto count = static_cast<size_t>(std::max<int64_t>(0, end - begin));
      return Value(value.as_text().slice(first, first + text_offset(text.substr(first), count)));
    }
    const List items = iterate(value, budget_);
    List out;
    for (int64_t i = begin; stride > 0 ? i < end : i > end;) {
      budget_.spend();
      out.push_back(items[static_cast<size_t>(i)]);
      if (__builtin_add_overflow(i, stride, &i)) break;
    }
    return value.is_string() ? Value(join(out, Text(), budget_)) : Value::list(std::move(out));
  }

  Value apply_step(const Call& step, const Value& value) {
    const CallArguments arguments = evaluate_arguments(step.arguments);
    if (value.is(ValueType::kUndefined)) {
      template_error(
          fmt::format("'{}' is undefined, so it cannot be called", value.undefined_name()));
    }
    if (!value.is(ValueType::kCallable)) {
      template_error(fmt::format("{} cannot be called", value.type_name()));
    }
    const Callable& callable = value.as_callable();
    if (callable.macro) return call_macro(callable, arguments);
    return call_builtin(callable.builtin, arguments, context_);
  }

  Value apply_step(const MethodCall& step, const Value& value) {
    const CallArguments arguments = evaluate_arguments(step.arguments);
    return call_method(step.name, value, arguments, context_);
  }

  Value apply_step(const Filter& step, const Value& value) {
    const CallArguments arguments = evaluate_arguments(step.arguments);
    return apply_filter(step.name, value, arguments, context_);
  }

  Value apply_step(const Test& step, const Value& value) {
    const CallArguments arguments = evaluate_arguments(step.arguments);
    return Value(apply_test(step.name, value, arguments, context_) != step.negated);
  }

  std::string_view source_;
  const Variables& globals_;
  Context& context_;
  Budget& budget_;
  std::vector<Scope> scopes_;
  Text printed_;
  Text* out_ = &printed_;
  size_t offset_ = 0;  // of what runs now, for messages
  int depth_ = 0;
};

}  // namespace

Text render(const Template& parsed, const Variables& globals, Context& context) {
  return Interpreter(parsed, globals, context).run(parsed.body);
}

}  // namespace lowkey::jinja
