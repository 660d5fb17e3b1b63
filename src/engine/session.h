#pragma once
// One conversation: a sequence in a cache, the tokens it holds, and the logits after them. Belongs
// to one thread.
#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cache/kv_cache.h"
#include "core/progress.h"
#include "engine/engine.h"
#include "engine/sampler.h"

namespace lowkey {

struct GenerateOptions {
  SamplingOptions sampling;
  int64_t max_tokens = 0;  // 0: until the model ends or the context is full
  std::vector<std::string> stop;
  const std::atomic<bool>* cancel =
      nullptr;  // set from a signal handler: ends after the current token
};

enum class StopReason : uint8_t {
  kEndOfAnswer,
  kStopString,
  kTokenLimit,
  kContextFull,
  kCancelled
};
const char* stop_reason_name(StopReason reason);

struct GenerateResult {
  std::vector<int32_t> tokens;  // without the token that ended the answer
  std::string text;
  StopReason reason = StopReason::kEndOfAnswer;
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;  // of the prompt: still in the cache from the turn before
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int64_t decoded_tokens = 0;  // steps timed by decode_seconds
};

class Session {
 public:
  // The engine must outlive the session.
  Session(Engine& engine, const ResolvedRecipe& recipe);

  // Answers a prompt (the whole conversation as tokens). What the cache still holds of it is
  // reused. on_text gets pieces of valid UTF-8 as they become certain. Throws Error
  // kInvalidArgument if the prompt is empty or does not fit the context; after any Error the
  // session is empty and usable.
  GenerateResult generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                          const std::function<void(std::string_view)>& on_text,
                          const ProgressFn& progress = {});

  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }
  const KvCache& cache() const { return cache_; }
  std::span<const int32_t> tokens() const { return tokens_; }

 private:
  int64_t reuse(std::span<const int32_t> prompt);
  void feed(std::span<const int32_t> tokens, const ProgressFn& progress);

  Engine& engine_;
  KvCache cache_;
  KvSequence sequence_;
  std::vector<int32_t> tokens_;  // what the sequence holds
  std::vector<float> hidden_, logits_;
};

}  // namespace lowkey
