// lowkey bench: how fast prompts and answers are, per cache recipe, in llama-bench's columns.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/cpu.h"
#include "core/files.h"
#include "model_options.h"
#include "progress_bar.h"
#include "speed.h"
#include "table.h"
#include "terminal.h"
#include "units.h"
#include "verbs.h"

namespace lowkey {
namespace {

constexpr size_t kLongLabel = 12;  // longer recipes get a letter, and a line below the table

struct BenchReport {
  const BenchOptions& options;
  Engine& engine;
  const std::vector<SpeedRow>& rows;

  std::string model_name() const { return engine.file().path().stem().string(); }

  int64_t parameters() const {
    int64_t count = 0;
    for (const std::string& name : engine.file().tensor_names()) {
      const TensorView& tensor = engine.file().tensor(name);
      count += tensor.rows() * tensor.cols();
    }
    return count;
  }

  std::string recipe(const SpeedRow& row) const { return options.kv[row.recipe]; }

  static std::string test(const SpeedRow& row) {
    return row.depth == 0 ? row.test() : fmt::format("{} @ d{}", row.test(), row.depth);
  }

  // Letters for recipes that are too long for a column.
  std::string label(const SpeedRow& row) const {
    const std::string whole = recipe(row);
    if (whole.size() <= kLongLabel) return whole;
    return fmt::format("({})", static_cast<char>('a' + row.recipe % 26));
  }

  std::string legend() const {
    std::string lines;
    for (size_t i = 0; i < options.kv.size(); ++i) {
      if (options.kv[i].size() > kLongLabel) {
        lines += fmt::format("({}) {}\n", static_cast<char>('a' + i % 26), options.kv[i]);
      }
    }
    return lines;
  }

  Table table(bool utf8, bool whole_labels) const {
    constexpr auto kRight = Table::Align::kRight;
    Table table({{"model"},
                 {"size", kRight},
                 {"params", kRight},
                 {"isa"},
                 {"threads", kRight},
                 {"KV cache"},
                 {"KV B/tok", kRight},
                 {"test"},
                 {"tok/s", kRight}});
    for (const SpeedRow& row : rows) {
      table.add_row({model_name(), human_bytes(engine.file().weight_bytes()),
                     fmt::format("{:.1f} M", static_cast<double>(parameters()) / 1e6),
                     std::string(isa_name(active_isa())),
                     fmt::format("{}", engine.pool().num_threads()),
                     whole_labels ? recipe(row) : label(row),
                     with_separators(std::llround(row.kv_bytes_per_token)), test(row),
                     fmt::format("{:.1f} {} {:.1f}", row.mean(), utf8 ? "±" : "+-", row.stddev())});
    }
    return table;
  }

  std::string json() const {
    nlohmann::ordered_json array = nlohmann::ordered_json::array();
    for (const SpeedRow& row : rows) {
      array.push_back({{"engine", "lowkey"},
                       {"kv", recipe(row)},
                       {"threads", engine.pool().num_threads()},
                       {"test", row.test()},
                       {"n_depth", row.depth},
                       {"avg_ts", row.mean()},
                       {"stddev_ts", row.stddev()},
                       {"samples_ts", row.tokens_per_second},
                       {"n_prompt", row.generates ? 0 : row.tokens},
                       {"n_gen", row.generates ? row.tokens : 0},
                       {"kv_bytes_per_token", row.kv_bytes_per_token},
                       {"model", model_name()},
                       {"model_size", engine.file().weight_bytes()},
                       {"model_n_params", parameters()},
                       {"isa", isa_name(active_isa())},
                       {"weights", weight_storage_name(engine.weight_storage())}});
    }
    return array.dump(2) + "\n";
  }
};

}  // namespace

int bench_verb(const BenchOptions& options) {
  const Terminal terminal = detect_terminal(stdout, options.no_color);
  for (const std::string& text : options.kv)
    checked_recipe(text);  // said at once, not after loading
  SpeedOptions speed;
  speed.prompt = options.prompt;
  speed.generate = options.generate;
  speed.depths = options.depths;
  speed.repetitions = options.repetitions;

  ProgressBar bar;
  Engine engine(options.model, {weight_storage(options.weights), options.threads, 0},
                bar.callback());
  std::vector<CacheSpec> recipes;
  for (const std::string& kv : options.kv) recipes.push_back(recipe_for(kv, engine));
  const std::vector<SpeedRow> rows = measure_speed(engine, recipes, speed, bar.callback());
  bar.clear();

  const BenchReport report{options, engine, rows};
  if (options.json_file == "-") {
    fmt::print("{}", report.json());
    return 0;
  }
  if (options.markdown) {
    fmt::print("{}", report.table(true, true).markdown());
  } else {
    fmt::print("{}{}", report.table(terminal.utf8, false).text(terminal), report.legend());
  }
  if (options.verbose) fmt::print(stderr, "{}\n", describe_engine(engine));
  if (options.json_file) write_file_atomically(*options.json_file, report.json());
  return 0;
}

}  // namespace lowkey
