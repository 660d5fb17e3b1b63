#pragma once
// A parsed template. Chains (a + b + c, x.y.z, elif) are lists, not nested nodes, so the depth of
// the tree is the depth of the source, which the parser limits.
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "load/jinja/value.h"

namespace lowkey::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Arguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Name {
  std::string name;
};
struct ListLiteral {
  std::vector<ExpressionPtr> items;
  bool tuple = false;
};
struct DictLiteral {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
};

enum class Operator : uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kConcat
};
// Left to right: ((first op a) op b) ...
struct Arithmetic {
  ExpressionPtr first;
  std::vector<std::pair<Operator, ExpressionPtr>> rest;
};

enum class Comparison : uint8_t {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};
// As in Python, a < b < c is a < b and b < c.
struct Compare {
  ExpressionPtr first;
  std::vector<std::pair<Comparison, ExpressionPtr>> rest;
};

struct Logic {
  bool conjunction;  // and, else or
  std::vector<ExpressionPtr> operands;
};
struct Not {
  ExpressionPtr operand;
};
struct Negate {
  ExpressionPtr operand;
  bool negative;  // else unary plus
};
struct Conditional {
  ExpressionPtr condition, then, otherwise;  // otherwise may be null: undefined
};

// What follows a primary expression, left to right.
struct Attribute {
  std::string name;
};
struct Item {
  ExpressionPtr key;
};
struct Slice {
  ExpressionPtr begin, end, step;  // each may be null
};
struct Call {
  Arguments arguments;
};
struct MethodCall {
  std::string name;
  Arguments arguments;
};
struct Filter {
  std::string name;
  Arguments arguments;
};
struct Test {
  std::string name;
  Arguments arguments;
  bool negated;
};
struct PostfixStep {
  size_t offset;
  std::variant<Attribute, Item, Slice, Call, MethodCall, Filter, Test> step;
};
struct Postfix {
  ExpressionPtr base;
  std::vector<PostfixStep> steps;
};

struct Expression {
  size_t offset;  // in the source, for messages
  std::variant<Value, Name, ListLiteral, DictLiteral, Arithmetic, Compare, Logic, Not, Negate,
               Conditional, Postfix>
      node;
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

struct Literal {
  Value text;
};
struct Output {
  ExpressionPtr value;
};
struct For {
  std::vector<std::string> targets;  // more than one: each element is unpacked
  ExpressionPtr iterable;
  ExpressionPtr condition;  // may be null
  Block body, otherwise;
};
struct If {
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  Block otherwise;
};
struct Target {
  std::string name;
  std::string member;  // of a namespace, or empty
};
struct Set {
  std::vector<Target> targets;
  ExpressionPtr value;
};
struct SetBlock {
  Target target;
  std::vector<PostfixStep> filters;
  Block body;
};
struct MacroStatement {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // default may be null
  Block body;
};
struct FilterBlock {
  std::vector<PostfixStep> filters;
  Block body;
};
struct Break {};
struct Continue {};

struct Statement {
  size_t offset;
  std::variant<Literal, Output, For, If, Set, SetBlock, MacroStatement, FilterBlock, Break,
               Continue>
      node;
};

}  // namespace lowkey::jinja
