#include "eval/mt_bench_file.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/sha256.h"
#include "eval/jsonl_line.h"
#include "load/utf8.h"

namespace lowkey {
namespace {

constexpr int kMaxDepth = 4;       // an answer, its choices, one of them, its turns, one of them
constexpr size_t kIdLetters = 22;  // as FastChat's
constexpr double kUnknownTemperature = 0.7;
// fastchat/llm_judge/common.py, temperature_config.
constexpr std::array<std::pair<std::string_view, double>, 8> kTemperatures = {{
    {"writing", 0.7},
    {"roleplay", 0.7},
    {"extraction", 0.0},
    {"math", 0.0},
    {"coding", 0.0},
    {"reasoning", 0.0},
    {"stem", 0.1},
    {"humanities", 0.1},
}};

nlohmann::ordered_json settings_json(const MtBenchSettings& settings) {
  return {{"model", settings.model},     {"kv", settings.kv},
          {"weights", settings.weights}, {"sampling", settings.sampling},
          {"seed", settings.seed},       {"max_tokens", settings.max_tokens}};
}

class MtBenchLine : public JsonlLine {
 public:
  MtBenchLine(std::string_view text, std::string_view source, int64_t number)
      : JsonlLine(text, source, number, kMaxDepth) {}

  int64_t id() const {
    if (!json().contains("question_id")) refuse("\"question_id\" is missing");
    const Json& id = json()["question_id"];
    if (!id.is_number_integer()) {
      refuse("question_id: expected a whole number, found {}", id.type_name());
    }
    return id.get<int64_t>();
  }

  MtBenchQuestion question() const {
    expect_fields(json(), "", {"question_id", "category", "turns", "reference"});
    MtBenchQuestion question;
    question.id = id();
    question.category = text(json(), "", "category");
    if (!json().contains("turns")) refuse("\"turns\" is missing");
    const Json& turns = json()["turns"];
    if (!turns.is_array()) refuse("turns: expected an array, found {}", turns.type_name());
    if (turns.empty() || turns.size() > kMaxMtBenchTurns) {
      refuse("turns: {} of them; 1 to {}", turns.size(), kMaxMtBenchTurns);
    }
    for (size_t i = 0; i < turns.size(); ++i) {
      if (!turns[i].is_string()) {
        refuse("turns[{}]: expected a string, found {}", i, turns[i].type_name());
      }
      question.turns.push_back(turns[i].get<std::string>());
    }
    return question;
  }
};

}  // namespace

std::vector<MtBenchQuestion> parse_mt_bench(std::string_view jsonl, std::string_view source_name) {
  std::vector<MtBenchQuestion> questions;
  std::set<int64_t> ids;
  for_each_jsonl_line(jsonl, source_name,
                      R"({"question_id": 81, "category": "writing", "turns": ["..."]})",
                      [&](std::string_view text, int64_t number) {
                        const MtBenchLine line(text, source_name, number);
                        questions.push_back(line.question());
                        if (!ids.insert(line.id()).second)
                          line.refuse("question {} is there twice", line.id());
                      });
  return questions;
}

double fastchat_temperature(std::string_view category) {
  const auto* const found =
      std::find_if(kTemperatures.begin(), kTemperatures.end(),
                   [&](const auto& entry) { return entry.first == category; });
  return found == kTemperatures.end() ? kUnknownTemperature : found->second;
}

std::string mt_bench_answer_line(const MtBenchQuestion& question,
                                 const std::vector<std::string>& answers,
                                 const MtBenchSettings& settings, double timestamp) {
  using Json = nlohmann::ordered_json;
  Json turns = Json::array();
  for (const std::string& answer : answers) turns.push_back(utf8_replace_invalid(answer));
  Json line = {{"question_id", question.id},
               {"answer_id", ""},
               {"model_id", settings.model_id},
               {"choices", {{{"index", 0}, {"turns", std::move(turns)}}}},
               {"lowkey", settings_json(settings)}};
  line["answer_id"] = sha256_hex(line.dump()).substr(0, kIdLetters);
  line["tstamp"] = timestamp;
  return line.dump() + "\n";
}

MtBenchAnswered parse_mt_bench_answers(std::string_view jsonl, std::string_view source_name,
                                       const MtBenchSettings& settings) {
  MtBenchAnswered answered;
  const size_t last = jsonl.rfind('\n');
  answered.bytes = last == jsonl.npos ? 0 : last + 1;
  if (answered.bytes == 0) return answered;
  for_each_jsonl_line(
      jsonl.substr(0, answered.bytes), source_name, "FastChat's answers",
      [&](std::string_view text, int64_t number) {
        const MtBenchLine line(text, source_name, number);
        if (line.text(line.json(), "", "model_id") != settings.model_id) {
          line.refuse("an answer of '{}', not of '{}': another -o, or another --model-id",
                      line.json()["model_id"].get_ref<const std::string&>(), settings.model_id);
        }
        if (!line.json().contains("lowkey") ||
            nlohmann::json(line.json()["lowkey"]) != nlohmann::json(settings_json(settings))) {
          line.refuse("this answer was made with another model, cache or sampling: another -o");
        }
        if (!answered.ids.insert(line.id()).second) {
          line.refuse("question {} is answered twice", line.id());
        }
      });
  return answered;
}

}  // namespace lowkey
