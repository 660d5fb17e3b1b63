#pragma once
// Prompt and generation speed of several recipes side by side, as llama-bench defines them: `pp`
// runs a prompt through the model and computes the logits after its last token, `tg` decodes tokens
// one at a time, logits each time; nothing is sampled, the tokens are random. A depth is how many
// tokens the cache holds before the clock starts.
//
// Thread-safety: uses the engine, which belongs to one thread.
#include <cstdint>
#include <string>
#include <vector>

#include "core/progress.h"
#include "engine/engine.h"
#include "recipe/recipe.h"

namespace lowkey {

struct SpeedOptions {
  std::vector<int64_t> prompt;    // tokens of each pp test; a 0 is no test
  std::vector<int64_t> generate;  // tokens of each tg test; a 0 is no test
  std::vector<int64_t> depths = {0};
  int64_t repetitions = 5;
};

// One test of one recipe.
struct SpeedRow {
  size_t recipe = 0;  // index into the recipes measured
  bool generates = false;
  int64_t tokens = 0;                     // timed
  int64_t depth = 0;                      // in the cache before
  double kv_bytes_per_token = 0;          // as allocated, when the test ends
  std::vector<double> tokens_per_second;  // [repetitions]

  std::string test() const;  // "pp512", "tg128"
  double mean() const;
  double stddev() const;  // of the sample; 0 for a single repetition
};

// Rows by recipe, depth, prompt tests, generation tests, each in the order asked for. Every
// repetition goes through all of them before the next one begins, so that a machine that slows down
// slows every recipe; one repetition more, in which fewer tokens are run, comes first and is not
// counted. A cache is filled to each depth once and forked from there; one that begins with a
// prefix starts at its length or at the depth, what is more. Throws Error kInvalidArgument where a
// test outgrows the context, or nothing is left to measure.
std::vector<SpeedRow> measure_speed(Engine& engine, const std::vector<CacheSpec>& recipes,
                                    const SpeedOptions& options, const ProgressFn& progress);

}  // namespace lowkey
