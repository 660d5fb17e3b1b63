#include "speed.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kWarmUpPrompt = 128;
constexpr int64_t kWarmUpGenerate = 4;

std::vector<int32_t> random_tokens(int64_t count, int32_t vocab_size) {
  SplitMix64 rng(7);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(rng.next() % static_cast<uint64_t>(vocab_size));
  }
  return tokens;
}

std::vector<int64_t> ascending(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

// One recipe: its cache, filled to each depth.
struct Arm {
  std::unique_ptr<KvCache> cache;
  // One token short of the depth: a fork's first step copies the page that is open and is not
  // timed.
  std::map<int64_t, KvSequence> filled;  // by depth > 0, and than the prefix is long
};

class SpeedTest {
 public:
  SpeedTest(Engine& engine, const SpeedOptions& options)
      : engine_(engine),
        options_(options),
        hidden_(static_cast<size_t>(engine.file().config().hidden_size)),
        logits_(static_cast<size_t>(engine.file().config().vocab_size)) {}

  std::vector<SpeedRow> run(const std::vector<CacheSpec>& recipes, const ProgressFn& progress) {
    plan(recipes);
    fill(recipes, progress);
    const auto per_repetition = static_cast<int64_t>(rows_.size());
    for (int64_t repetition = -1; repetition < options_.repetitions; ++repetition) {
      for (int64_t i = 0; i < per_repetition; ++i) {
        report(progress, repetition < 0 ? "warming up" : "measuring",
               std::max<int64_t>(repetition, 0) * per_repetition + i,
               (repetition < 0 ? 1 : options_.repetitions) * per_repetition);
        // Tests outside, recipes inside: what is compared runs side by side.
        SpeedRow& row = rows_[interleaved_[static_cast<size_t>(i)]];
        const double rate = measure(row, repetition < 0);
        if (repetition >= 0) row.tokens_per_second.push_back(rate);
      }
    }
    return std::move(rows_);
  }

 private:
  void plan(const std::vector<CacheSpec>& recipes) {
    for (size_t recipe = 0; recipe < recipes.size(); ++recipe) {
      for (const int64_t depth : options_.depths) {
        for (const int64_t tokens : options_.prompt) add_row(recipes, recipe, false, tokens, depth);
        for (const int64_t tokens : options_.generate)
          add_row(recipes, recipe, true, tokens, depth);
      }
    }
    if (rows_.empty()) {
      fail(ErrorCode::kInvalidArgument, "nothing to measure: -p and -n are both 0");
    }
    int64_t longest = 0;
    for (const SpeedRow& row : rows_) longest = std::max({longest, row.tokens, row.depth});
    tokens_ = random_tokens(longest, engine_.file().config().vocab_size);
    const size_t tests = rows_.size() / recipes.size();
    for (size_t test = 0; test < tests; ++test) {
      for (size_t recipe = 0; recipe < recipes.size(); ++recipe) {
        interleaved_.push_back(recipe * tests + test);
      }
    }
  }

  void add_row(const std::vector<CacheSpec>& recipes, size_t recipe, bool generates, int64_t tokens,
               int64_t depth) {
    if (tokens == 0) return;
    SpeedRow row;
    row.recipe = recipe;
    row.generates = generates;
    row.tokens = tokens;
    row.depth = depth;
    const CacheSpec& spec = recipes[recipe];
    const int64_t length = std::max(depth, spec.prefix_tokens()) + tokens;
    if (length > engine_.max_context()) {
      fail(ErrorCode::kInvalidArgument, "{} at a depth of {}: the model's context is {} tokens",
           row.test(), depth, engine_.max_context());
    }
    row.kv_bytes_per_token =
        static_cast<double>(bytes_at(spec.recipe, length).total()) / static_cast<double>(length);
    rows_.push_back(std::move(row));
  }

  void fill(const std::vector<CacheSpec>& recipes, const ProgressFn& progress) {
    const std::vector<int64_t> depths = ascending(options_.depths);
    for (const CacheSpec& spec : recipes) {
      Arm arm;
      arm.cache = std::make_unique<KvCache>(spec);
      KvSequence sequence = arm.cache->new_sequence();
      for (const int64_t depth : depths) {
        if (depth <= spec.prefix_tokens()) continue;
        const auto first = static_cast<size_t>(sequence.length());
        const auto count = static_cast<size_t>(depth - 1) - first;
        if (count > 0) {
          prefill(engine_.model(), sequence, std::span(tokens_).subspan(first, count),
                  RowsWanted::kNone, nullptr, progress,
                  fmt::format("filling the cache ({})", spec.recipe.label));
        }
        arm.filled.emplace(depth, sequence.fork());
      }
      arms_.push_back(std::move(arm));
    }
  }

  void step(KvSequence& sequence, int32_t token) {
    const StepItem item{&sequence, {&token, 1}, RowsWanted::kLast};
    engine_.model().forward({&item, 1}, hidden_.data());
    engine_.model().logits(hidden_.data(), 1, logits_.data());
  }

  KvSequence at_depth(Arm& arm, int64_t depth) {
    const auto filled = arm.filled.find(depth);
    if (filled == arm.filled.end()) return arm.cache->new_sequence();
    KvSequence sequence = filled->second.fork();
    step(sequence, tokens_[static_cast<size_t>(depth - 1)]);
    return sequence;
  }

  // Tokens per second.
  double measure(const SpeedRow& row, bool warm_up) {
    KvSequence sequence = at_depth(arms_[row.recipe], row.depth);
    int64_t count = row.tokens;
    if (warm_up) count = std::min(count, row.generates ? kWarmUpGenerate : kWarmUpPrompt);
    const std::span<const int32_t> tokens = std::span(tokens_).first(static_cast<size_t>(count));
    const auto start = Clock::now();
    if (row.generates) {
      for (const int32_t token : tokens) step(sequence, token);
    } else {
      prefill(engine_.model(), sequence, tokens, RowsWanted::kLast, hidden_.data(), {}, "");
      engine_.model().logits(hidden_.data(), 1, logits_.data());
    }
    const std::chrono::duration<double> took = Clock::now() - start;
    return static_cast<double>(count) / took.count();
  }

  Engine& engine_;
  const SpeedOptions& options_;
  std::vector<float> hidden_, logits_;
  std::vector<int32_t> tokens_;  // the same for every test
  std::vector<SpeedRow> rows_;
  std::vector<size_t> interleaved_;  // the order in which rows are measured
  std::vector<Arm> arms_;
};

}  // namespace

std::string SpeedRow::test() const {
  return fmt::format("{}{}", generates ? "tg" : "pp", tokens);
}

double SpeedRow::mean() const {
  const double sum = std::accumulate(tokens_per_second.begin(), tokens_per_second.end(), 0.0);
  return tokens_per_second.empty() ? 0 : sum / static_cast<double>(tokens_per_second.size());
}

double SpeedRow::stddev() const {
  if (tokens_per_second.size() < 2) return 0;
  double squares = 0;
  for (const double rate : tokens_per_second) squares += (rate - mean()) * (rate - mean());
  return std::sqrt(squares / static_cast<double>(tokens_per_second.size() - 1));
}

std::vector<SpeedRow> measure_speed(Engine& engine, const std::vector<CacheSpec>& recipes,
                                    const SpeedOptions& options, const ProgressFn& progress) {
  return SpeedTest(engine, options).run(recipes, progress);
}

}  // namespace lowkey
