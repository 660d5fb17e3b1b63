#include "load/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>

#include "load/jinja/builtins.h"
#include "load/jinja/lexer.h"

namespace lowkey::jinja {

namespace {

constexpr size_t kMaxSourceBytes = size_t{1} << 20;

class Parser {
 public:
  explicit Parser(std::string_view source) : source_(source), tokens_(tokenize(source)) {}

  Block run() {
    Block body = block({});
    if (peek().type != TokenType::kEnd) unexpected();
    return body;
  }

 private:
  // Counts the recursion of the functions that can call themselves.
  class Nest {
   public:
    explicit Nest(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxNesting) {
        parser_.error(parser_.peek().offset, fmt::format("nested more than {} deep", kMaxNesting));
      }
    }
    ~Nest() { --parser_.depth_; }
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;

   private:
    Parser& parser_;
  };

  // ---- tokens

  [[noreturn]] void error(size_t offset, std::string_view what) const {
    template_error(fmt::format("{}: {}", position(source_, offset), what));
  }
  [[noreturn]] void unexpected() const {
    const Token& token = peek();
    if (token.type == TokenType::kEnd) error(token.offset, "unexpected end of the template");
    error(token.offset, fmt::format("unexpected '{}'", token.text.substr(0, 32)));
  }

  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& next() {
    const Token& token = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool is_operator(std::string_view text, size_t ahead = 0) const {
    return peek(ahead).type == TokenType::kOperator && peek(ahead).text == text;
  }
  bool is_word(std::string_view text, size_t ahead = 0) const {
    return peek(ahead).type == TokenType::kName && peek(ahead).text == text;
  }
  bool accept(std::string_view text) {
    if (!is_operator(text)) return false;
    next();
    return true;
  }
  bool accept_word(std::string_view text) {
    if (!is_word(text)) return false;
    next();
    return true;
  }
  void expect(std::string_view text) {
    if (!accept(text)) unexpected();
  }
  void expect_word(std::string_view text) {
    if (!accept_word(text)) unexpected();
  }
  void expect(TokenType type) {
    if (peek().type != type) unexpected();
    next();
  }
  std::string expect_name() {
    if (peek().type != TokenType::kName) unexpected();
    return next().text;
  }

  // ---- statements

  // Up to a {% tag %} that is one of `ends`, which is left to be read.
  Block block(std::initializer_list<std::string_view> ends) {
    const Nest nest(*this);
    Block out;
    for (;;) {
      const Token& token = peek();
      switch (token.type) {
        case TokenType::kText:
          out.push_back(statement(token.offset, Literal{Value(token.text)}));
          next();
          break;
        case TokenType::kOutputBegin: {
          next();
          ExpressionPtr value = expression();
          expect(TokenType::kOutputEnd);
          out.push_back(statement(token.offset, Output{std::move(value)}));
          break;
        }
        case TokenType::kBlockBegin: {
          const auto is_end = [&](std::string_view end) { return is_word(end, 1); };
          if (std::any_of(ends.begin(), ends.end(), is_end)) return out;
          next();
          tag(out);
          break;
        }
        default:
          if (token.type == TokenType::kEnd && ends.size() == 0) return out;
          if (token.type == TokenType::kEnd) {
            error(token.offset,
                  fmt::format("the template ends where {{% {} %}} is missing", *(ends.end() - 1)));
          }
          unexpected();
      }
    }
  }

  template <typename Node>
  static std::unique_ptr<Statement> statement(size_t offset, Node node) {
    return std::make_unique<Statement>(Statement{offset, std::move(node)});
  }

  void close() { expect(TokenType::kBlockEnd); }
  // {% name %}, after its begin was seen by block().
  void end_tag(std::string_view name) {
    expect(TokenType::kBlockBegin);
    expect_word(name);
    close();
  }

  void tag(Block& out) {
    const size_t offset = peek().offset;
    const std::string name = expect_name();
    if (name == "if") {
      out.push_back(statement(offset, if_statement()));
    } else if (name == "for") {
      out.push_back(statement(offset, for_statement()));
    } else if (name == "set") {
      set_statement(offset, out);
    } else if (name == "macro") {
      out.push_back(statement(offset, macro_statement()));
    } else if (name == "filter") {
      FilterBlock node;
      node.filters.push_back(filter());
      while (accept("|")) node.filters.push_back(filter());
      close();
      node.body = block({"endfilter"});
      end_tag("endfilter");
      out.push_back(statement(offset, std::move(node)));
    } else if (name == "generation") {
      // Hugging Face's mark around what the assistant says; it prints as if it were not there.
      close();
      Block body = block({"endgeneration"});
      end_tag("endgeneration");
      std::move(body.begin(), body.end(), std::back_inserter(out));
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) error(offset, fmt::format("'{}' outside of a loop", name));
      close();
      if (name == "break") {
        out.push_back(statement(offset, Break{}));
      } else {
        out.push_back(statement(offset, Continue{}));
      }
    } else {
      error(offset, fmt::format("the tag '{}' is not supported here", name));
    }
  }

  If if_statement() {
    If node;
    for (;;) {
      ExpressionPtr condition = expression();
      close();
      Block body = block({"elif", "else", "endif"});
      node.branches.emplace_back(std::move(condition), std::move(body));
      expect(TokenType::kBlockBegin);
      if (accept_word("elif")) continue;
      if (accept_word("else")) {
        close();
        node.otherwise = block({"endif"});
        end_tag("endif");
      } else {
        expect_word("endif");
        close();
      }
      return node;
    }
  }

  For for_statement() {
    For node;
    do {
      node.targets.push_back(assignable_name());
    } while (accept(","));
    expect_word("in");
    node.iterable = logic_or();  // no bare conditional: its "if" is the loop's
    if (accept_word("if")) node.condition = expression();
    if (is_word("recursive")) error(peek().offset, "recursive loops are not supported");
    close();
    ++loops_;
    node.body = block({"else", "endfor"});
    --loops_;
    expect(TokenType::kBlockBegin);
    if (accept_word("else")) {
      close();
      node.otherwise = block({"endfor"});
      end_tag("endfor");
    } else {
      expect_word("endfor");
      close();
    }
    return node;
  }

  std::string assignable_name() {
    const size_t offset = peek().offset;
    std::string name = expect_name();
    for (const std::string_view reserved : {"true", "false", "none", "True", "False", "None", "and",
                                            "or", "not", "in", "is", "if", "else"}) {
      if (name == reserved) error(offset, fmt::format("cannot assign to '{}'", name));
    }
    return name;
  }

  Target target() {
    Target out{assignable_name(), ""};
    if (accept(".")) out.member = expect_name();
    return out;
  }

  void set_statement(size_t offset, Block& out) {
    std::vector<Target> targets;
    do {
      targets.push_back(target());
    } while (accept(","));
    if (accept("=")) {
      ExpressionPtr value = tuple();
      close();
      out.push_back(statement(offset, Set{std::move(targets), std::move(value)}));
      return;
    }
    if (targets.size() != 1) unexpected();
    SetBlock node{std::move(targets[0]), {}, {}};
    while (accept("|")) node.filters.push_back(filter());
    close();
    node.body = block({"endset"});
    end_tag("endset");
    out.push_back(statement(offset, std::move(node)));
  }

  MacroStatement macro_statement() {
    MacroStatement node;
    node.name = assignable_name();
    expect("(");
    while (!accept(")")) {
      if (!node.parameters.empty()) expect(",");
      std::string name = assignable_name();
      ExpressionPtr otherwise = accept("=") ? expression() : nullptr;
      node.parameters.emplace_back(std::move(name), std::move(otherwise));
    }
    close();
    const int loops = std::exchange(loops_, 0);
    node.body = block({"endmacro"});
    loops_ = loops;
    end_tag("endmacro");
    return node;
  }

  // ---- expressions, weakest binding first

  template <typename Node>
  static ExpressionPtr make(size_t offset, Node node) {
    return std::make_unique<Expression>(Expression{offset, std::move(node)});
  }

  // expression [, expression]*: a comma makes a tuple.
  ExpressionPtr tuple() {
    const size_t offset = peek().offset;
    ExpressionPtr first = expression();
    if (!is_operator(",")) return first;
    ListLiteral list{{}, true};
    list.items.push_back(std::move(first));
    while (accept(",")) {
      if (peek().type == TokenType::kBlockEnd || is_operator(")")) break;
      list.items.push_back(expression());
    }
    return make(offset, std::move(list));
  }

  ExpressionPtr expression() {
    const Nest nest(*this);
    const size_t offset = peek().offset;
    ExpressionPtr value = logic_or();
    if (!accept_word("if")) return value;
    Conditional node;
    node.then = std::move(value);
    node.condition = logic_or();
    if (accept_word("else")) node.otherwise = expression();
    return make(offset, std::move(node));
  }

  ExpressionPtr logic_or() {
    return logic("or", false, [this] { return logic_and(); });
  }
  ExpressionPtr logic_and() {
    return logic("and", true, [this] { return logic_not(); });
  }
  template <typename Operand>
  ExpressionPtr logic(std::string_view word, bool conjunction, Operand&& operand) {
    const size_t offset = peek().offset;
    ExpressionPtr first = operand();
    if (!is_word(word)) return first;
    Logic node{conjunction, {}};
    node.operands.push_back(std::move(first));
    while (accept_word(word)) node.operands.push_back(operand());
    return make(offset, std::move(node));
  }

  ExpressionPtr logic_not() {
    const size_t offset = peek().offset;
    if (!accept_word("not")) return compare();
    const Nest nest(*this);
    return make(offset, Not{logic_not()});
  }

  std::optional<Comparison> comparison() {
    using Entry = std::pair<std::string_view, Comparison>;
    constexpr std::array<Entry, 6> kOperators = {
        Entry{"==", Comparison::kEqual}, {"!=", Comparison::kNotEqual},
        {"<", Comparison::kLess},        {"<=", Comparison::kLessEqual},
        {">", Comparison::kGreater},     {">=", Comparison::kGreaterEqual}};
    for (const auto& [text, comparison] : kOperators) {
      if (accept(text)) return comparison;
    }
    if (accept_word("in")) return Comparison::kIn;
    if (is_word("not") && is_word("in", 1)) {
      next();
      next();
      return Comparison::kNotIn;
    }
    return std::nullopt;
  }

  ExpressionPtr compare() {
    const size_t offset = peek().offset;
    ExpressionPtr first = sum();
    Compare node{nullptr, {}};
    while (const auto found = comparison()) node.rest.emplace_back(*found, sum());
    if (node.rest.empty()) return first;
    node.first = std::move(first);
    return make(offset, std::move(node));
  }

  using Operators = std::initializer_list<std::pair<std::string_view, Operator>>;
  template <typename Operand>
  ExpressionPtr arithmetic(Operators operators, Operand&& operand) {
    const size_t offset = peek().offset;
    ExpressionPtr first = operand();
    Arithmetic node{nullptr, {}};
    for (bool found = true; found;) {
      found = false;
      for (const auto& [text, op] : operators) {
        if (!accept(text)) continue;
        node.rest.emplace_back(op, operand());
        found = true;
        break;
      }
    }
    if (node.rest.empty()) return first;
    node.first = std::move(first);
    return make(offset, std::move(node));
  }

  // Jinja2's order: + and - bind weaker than ~, which binds weaker than *.
  ExpressionPtr sum() {
    return arithmetic({{"+", Operator::kAdd}, {"-", Operator::kSubtract}},
                      [this] { return concatenation(); });
  }
  ExpressionPtr concatenation() {
    return arithmetic({{"~", Operator::kConcat}}, [this] { return product(); });
  }
  ExpressionPtr product() {
    return arithmetic({{"*", Operator::kMultiply},
                       {"/", Operator::kDivide},
                       {"//", Operator::kFloorDivide},
                       {"%", Operator::kModulo}},
                      [this] { return power(); });
  }
  ExpressionPtr power() {
    return arithmetic({{"**", Operator::kPower}}, [this] { return unary(true); });
  }

  ExpressionPtr unary(bool with_filters) {
    const size_t offset = peek().offset;
    ExpressionPtr value;
    if (is_operator("-") || is_operator("+")) {
      const Nest nest(*this);
      const bool negative = next().text == "-";
      value = make(offset, Negate{unary(false), negative});
    } else {
      value = primary();
    }
    return postfix(std::move(value), with_filters);
  }

  ExpressionPtr primary() {
    const Token& token = peek();
    switch (token.type) {
      case TokenType::kName: return name();
      case TokenType::kString: {
        std::string text;
        while (peek().type == TokenType::kString) text += next().text;
        return make(token.offset, Value(text));
      }
      case TokenType::kInteger: return integer();
      case TokenType::kFloat: {
        next();
        double value = 0;
        const auto [end, failure] =
            std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
        if (failure != std::errc()) error(token.offset, "a number is out of range");
        return make(token.offset, Value(value));
      }
      default: break;
    }
    if (accept("(")) {
      if (accept(")")) return make(token.offset, ListLiteral{{}, true});
      ExpressionPtr value = tuple();
      expect(")");
      return value;
    }
    if (accept("[")) {
      ListLiteral list;
      while (!accept("]")) {
        if (!list.items.empty()) expect(",");
        if (accept("]")) break;
        list.items.push_back(expression());
      }
      return make(token.offset, std::move(list));
    }
    if (accept("{")) {
      DictLiteral dict;
      while (!accept("}")) {
        if (!dict.entries.empty()) expect(",");
        if (accept("}")) break;
        ExpressionPtr key = expression();
        expect(":");
        ExpressionPtr value = expression();
        dict.entries.emplace_back(std::move(key), std::move(value));
      }
      return make(token.offset, std::move(dict));
    }
    unexpected();
  }

  ExpressionPtr name() {
    const Token& token = next();
    const std::string& text = token.text;
    if (text == "true" || text == "True") return make(token.offset, Value(true));
    if (text == "false" || text == "False") return make(token.offset, Value(false));
    if (text == "none" || text == "None") return make(token.offset, Value());
    return make(token.offset, Name{text});
  }

  ExpressionPtr integer() {
    const Token& token = next();
    int64_t value = 0;
    const auto [end, failure] =
        std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
    if (failure != std::errc()) error(token.offset, "an integer does not fit 64 bits");
    return make(token.offset, Value(value));
  }

  // Whatever follows a value. Jinja2 reads attributes, items and calls first; filters and tests
  // only where it is not the operand of a sign.
  ExpressionPtr postfix(ExpressionPtr base, bool with_filters) {
    const size_t offset = base->offset;
    Postfix node{nullptr, {}};
    for (;;) {
      const size_t here = peek().offset;
      if (accept(".")) {
        node.steps.push_back({here, dotted()});
      } else if (accept("[")) {
        subscript(here, node);
      } else if (is_operator("(")) {
        node.steps.push_back({here, Call{arguments()}});
      } else if (with_filters && accept("|")) {
        node.steps.push_back(filter());
      } else if (with_filters && accept_word("is")) {
        node.steps.push_back({here, test()});
      } else {
        break;
      }
    }
    if (node.steps.empty()) return base;
    node.base = std::move(base);
    return make(offset, std::move(node));
  }

  decltype(PostfixStep::step) dotted() {
    if (peek().type == TokenType::kInteger) return Item{integer()};
    std::string name = expect_name();
    if (is_operator("(")) return MethodCall{std::move(name), arguments()};
    return Attribute{std::move(name)};
  }

  void subscript(size_t offset, Postfix& node) {
    ExpressionPtr first, second, third;
    if (!is_operator(":")) first = tuple();
    if (accept("]")) {
      node.steps.push_back({offset, Item{std::move(first)}});
      return;
    }
    expect(":");
    if (!is_operator("]") && !is_operator(":")) second = expression();
    if (accept(":") && !is_operator("]")) third = expression();
    expect("]");
    node.steps.push_back({offset, Slice{std::move(first), std::move(second), std::move(third)}});
  }

  Arguments arguments() {
    Arguments out;
    expect("(");
    bool first = true;
    while (!accept(")")) {
      if (!first) expect(",");
      first = false;
      if (accept(")")) break;
      if (is_operator("*") || is_operator("**")) {
        error(peek().offset, "unpacked arguments are not supported");
      }
      if (peek().type == TokenType::kName && is_operator("=", 1)) {
        std::string name = next().text;
        next();
        out.named.emplace_back(std::move(name), expression());
      } else if (out.named.empty()) {
        out.positional.push_back(expression());
      } else {
        error(peek().offset, "a positional argument after a named one");
      }
    }
    return out;
  }

  PostfixStep filter() {
    const size_t offset = peek().offset;
    Filter node{expect_name(), {}};
    if (!is_filter(node.name)) error(offset, fmt::format("no filter named '{}'", node.name));
    if (is_operator("(")) node.arguments = arguments();
    return {offset, std::move(node)};
  }

  Test test() {
    const bool negated = accept_word("not");
    const size_t offset = peek().offset;
    Test node{expect_name(), {}, negated};
    if (!is_test(node.name)) error(offset, fmt::format("no test named '{}'", node.name));
    if (is_operator("(")) {
      node.arguments = arguments();
    } else if (starts_argument()) {
      const Nest nest(*this);
      ExpressionPtr value = primary();
      node.arguments.positional.push_back(postfix(std::move(value), false));
    }
    return node;
  }

  // x is divisibleby 3: an argument without brackets.
  bool starts_argument() const {
    const Token& token = peek();
    switch (token.type) {
      case TokenType::kName: {
        for (const std::string_view word : {"else", "or", "and", "is", "if", "in", "not"}) {
          if (token.text == word) return false;
        }
        return true;
      }
      case TokenType::kString:
      case TokenType::kInteger:
      case TokenType::kFloat: return true;
      default: return is_operator("[") || is_operator("{");
    }
  }

  std::string_view source_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

Template parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    template_error(
        fmt::format("a source of {} bytes (at most {})", source.size(), kMaxSourceBytes));
  }
  Template out{normalize_source(source), {}};
  out.body = Parser(out.source).run();
  return out;
}

}  // namespace lowkey::jinja
