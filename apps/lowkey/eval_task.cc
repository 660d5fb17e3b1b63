#include "eval_task.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/sha256.h"
#include "eval/task_eval.h"
#include "model_options.h"
#include "progress_bar.h"
#include "recipe/bytes.h"
#include "table.h"
#include "terminal.h"
#include "units.h"

namespace lowkey {
namespace {

constexpr size_t kLongLabel = 16;  // longer recipes get a letter, and a line below the table

int64_t max_tokens(const EvalOptions& options) {
  return options.max_tokens.value_or(TaskOptions{}.max_tokens);
}

struct Row {
  CacheSpec spec;
  TaskResult result;
  const ResolvedRecipe& recipe() const { return spec.recipe; }
};

struct TaskReport {
  const EvalOptions& options;
  const Task& task;
  std::string task_sha256;
  std::vector<Row> rows;  // the reference first

  const Row& reference() const { return rows[0]; }
  int64_t questions() const { return std::ssize(reference().result.answers); }
  // Where bits and bytes are counted, for all recipes alike: as many tokens as a question and its
  // 16-bit answer have.
  int64_t tokens() const {
    return std::max<int64_t>(1, std::llround(reference().result.cached_tokens));
  }
  double bytes_per_token(const Row& row) const {
    return static_cast<double>(bytes_at(row.recipe(), tokens()).total()) /
           static_cast<double>(tokens());
  }

  std::string heading() const {
    std::string shots = "no shots";
    if (!task.shots.empty()) {
      shots = fmt::format("{} shot{}", task.shots.size(), task.shots.size() == 1 ? "" : "s");
    }
    return fmt::format("{} question{}, {}, {}; greedy, at most {} tokens",
                       with_separators(questions()), questions() == 1 ? "" : "s", shots,
                       options.as_chat ? "as chat" : "as text",
                       with_separators(max_tokens(options)));
  }

  std::string table(const Terminal& terminal) const {
    using Align = Table::Align;
    Table table({{"KV cache", Align::kLeft},
                 {"exact", Align::kRight},
                 {"95% interval", Align::kRight},
                 {"strict", Align::kRight},
                 {"changed", Align::kRight},
                 {"tokens", Align::kRight},
                 {"code", Align::kRight},
                 {"stored", Align::kRight},
                 {"B/token", Align::kRight},
                 {"smaller", Align::kRight}});
    Legend legend(kLongLabel);
    for (const Row& row : rows) {
      const TaskResult& result = row.result;
      table.add_row(
          {legend.label(row.recipe().label), fmt::format("{:.1f}%", result.accuracy() * 100),
           fmt::format("{:.1f}-{:.1f}%", result.interval.low * 100, result.interval.high * 100),
           fmt::format("{:.1f}%", share(result.correct_strict) * 100),
           &row == &reference() ? ""
                                : fmt::format("{}", answers_changed(reference().result, result)),
           fmt::format("{:.1f}", result.answer_tokens),
           fmt::format("{:.2f}", code_bits(row.recipe())),
           fmt::format("{:.2f}", stored_bits(row.recipe(), tokens())),
           with_separators(std::llround(bytes_per_token(row))),
           fmt::format("{:.2f}x", bytes_per_token(reference()) / bytes_per_token(row))});
    }
    return table.text(terminal) + legend.text();
  }

  std::string json() const {
    nlohmann::ordered_json array = nlohmann::ordered_json::array();
    for (const Row& row : rows) {
      const TaskResult& result = row.result;
      nlohmann::ordered_json answers = nlohmann::ordered_json::array();
      for (const TaskAnswer& answer : result.answers) {
        answers.push_back({{"line", answer.line},
                           {"correct", answer.judgement.flexible},
                           {"correct_strict", answer.judgement.strict},
                           {"given", answer.judgement.given},
                           {"text", answer.text},
                           {"tokens", answer.tokens},
                           {"stop_reason", stop_reason_name(answer.reason)}});
      }
      array.push_back({
          {"recipe", row.recipe().label},
          {"exact_match", result.accuracy()},
          {"exact_match_low", result.interval.low},
          {"exact_match_high", result.interval.high},
          {"exact_match_strict", share(result.correct_strict)},
          {"answers_changed", answers_changed(reference().result, result)},
          {"answer_tokens", result.answer_tokens},
          {"cached_tokens", result.cached_tokens},
          {"code_bits", code_bits(row.recipe())},
          {"stored_bits", stored_bits(row.recipe(), tokens())},
          {"bytes_per_token", bytes_per_token(row)},
          {"bits_at_tokens", tokens()},
          {"task", task.name},
          {"task_sha256", task_sha256},
          {"questions", questions()},
          {"shots", task.shots.size()},
          {"format", options.as_chat ? "chat" : "text"},
          {"max_tokens", max_tokens(options)},
          {"answers", std::move(answers)},
      });
    }
    return array.dump(2) + "\n";
  }

 private:
  double share(int64_t count) const {
    return static_cast<double>(count) / static_cast<double>(questions());
  }
};

}  // namespace

int eval_task(const EvalOptions& options) {
  const Terminal terminal = detect_terminal(stdout, options.no_color);
  // What is wrong is said at once, not after loading.
  for (const std::string& text : options.kv) checked_recipe(text);
  const Task task = read_task(*options.task, options.few_shot);
  TaskReport report{options, task, sha256_hex(read_file(*options.task, kMaxTaskBytes)), {}};

  ProgressBar bar;
  Engine engine(options.model, {weight_storage(options.weights), options.threads, 0},
                bar.callback());
  report.rows.push_back({recipe_for("16", engine), {}});
  for (const std::string& kv : options.kv) {
    // The reference is always measured; asking for it changes nothing.
    if (parse_recipe(kv) != parse_recipe("16")) report.rows.push_back({recipe_for(kv, engine), {}});
  }
  const TaskPrompts prompts =
      task_prompts(engine, task, options.as_chat ? PromptForm::kChat : PromptForm::kText,
                   options.limit.value_or(0));
  TaskOptions task_options;
  task_options.max_tokens = max_tokens(options);
  for (Row& row : report.rows) {
    row.result = answer_task(engine.model(), engine.tokenizer(), prompts, row.spec, task_options,
                             bar.callback());
  }
  bar.clear();

  fmt::print("{} on {} (sha256 {}…): {}\n", engine.file().path().filename().string(), task.name,
             report.task_sha256.substr(0, 12), report.heading());
  fmt::print("{}; bits and bytes at {} tokens\n\n", describe_engine(engine),
             with_separators(report.tokens()));
  fmt::print("{}", report.table(terminal));
  if (options.json_file) write_file_atomically(*options.json_file, report.json());
  return 0;
}

}  // namespace lowkey
