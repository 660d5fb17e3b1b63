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

// What became of the cache's intact prefix in a prompt.
enum class PrefixUse : uint8_t {
  kNone,       // there is none
  kMatched,    // the prompt begins with its ids
  kPrepended,  // the prompt does not: it was put before it
};

struct GenerateResult {
  std::vector<int32_t> tokens;  // without the token that ended the answer
  std::string text;
  StopReason reason = StopReason::kEndOfAnswer;
  int64_t prompt_tokens = 0;
  // Still in the cache from the turn before, of the prompt or of what it follows in the prefix's
  // stead; the prefix's own do not count.
  int64_t reused_tokens = 0;
  PrefixUse prefix_use = PrefixUse::kNone;
  int64_t prefix_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int64_t decoded_tokens = 0;  // steps timed by decode_seconds
};

class Session {
 public:
  // The engine must outlive the session.
  Session(Engine& engine, const CacheSpec& spec);

  // Answers a prompt (the whole conversation as tokens). What the cache still holds of it is
  // reused; so is the cache's prefix, which is put before prompts that lack it. on_text gets pieces
  // of valid UTF-8 as they become certain. Throws Error kInvalidArgument if the prompt is empty or
  // does not fit the context, or is a prefix of which nobody knows what follows
  // (IntactPrefix::hidden); after any Error the session holds the prefix at most, and is usable.
  GenerateResult generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                          const std::function<void(std::string_view)>& on_text,
                          const ProgressFn& progress = {});

  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }  // the prefix's too
  const KvCache& cache() const { return cache_; }
  std::span<const int32_t> tokens() const { return tokens_; }

 private:
  void start_over();
  int64_t reuse(std::span<const int32_t> prompt);
  void feed(std::span<const int32_t> tokens, const ProgressFn& progress);

  Engine& engine_;
  const CacheSpec spec_;
  KvCache cache_;
  KvSequence sequence_;
  std::vector<int32_t> tokens_;  // what the sequence holds, the prefix first
  std::vector<float> hidden_, logits_;
};

}  // namespace lowkey
