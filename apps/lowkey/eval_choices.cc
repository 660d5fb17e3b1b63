#include "eval_choices.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/sha256.h"
#include "eval/multiple_choice.h"
#include "eval/task_file.h"
#include "model_options.h"
#include "progress_bar.h"
#include "prompt_beginning.h"
#include "recipe/bytes.h"
#include "table.h"
#include "terminal.h"
#include "units.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kLongLabel = 16;  // longer recipes get a letter, and a line below the table

struct Row {
  CacheSpec spec;
  ChoiceResult result;
};

std::string percent(double share) {
  return fmt::format("{:.1f}%", share * 100);
}

std::string percent(const Interval& interval) {
  return fmt::format("{:.1f}-{:.1f}%", interval.low * 100, interval.high * 100);
}

struct ChoiceReport {
  const EvalOptions& options;
  const ChoiceTask& task;
  const Engine& engine;
  std::string task_sha256;
  std::vector<Row> rows;  // the reference first

  const Row& reference() const { return rows[0]; }
  int64_t questions() const { return std::ssize(reference().result.answers); }
  // A letter has one byte: acc_norm is acc.
  bool norm() const { return task.style == ChoiceStyle::kText; }
  int64_t tokens() const {
    return std::max<int64_t>(1, std::llround(reference().result.cached_tokens));
  }
  double bits(const Row& row) const { return stored_bits(row.spec.recipe, tokens()); }
  ChoiceChanges changes(const Row& row) const {
    return choice_changes(reference().result, row.result, norm());
  }

  std::string heading() const {
    const std::string shots =
        task.shots == 0 ? "no shots"
                        : fmt::format("{} shot{}", task.shots, task.shots == 1 ? "" : "s");
    return fmt::format("{} question{}, {}, {}", with_separators(questions()),
                       questions() == 1 ? "" : "s", shots,
                       norm() ? "choices as texts: changes by acc_norm" : "choices as letters");
  }

  std::string table(const Terminal& terminal) const {
    using Align = Table::Align;
    std::vector<Table::Column> columns = {
        {"KV cache", Align::kLeft}, {"acc", Align::kRight}, {"95% interval", Align::kRight}};
    if (norm()) {
      columns.push_back({"acc_norm", Align::kRight});
      columns.push_back({"95% interval", Align::kRight});
    }
    for (const char* header : {"changed", "lost", "won", "p", "stored"}) {
      columns.push_back({header, Align::kRight});
    }
    Table table(columns);
    Legend legend(kLongLabel);
    for (const Row& row : rows) {
      const ChoiceResult& result = row.result;
      const bool is_reference = &row == &reference();
      std::vector<std::string> cells = {legend.label(row.spec.recipe.label),
                                        percent(result.accuracy()), percent(result.interval)};
      if (norm()) {
        cells.push_back(percent(result.accuracy_norm()));
        cells.push_back(percent(result.interval_norm));
      }
      const ChoiceChanges change = changes(row);
      cells.push_back(is_reference ? "" : fmt::format("{}", change.changed));
      cells.push_back(is_reference ? "" : fmt::format("{}", change.lost));
      cells.push_back(is_reference ? "" : fmt::format("{}", change.gained));
      cells.push_back(is_reference ? "" : fmt::format("{:.3f}", change.p_value));
      cells.push_back(fmt::format("{:.2f}", bits(row)));
      table.add_row(std::move(cells));
    }
    return table.text(terminal) + legend.text();
  }

  std::string json() const {
    Json array = Json::array();
    for (const Row& row : rows) array.push_back(row_json(row));
    return array.dump(2) + "\n";
  }

 private:
  Json row_json(const Row& row) const {
    const ChoiceResult& result = row.result;
    const ChoiceChanges change = changes(row);
    Json answers = Json::array();
    for (const ChoiceAnswer& answer : result.answers) {
      answers.push_back({{"line", answer.line},
                         {"gold", answer.gold},
                         {"picked", answer.picked},
                         {"picked_norm", answer.picked_norm},
                         {"log_likelihood", answer.log_likelihood}});
    }
    return {{"recipe", row.spec.recipe.label},
            {"acc", result.accuracy()},
            {"acc_low", result.interval.low},
            {"acc_high", result.interval.high},
            {"acc_norm", result.accuracy_norm()},
            {"acc_norm_low", result.interval_norm.low},
            {"acc_norm_high", result.interval_norm.high},
            {"changed", change.changed},
            {"lost", change.lost},
            {"gained", change.gained},
            {"mcnemar_p", change.p_value},
            {"code_bits", code_bits(row.spec.recipe)},
            {"stored_bits", bits(row)},
            {"bits_at_tokens", tokens()},
            {"model", engine.file().path().filename().string()},
            {"weights", weight_storage_name(engine.weight_storage())},
            {"task", task.name},
            {"task_sha256", task_sha256},
            {"questions", questions()},
            {"shots", task.shots},
            {"style", norm() ? "text" : "letters"},
            {"subjects", subjects_json(result)},
            {"answers", std::move(answers)}};
  }

  static Json subjects_json(const ChoiceResult& result) {
    struct Count {
      int64_t questions = 0, right = 0, right_norm = 0;
    };
    std::map<std::string, Count> subjects;
    for (const ChoiceAnswer& answer : result.answers) {
      if (answer.subject.empty()) continue;
      Count& count = subjects[answer.subject];
      ++count.questions;
      count.right += answer.right() ? 1 : 0;
      count.right_norm += answer.right_norm() ? 1 : 0;
    }
    Json object = Json::object();
    for (const auto& [name, count] : subjects) {
      const auto total = static_cast<double>(count.questions);
      object[name] = {{"questions", count.questions},
                      {"acc", static_cast<double>(count.right) / total},
                      {"acc_norm", static_cast<double>(count.right_norm) / total}};
    }
    return object;
  }
};

}  // namespace

int eval_choices(const EvalOptions& options) {
  const Terminal terminal = detect_terminal(stdout, options.no_color);
  // What is wrong is said at once, not after loading.
  for (const std::string& text : options.kv) parse_recipe(text);
  const ChoiceTask task = read_choices(*options.choices, options.few_shot);

  ProgressBar bar;
  Engine engine(options.model, {weight_storage(options.weights), options.threads, 0},
                bar.callback());
  ChoiceReport report{
      options, task, engine, sha256_hex(read_file(*options.choices, kMaxTaskBytes)), {}};
  report.rows.push_back({recipe_for("16", engine), {}});
  for (const std::string& kv : options.kv) {
    // The reference is always measured; asking for it changes nothing.
    if (parse_recipe(kv) != parse_recipe("16")) report.rows.push_back({recipe_for(kv, engine), {}});
  }
  ChoicePrompts prompts = choice_prompts(engine.tokenizer(), task, options.limit.value_or(0));
  if (options.begin_with) begin_with(prompts, beginning_tokens(*options.begin_with, engine));
  for (Row& row : report.rows) {
    row.result = choose(engine.model(), engine.pool(), prompts, row.spec, bar.callback());
  }
  bar.clear();

  fmt::print("{} on {} (sha256 {}…): {}\n", engine.file().path().filename().string(), task.name,
             report.task_sha256.substr(0, 12), report.heading());
  fmt::print("{}; bits at {} tokens; lost, won: right answers\n\n", describe_engine(engine),
             with_separators(report.tokens()));
  fmt::print("{}", report.table(terminal));
  if (options.json_file) write_file_atomically(*options.json_file, report.json());
  return 0;
}

}  // namespace lowkey
