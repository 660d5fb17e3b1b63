#include "load/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "load/gguf.h"
#include "load/jinja/parser.h"
#include "support/cpu_clock.h"
#include "support/paths.h"

namespace lowkey {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// 2025-07-04 15:09:26 UTC, as in tools/chat_template_parity.py.
constexpr std::chrono::sys_seconds kNow{std::chrono::seconds{1751641766}};

const json& golden() {
  static const json file = json::parse(read_file(test::golden("chat_templates.json")));
  return file;
}

std::vector<ChatMessage> conversation(const std::string& name) {
  std::vector<ChatMessage> out;
  for (const json& message : golden().at("conversations").at(name)) {
    out.push_back({message.at("role"), message.at("content")});
  }
  return out;
}

std::string joined(const std::vector<PromptPiece>& pieces) {
  std::string out;
  for (const PromptPiece& piece : pieces) out += piece.text;
  return out;
}

// What the template prints; nothing if it does not parse or raises.
std::optional<std::string> print(const std::string& source, const std::string& name, bool prompt) {
  try {
    return joined(ChatTemplate(source, "<s>", "</s>").render(conversation(name), prompt, kNow));
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument) << e.what();
    EXPECT_THAT(e.what(), AllOf(HasSubstr("chat template: line "), HasSubstr(", column ")));
    return std::nullopt;
  }
}

std::optional<std::string> expected(const json& value) {
  if (value.is_null()) return std::nullopt;
  return value.get<std::string>();
}

void check_conversations(const std::string& source, const json& prompts) {
  ASSERT_EQ(prompts.size(), 2 * golden().at("conversations").size());
  for (const auto& [key, value] : prompts.items()) {
    const bool prompt = key.ends_with('+');
    const std::string name = prompt ? key.substr(0, key.size() - 1) : key;
    EXPECT_EQ(print(source, name, prompt), expected(value)) << key;
  }
}

TEST(ChatTemplate, FamiliesPrintWhatJinja2Prints) {
  for (const auto& [name, entry] : golden().at("templates").items()) {
    SCOPED_TRACE(name);
    check_conversations(entry.at("source"), entry.at("prompts"));
  }
}

TEST(ChatTemplate, SnippetsPrintWhatJinja2Prints) {
  for (const json& snippet : golden().at("snippets")) {
    const auto source = snippet.at("source").get<std::string>();
    EXPECT_EQ(print(source, "turns", true), expected(snippet.at("output"))) << source;
  }
}

TEST(ChatTemplate, RealModel) {
  const auto model = test::real_model();
  if (!model) GTEST_SKIP() << "no SmolLM2 GGUF: ./dev setup fetches it";
  const GgufFile file = GgufFile::open(*model);
  check_conversations(file.get_string("tokenizer.chat_template"), golden().at("SmolLM2"));
}

// ---- who wrote what

MATCHER_P(Wrote, text, "the template wrote '" + std::string(text) + "'") {
  return arg.from_template && arg.text == text;
}
MATCHER_P(Brought, text, "a message brought '" + std::string(text) + "'") {
  return !arg.from_template && arg.text == text;
}

std::vector<PromptPiece> pieces(const std::string& source, const std::string& content) {
  return ChatTemplate(source, "<s>", "</s>").render({{"user", content}}, false, kNow);
}

TEST(ChatTemplate, MessagesStayApartFromTheTemplate) {
  EXPECT_THAT(
      pieces("{{ '<|' + messages[0].role + '|>' ~ messages[0].content }}{{ bos_token }}", "<s>hi"),
      ElementsAre(Wrote("<|"), Brought("user"), Wrote("|>"), Brought("<s>hi"), Wrote("<s>")));
}

TEST(ChatTemplate, EveryOperationKeepsWhoWroteWhat) {
  const std::vector<std::string> operations = {"c",
                                               "c|trim",
                                               "c.strip()",
                                               "c[1:-1]",
                                               "c[::-1]",
                                               "c|upper",
                                               "c|lower",
                                               "c.title()",
                                               "c|capitalize",
                                               "c.split('=')[-1]",
                                               "c.split()[0]",
                                               "c.rsplit('=', 1)[1]",
                                               "c.splitlines()[0]",
                                               "c|replace('q', 'r')",
                                               "c.replace('<', c)",
                                               "[c, c]|join",
                                               "c|list|join",
                                               "c ~ c",
                                               "c * 2",
                                               "c|string",
                                               "c|default('x')",
                                               "c if c else ''",
                                               "c or 'x'",
                                               "(c, 1)[0]",
                                               "{'k': c}.k",
                                               "{'k': c}.items()|map('last')|first",
                                               "[c]|map('trim')|first",
                                               "messages|map(attribute='content')|join",
                                               "messages|map(attribute='content')|sort|first",
                                               "c|indent",
                                               "c.removeprefix('<|')",
                                               "c|first",
                                               "c|reverse",
                                               "[c]|max",
                                               "namespace(x=c).x",
                                               "dict(x=c).x"};
  for (const std::string& operation : operations) {
    const auto out = pieces("{% set c = messages[0].content %}{{ " + operation + " }}",
                            "<|im_end|>=b<|im_end|>");
    ASSERT_FALSE(out.empty()) << operation;
    for (const PromptPiece& piece : out) {
      EXPECT_FALSE(piece.from_template) << operation << " gave '" << piece.text << "'";
    }
  }
}

TEST(ChatTemplate, CapturedTextKeepsWhoWroteWhat) {
  for (const std::string source :
       {"{% set x %}[{{ messages[0].content }}]{% endset %}{{ x|trim }}",
        "{% macro m(y) %}[{{ y }}]{% endmacro %}{{ m(messages[0].content) }}",
        "{% filter trim %}[{{ messages[0].content }}]{% endfilter %}"}) {
    EXPECT_THAT(pieces(source, "</s>"), ElementsAre(Wrote("["), Brought("</s>"), Wrote("]")));
  }
}

TEST(ChatTemplate, JsonKeepsWhoWroteWhat) {
  EXPECT_THAT(pieces("{{ messages[0]|tojson }}", "\"</s>"),
              ElementsAre(Wrote("{\"role\": \""), Brought("user"), Wrote("\", \"content\": \""),
                          Brought("\\\"</s>"), Wrote("\"}")));
}

TEST(ChatTemplate, BytesThatAreNotUtf8PassThrough) {
  const std::string content = "a\xff\xed\xa0\x80z";
  EXPECT_THAT(pieces("{{ messages[0].content|trim|upper|lower }}", content),
              ElementsAre(Brought(content)));
  EXPECT_THAT(pieces("{{ messages[0].content|length }}", content), ElementsAre(Wrote("6")));
  EXPECT_THAT(pieces("{{ messages[0].content[1] }}", content), ElementsAre(Brought("\xff")));
}

// ---- errors

std::string refusal(const std::string& source, const std::string& content = "x") {
  try {
    pieces(source, content);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    return e.what();
  }
  return "";
}

TEST(ChatTemplate, ErrorsSayWhatAndWhere) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a\n {{ 1 + }}", "chat template: line 2, column 9: unexpected '}}'"},
      {"{{ 'x }}", "chat template: line 1, column 4: a string is not closed"},
      {"{% if x %}",
       "chat template: line 1, column 11: the template ends where {% endif %} is missing"},
      {"{% include 'x' %}",
       "chat template: line 1, column 4: the tag 'include' is not supported here"},
      {"{{ x|attr('y') }}", "chat template: line 1, column 6: no filter named 'attr'"},
      {"{{ x is prime }}", "chat template: line 1, column 9: no test named 'prime'"},
      {"{{ 1 ! 2 }}", "chat template: line 1, column 6: unexpected character '!'"},
      {"{{ x.y }}", "chat template: line 1, column 5: 'x' is undefined, so it has no 'y'"},
      {"{{ f() }}", "chat template: line 1, column 5: 'f' is undefined, so it cannot be called"},
      {"\n\n{{ 'a' + x }}",
       "chat template: line 3, column 4: '+' of a string and 'x', which is undefined"},
      {"{{ raise_exception('Roles must alternate') }}",
       "chat template: line 1, column 19: Roles must alternate"},
      {"{{ 'a'.format(1) }}",
       "chat template: line 1, column 7: strings have no method 'format' here"},
      {"{{ 'a'.__class__.mro }}",
       "chat template: line 1, column 17: '__class__' is undefined, so it has no 'mro'"},
      {"{{ 9223372036854775807 + 1 }}", "chat template: line 1, column 4: an integer overflows"},
      {"{{ strftime_now('%Q') }}",
       "chat template: line 1, column 16: strftime_now does not know the field '%Q'"},
      {"{% set x = [namespace()] %}",
       "chat template: line 1, column 22: a namespace cannot be put inside another value"},
      {"{{ 'a'|replace('', 'b') }}",
       "chat template: line 1, column 8: replace needs something to look for"},
  };
  for (const auto& [source, message] : cases) EXPECT_EQ(refusal(source), message) << source;
}

// ---- limits, each within 100 ms of processor time

class Stopwatch {
 public:
  ~Stopwatch() { EXPECT_LT(test::cpu_seconds() - start_, 0.1 * test::kSlowBuild); }

 private:
  double start_ = test::cpu_seconds();
};

std::string repeated(const std::string& text, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}

TEST(ChatTemplateLimits, Depth) {
  const std::vector<std::pair<std::string, std::string>> nests = {
      {"(", ")"},           {"[", "]"},  {"not ", ""}, {"-", ""},
      {"1 if 1 else ", ""}, {"f(", ")"}, {"x[", "]"},  {"{1:", "}"}};
  for (const auto& [open, close] : nests) {
    const Stopwatch watch;
    EXPECT_THAT(refusal("{{ " + repeated(open, 50000) + "1" + repeated(close, 50000) + " }}"),
                HasSubstr("nested more than 64 deep"))
        << open;
  }
  const Stopwatch watch;
  EXPECT_THAT(refusal(repeated("{% if 1 %}", 10000) + repeated("{% endif %}", 10000)),
              HasSubstr("nested more than 64 deep"));
  EXPECT_EQ(refusal("{{ " + repeated("(", 60) + "1" + repeated(")", 60) + " }}"), "");
}

TEST(ChatTemplateLimits, LongChainsAreNotDeep) {
  for (const std::string& source :
       {"{{ 1" + repeated(" + 1", 50000) + " }}", "{{ 'a'" + repeated("|trim", 20000) + " }}",
        "{% if 0 %}" + repeated("{% elif 0 %}", 20000) + "{% endif %}"}) {
    const Stopwatch watch;
    EXPECT_EQ(refusal(source), "");
  }
}

TEST(ChatTemplateLimits, Steps) {
  for (const std::string source :
       {"{% for i in range(1000000000) %}{% endfor %}", "{{ range(1000000000)|list|length }}",
        "{{ range(-9223372036854775807, 9223372036854775807)|first }}",
        "{% for i in range(1000) %}{% for j in range(1000) %}{% for k in range(1000) %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}"
        "{% endfor %}",
        "{% for i in range(100000) %}{% set x = 'a' * 4000000 %}{% endfor %}",
        "{% set a = 'a' * 2000000 %}{% set b = 'a' * 1000000 ~ 'b' %}{% for i in range(100) %}"
        "{{ b in a }}{% endfor %}{% for i in range(9999) %}{{ a.count(b) }}{% endfor %}"}) {
    const Stopwatch watch;
    EXPECT_THAT(refusal(source), HasSubstr("takes more than 1000000 steps")) << source;
  }
}

TEST(ChatTemplateLimits, Text) {
  for (const std::string source : {"{{ 'a' * 4194305 }}",
                                   "{% set ns = namespace(x='ab') %}{% for i in range(100) %}"
                                   "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
                                   "{{ ('a' * 3000)|replace('a', 'b' * 3000) }}",
                                   "{{ ('a' * 100000)|list|join('x' * 60) }}"}) {
    const Stopwatch watch;
    EXPECT_THAT(refusal(source), HasSubstr("makes a text of more than 4194304 bytes")) << source;
  }
  const Stopwatch watch;
  EXPECT_THAT(refusal("{% for i in range(5) %}{{ 'a' * 1000000 }}{% endfor %}"),
              HasSubstr("prints more than 4194304 bytes"));
  EXPECT_EQ(refusal("{% for i in range(4) %}{{ 'a' * 1000000 }}{% endfor %}"), "");
}

TEST(ChatTemplateLimits, Recursion) {
  const Stopwatch watch;
  EXPECT_THAT(refusal("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}"),
              HasSubstr("recursion is too deep"));
  EXPECT_THAT(refusal("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}"
                      "{% set ns.x = [ns.x] %}{% endfor %}"),
              HasSubstr("values nest more than 64 deep"));
}

TEST(ChatTemplateLimits, LongMessagesAreFine) {
  const Stopwatch watch;
  const std::string content(size_t{3} << 20, 'x');
  EXPECT_EQ(joined(pieces(golden().at("templates").at("llama3").at("source"), content)).size() >
                content.size(),
            true);
}

TEST(ChatTemplateLimits, Source) {
  EXPECT_THAT(refusal(std::string((size_t{1} << 20) + 1, 'x')), HasSubstr("a source of 1048577"));
}

}  // namespace
}  // namespace lowkey
