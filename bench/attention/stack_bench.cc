// Decode attention of a whole stack of layers with a full cache: as many sequences as a budget of
// memory holds with each recipe, against 16 bits (KIVI's comparison) and against 8 bits
// (KVTuner's).
//
//   stack_bench [--json FILE] [--budget GB] [--threads N] [--rounds N] [--steps N] [--only TEXT]
//               [--layers N] [--heads N] [--head-dim N] [--context N] [--stream-megabytes N]
//
// Unit: tokens per second, one token of every sequence through the attention of all layers.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/filled_stack.h"
#include "attention/stream_read.h"
#include "core/error.h"
#include "core/files.h"
#include "options.h"
#include "recipe/bytes.h"
#include "recipe/import.h"

namespace lowkey::bench {
namespace {

// Llama-2-7B's.
struct Options {
  std::string json;
  std::string only;      // arms whose name contains this, and their baselines
  double budget_gb = 0;  // 0: by what is available
  int threads = 0;
  int rounds = 3;
  int steps = 7;
  KvShape shape = {.num_layers = 32, .num_kv_heads = 32, .head_dim = 128};
  int64_t context = 1024;
  int64_t stream_megabytes = 512;
};

// Pairs of key and value bits per layer, as KVTuner publishes them: facts of its repository's
// presets for Llama-3.1-8B (kivi 4_1: 3.25 bits) and Qwen2.5-7B (kivi 6_0: 5.96 bits). The latter
// has 28 layers; its first four stand in for 28 to 31, which makes 5.91.
constexpr const char* kC3 =
    "22 44 44 44 22 42 42 44 42 42 42 42 42 84 42 42 42 84 42 42 42 42 42 42 42 22 42 22 42 44 42 "
    "44";
constexpr const char* kC6 =
    "88 24 88 24 84 84 22 88 22 88 88 42 84 88 88 42 88 42 88 88 88 88 84 84 84 84 22 88";

enum class Target { kNone, kFactor, kShareOfLimit };

struct Arm {
  std::string name;
  KvRecipe recipe;
  std::string baseline;  // the arm it is compared with; its own name: it is one
  Target target_kind = Target::kNone;
  double target = 0;
  double batch_target = 0;
};

KvRecipe kvtuner_mix(std::string_view pairs, int32_t layers) {
  const size_t count = (pairs.size() + 1) / 3;
  std::string yaml;
  for (int32_t layer = 0; layer < layers; ++layer) {
    const size_t at = static_cast<size_t>(layer) % count * 3;
    yaml +=
        fmt::format("{}: {{nbits_key: {}, nbits_value: {}}}\n", layer, pairs[at], pairs[at + 1]);
  }
  return recipe_from_kvtuner_yaml(yaml, "KVTuner", ImportPreset::kKivi);
}

std::vector<Arm> arms(const Options& options) {
  const int32_t layers = options.shape.num_layers;
  std::vector<Arm> all = {
      {"16", parse_recipe("16"), "16"},
      {"kivi-2:r32", parse_recipe("kivi-2:r32"), "16", Target::kFactor, 3.47, 4},
      {"kivi-2", parse_recipe("kivi-2"), "16", Target::kFactor, 3.47, 4},
      {"kivi-8:r32", parse_recipe("kivi-8:r32"), "kivi-8:r32"},
      {"KVTuner C6", kvtuner_mix(kC6, layers), "kivi-8:r32", Target::kShareOfLimit, 0.95},
      {"KVTuner C3", kvtuner_mix(kC3, layers), "kivi-8:r32", Target::kFactor, 1.76}};
  std::vector<Arm> wanted;
  for (const Arm& arm : all) {
    const bool compared = std::any_of(all.begin(), all.end(), [&](const Arm& other) {
      return other.baseline == arm.name && other.name.find(options.only) != std::string::npos;
    });
    if (compared || arm.name.find(options.only) != std::string::npos) wanted.push_back(arm);
  }
  return wanted;
}

struct Measured {
  Arm arm;
  ResolvedRecipe recipe;
  int64_t batch = 0;
  int64_t kv_bytes = 0;
  double error = 0;
  std::vector<double> step_seconds, stream_seconds;
};

// The fastest 5% of steps, and the middle one.
constexpr double kFastest = 0.05, kMiddle = 0.5;

double tokens_per_second(const Measured& m, double share) {
  return static_cast<double>(m.batch) / percentile(m.step_seconds, share);
}

int64_t available_bytes() {
  std::ifstream facts("/proc/meminfo");
  int64_t kib = 0;
  for (std::string word; facts >> word;) {
    if (word == "MemAvailable:" && facts >> kib) return kib << 10;
  }
  return 0;
}

// 16 GB where three more are left for the bench itself and everyone else.
double usual_budget_gb() {
  const int64_t left = (available_bytes() >> 30) - 3;
  return std::clamp(static_cast<double>(left), 1.0, 16.0);
}

nlohmann::json row_of(const Measured& m, const Measured& baseline, const Options& options,
                      int threads) {
  const auto stream = [&](const Measured& of, double share) {
    return static_cast<double>(options.stream_megabytes << 20) /
           percentile(of.stream_seconds, share);
  };
  // Relative to what memory reads beside each: arms are measured minutes apart.
  const auto normalized = [&](double share) {
    return tokens_per_second(m, share) / tokens_per_second(baseline, share) *
           stream(baseline, share) / stream(m, share);
  };
  const double bytes_per_second =
      static_cast<double>(m.kv_bytes) / percentile(m.step_seconds, kFastest);
  const double limit = static_cast<double>(bytes_at(baseline.recipe, options.context).total()) /
                       static_cast<double>(bytes_at(m.recipe, options.context).total());
  nlohmann::json row = {{"engine", "lowkey"},
                        {"kv", m.arm.name},
                        {"recipe", recipe_to_string(m.arm.recipe)},
                        {"code_bits", code_bits(m.recipe)},
                        {"stored_bits", stored_bits(m.recipe, options.context)},
                        {"layers", options.shape.num_layers},
                        {"num_kv_heads", options.shape.num_kv_heads},
                        {"gqa", 1},
                        {"head_dim", options.shape.head_dim},
                        {"context", options.context},
                        {"budget_gb", options.budget_gb},
                        {"kv_bytes", m.kv_bytes},
                        {"batch", m.batch},
                        {"threads", threads},
                        {"isa", std::string(isa_name(active_isa()))},
                        {"steps", m.step_seconds.size()},
                        {"tok_per_s", tokens_per_second(m, kFastest)},
                        {"median_tok_per_s", tokens_per_second(m, kMiddle)},
                        {"gb_per_s", bytes_per_second / 1e9},
                        {"stream_gb_per_s", stream(m, kFastest) / 1e9},
                        {"median_stream_gb_per_s", stream(m, kMiddle) / 1e9},
                        {"share_of_stream", bytes_per_second / stream(m, kFastest)},
                        {"relative_error", m.error}};
  if (m.arm.name == baseline.arm.name) return row;
  row["against"] = baseline.arm.name;
  row["batch_ratio"] = static_cast<double>(m.batch) / static_cast<double>(baseline.batch);
  row["ratio"] = tokens_per_second(m, kFastest) / tokens_per_second(baseline, kFastest);
  row["median_ratio"] = tokens_per_second(m, kMiddle) / tokens_per_second(baseline, kMiddle);
  row["ratio_by_stream"] = normalized(kFastest);
  row["median_ratio_by_stream"] = normalized(kMiddle);
  row["byte_limit"] = limit;
  row["target"] = m.arm.target_kind == Target::kShareOfLimit ? m.arm.target * limit : m.arm.target;
  if (m.arm.batch_target > 0) row["batch_target"] = m.arm.batch_target;
  return row;
}

// Fills the cache anew, then steps with a plain read of memory before each.
void measure_round(Measured& m, const Options& options, ThreadPool& pool,
                   AttendWorkspace& workspace, std::span<const std::byte> memory) {
  const double start = now_seconds();
  FilledStack stack(m.recipe, options.context, m.batch, pool);
  m.kv_bytes = stack.kv_bytes();
  const double filled = now_seconds();
  m.error = std::max(m.error, stack.output_error(pool, workspace));
  stack.step(pool, workspace);  // page tables and branches warm up
  for (int i = 0; i < options.steps; ++i) {
    m.stream_seconds.push_back(stream_read_seconds(memory, pool));
    m.step_seconds.push_back(stack.step(pool, workspace));
  }
  fmt::print("{:<12} filled {:.2f} GB in {:.1f} s; {:.0f} tok/s\n", m.arm.name,
             static_cast<double>(m.kv_bytes) / 1e9, filled - start,
             static_cast<double>(m.batch) / m.step_seconds.back());
  std::fflush(stdout);
}

void print_rows(const nlohmann::json& rows) {
  fmt::print("\n{:<12} {:>5} {:>6} {:>6} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6}\n", "kv",
             "code", "stored", "batch", "tok/s", "median", "GB/s", "stream", "ratio", "/stream",
             "limit", "target");
  for (const nlohmann::json& row : rows) {
    const auto factor = [&](const char* key) {
      return row.contains(key) ? fmt::format("{:.2f}x", row[key].get<double>()) : std::string();
    };
    fmt::print(
        "{:<12} {:>5.2f} {:>6.2f} {:>6} {:>8.1f} {:>8.1f} {:>7.1f} {:>6.0f}% {:>7} {:>7} "
        "{:>6} {:>6}\n",
        row["kv"].get<std::string>(), row["code_bits"].get<double>(),
        row["stored_bits"].get<double>(), row["batch"].get<int64_t>(),
        row["tok_per_s"].get<double>(), row["median_tok_per_s"].get<double>(),
        row["gb_per_s"].get<double>(), 100 * row["share_of_stream"].get<double>(), factor("ratio"),
        factor("ratio_by_stream"), factor("byte_limit"), factor("target"));
  }
}

void run(Options options) {
  if (options.budget_gb == 0) options.budget_gb = usual_budget_gb();
  ThreadPool pool(options.threads);
  AttendWorkspace workspace;
  PagePool stream_pool;
  // One large page: memory as the cache gets it, huge pages included.
  const int64_t stream_bytes = options.stream_megabytes << 20;
  const PageRef stream = stream_pool.allocate(stream_bytes);
  fmt::print("{} layers of {} heads, head_dim {}, {} tokens, KV budget {:g} GB, {} thread{}, {}\n",
             options.shape.num_layers, options.shape.num_kv_heads, options.shape.head_dim,
             options.context, options.budget_gb, pool.num_threads(),
             pool.num_threads() == 1 ? "" : "s", isa_name(active_isa()));
  std::vector<Measured> measured;
  for (const Arm& arm : arms(options)) {
    Measured m;
    m.arm = arm;
    m.recipe = resolve_recipe(arm.recipe, options.shape);
    const int64_t each = bytes_at(m.recipe, options.context).total();
    m.batch = static_cast<int64_t>(options.budget_gb * 1e9) / each;
    if (m.batch == 0) {
      fail(ErrorCode::kInvalidArgument, "--budget: {} needs {:.3f} GB for one sequence", arm.name,
           static_cast<double>(each) / 1e9);
    }
    measured.push_back(std::move(m));
  }
  // The budget holds one arm at a time: arms take turns, filled anew each time.
  for (int round = 0; round < options.rounds; ++round) {
    for (Measured& m : measured) {
      measure_round(m, options, pool, workspace,
                    {stream.data(), static_cast<size_t>(stream_bytes)});
    }
  }
  nlohmann::json rows = nlohmann::json::array();
  for (const Measured& m : measured) {
    const auto baseline =
        std::find_if(measured.begin(), measured.end(),
                     [&](const Measured& other) { return other.arm.name == m.arm.baseline; });
    rows.push_back(row_of(m, *baseline, options, pool.num_threads()));
  }
  print_rows(rows);
  if (!options.json.empty()) write_file_atomically(options.json, rows.dump(1) + "\n");
}

double above_zero(std::string_view option, std::string_view text) {
  const auto value = number<double>(option, text);
  if (!(value > 0 && value < 1e9)) {
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a number above 0", option, text);
  }
  return value;
}

Options parse_options(int argc, char** argv) {
  Options options;
  for_each_option(argc, argv, [&](std::string_view name, std::string_view value) {
    const auto whole = [&] { return static_cast<int32_t>(std::max(1.0, above_zero(name, value))); };
    if (name == "--json") {
      options.json = value;
    } else if (name == "--only") {
      options.only = value;
    } else if (name == "--budget") {
      options.budget_gb = above_zero(name, value);
    } else if (name == "--threads") {
      options.threads = whole();
    } else if (name == "--rounds") {
      options.rounds = whole();
    } else if (name == "--steps") {
      options.steps = whole();
    } else if (name == "--layers") {
      options.shape.num_layers = whole();
    } else if (name == "--heads") {
      options.shape.num_kv_heads = whole();
    } else if (name == "--head-dim") {
      options.shape.head_dim = whole();
    } else if (name == "--context") {
      options.context = whole();
    } else if (name == "--stream-megabytes") {
      options.stream_megabytes = whole();
    } else {
      fail(ErrorCode::kInvalidArgument,
           "{}: not one of --json --budget --threads --rounds --steps --only --layers --heads "
           "--head-dim --context --stream-megabytes",
           name);
    }
  });
  return options;
}

}  // namespace
}  // namespace lowkey::bench

int main(int argc, char** argv) {
  using namespace lowkey::bench;
  return main_of("stack_bench", [&] { run(parse_options(argc, argv)); });
}
