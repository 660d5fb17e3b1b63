#pragma once
// MT-Bench (arXiv 2306.05685): questions of two turns in eight categories, and a model's answers in
// the form FastChat's judge reads. Torch-free.
//
//   {"question_id": 81, "category": "writing", "turns": ["...", "..."], "reference": [...]}
//   {"question_id": 81, "answer_id": "...", "model_id": "...",
//    "choices": [{"index": 0, "turns": ["...", "..."]}], "tstamp": 1700000000.0, "lowkey": {...}}
//
// "lowkey" says what the answers depend on: answers that depend on something else do not go on in
// the same file. FastChat passes over it.
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace lowkey {

inline constexpr size_t kMaxMtBenchTurns = 16;

struct MtBenchQuestion {
  int64_t id = 0;
  std::string category;
  std::vector<std::string> turns;  // the user's
};

// Throws Error kInvalidArgument "NAME:LINE: ..." for the first line that is no such object, and for
// an id given twice; as parse_task. References are ignored: they are the judge's.
std::vector<MtBenchQuestion> parse_mt_bench(std::string_view jsonl, std::string_view source_name);

// FastChat's temperature for a category; 0.7 for one it does not know.
double fastchat_temperature(std::string_view category);

// What answers depend on.
struct MtBenchSettings {
  std::string model_id;  // the judge's name for model, weights and cache
  std::string model;     // the file's
  std::string kv, weights, sampling;
  uint64_t seed = 0;
  int64_t max_tokens = 0;  // of an answer
  friend bool operator==(const MtBenchSettings&, const MtBenchSettings&) = default;
};

// One line with its line break. The answer's id follows from its contents: the same answers, the
// same id. timestamp: seconds since 1970.
std::string mt_bench_answer_line(const MtBenchQuestion& question,
                                 const std::vector<std::string>& answers,
                                 const MtBenchSettings& settings, double timestamp);

// What a file of answers already has. Throws Error kInvalidArgument "NAME:LINE: ..." for a whole
// line that is no answer, or one made with other settings.
struct MtBenchAnswered {
  std::set<int64_t> ids;
  size_t bytes = 0;  // of whole lines: what follows was cut off while it was written
};
MtBenchAnswered parse_mt_bench_answers(std::string_view jsonl, std::string_view source_name,
                                       const MtBenchSettings& settings);

}  // namespace lowkey
