#pragma once
// Answers MT-Bench's questions: every turn through the model's chat template, the conversation's
// keys and values kept from turn to turn.
#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "cache/intact_prefix.h"
#include "core/progress.h"
#include "engine/engine.h"
#include "eval/mt_bench_file.h"

namespace lowkey {

enum class MtBenchSampling : uint8_t {
  kGreedy,
  kFastChat,  // its temperature for the category, from the 50 likeliest as transformers samples
};

struct MtBenchOptions {
  int64_t max_tokens = 1024;  // of an answer, as FastChat
  MtBenchSampling sampling = MtBenchSampling::kGreedy;
  uint64_t seed = 0;
};

// One answer per turn, without blanks around it, as FastChat writes them. The same for the same
// question, whatever was asked before. Throws Error kUnsupported without a chat template;
// kInvalidArgument naming question and turn where a conversation does not fit the context.
std::vector<std::string> answer_mt_bench(Engine& engine, const CacheSpec& spec,
                                         const MtBenchQuestion& question,
                                         const MtBenchOptions& options, const ProgressFn& progress);

}  // namespace lowkey
