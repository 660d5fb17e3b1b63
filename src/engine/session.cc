#include "engine/session.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "engine/prefix_file.h"
#include "engine/stop_strings.h"

namespace lowkey {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kSavePointsKept = 2;  // each is a copy of the exact windows

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

const char* stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kEndOfAnswer: return "end";
    case StopReason::kStopString: return "stop";
    case StopReason::kTokenLimit: return "length";
    case StopReason::kContextFull: return "context";
    case StopReason::kCancelled: return "cancelled";
  }
  return "unknown";
}

Session::Session(Engine& engine, const CacheSpec& spec)
    : engine_(engine),
      spec_(spec),
      cache_(spec),
      sequence_(cache_.new_sequence()),
      hidden_(static_cast<size_t>(engine.file().config().hidden_size)),
      logits_(static_cast<size_t>(engine.file().config().vocab_size)) {
  start_over();
}

void Session::start_over() {
  sequence_ = cache_.new_sequence();
  tokens_.clear();
  if (spec_.prefix) tokens_ = spec_.prefix->tokens;
}

// Goes back to the longest state that the prompt (which begins with the cache's prefix) begins
// with, and says how long it is. At least the prompt's last token is always computed, for its
// logits are wanted; but of the prefix, they come with it.
int64_t Session::reuse(std::span<const int32_t> prompt) {
  const size_t most = std::max(std::min(tokens_.size(), prompt.size() - 1),
                               static_cast<size_t>(spec_.prefix_tokens()));
  size_t common = 0;
  while (common < most && tokens_[common] == prompt[common]) ++common;
  const int64_t length = sequence_.nearest_restorable(static_cast<int64_t>(common));
  LOWKEY_CHECK(sequence_.truncate(length), "length {}", length);
  tokens_.resize(static_cast<size_t>(length));
  return length;
}

// Appends tokens and leaves the logits after the last of them in logits_; of none, those after the
// prefix.
void Session::feed(std::span<const int32_t> tokens, const ProgressFn& progress) {
  const ProgressFn silent;
  if (tokens.empty()) {
    hidden_ = hidden_after_prefix(spec_);
  } else {
    prefill(engine_.model(), sequence_, tokens, RowsWanted::kLast, hidden_.data(),
            tokens.size() > 1 ? progress : silent, "reading the prompt");
  }
  engine_.model().logits(hidden_.data(), 1, logits_.data());
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
}

GenerateResult Session::generate(std::span<const int32_t> asked, const GenerateOptions& options,
                                 const std::function<void(std::string_view)>& on_text,
                                 const ProgressFn& progress) {
  const int64_t context = engine_.max_context();
  if (asked.empty()) fail(ErrorCode::kInvalidArgument, "the prompt is empty");
  GenerateResult result;
  result.prompt_tokens = static_cast<int64_t>(asked.size());
  result.prefix_tokens = spec_.prefix_tokens();
  std::vector<int32_t> prompt;  // as the cache is to hold it
  if (spec_.prefix) {
    const bool matched = spec_.taken_off(asked) > 0;
    result.prefix_use = matched ? PrefixUse::kMatched : PrefixUse::kPrepended;
    if (!matched) prompt = spec_.prefix->tokens;
  }
  prompt.insert(prompt.end(), asked.begin(), asked.end());
  if (static_cast<int64_t>(prompt.size()) >= context) {
    const bool prepended = result.prefix_use == PrefixUse::kPrepended;
    fail(ErrorCode::kInvalidArgument,
         "the prompt is {} tokens long{} and the context holds {}: shorten it, or raise --ctx "
         "(this model: up to {})",
         prompt.size(), prepended ? " with the prefix before it" : "", context,
         engine_.file().config().max_context);
  }
  Sampler sampler(options.sampling);
  StopStrings stops(options.stop);
  StreamDecoder decoder(engine_.tokenizer());
  auto show = [&](std::string text) {
    if (text.empty()) return;
    result.text += text;
    if (on_text) on_text(text);
  };
  auto cancelled = [&] { return options.cancel && options.cancel->load(); };

  try {
    const auto prefill_start = Clock::now();
    const int64_t held = reuse(prompt);
    result.reused_tokens = held - spec_.prefix_tokens();
    feed(std::span(prompt).subspan(static_cast<size_t>(held)), progress);
    // The next turn comes back here if its template writes the answer differently than the model.
    sequence_.save_point();
    sequence_.drop_save_points(kSavePointsKept);
    result.prefill_seconds = seconds_since(prefill_start);

    const auto decode_start = Clock::now();
    for (;;) {
      if (cancelled()) {
        result.reason = StopReason::kCancelled;
        break;
      }
      const int32_t token = sampler.sample(logits_);
      if (engine_.tokenizer().is_end_of_generation(token)) {
        result.reason = StopReason::kEndOfAnswer;
        break;
      }
      result.tokens.push_back(token);
      show(stops.push(decoder.push(token)));
      if (stops.stopped()) {
        result.reason = StopReason::kStopString;
        break;
      }
      if (options.max_tokens > 0 &&
          static_cast<int64_t>(result.tokens.size()) >= options.max_tokens) {
        result.reason = StopReason::kTokenLimit;
        break;
      }
      if (length() + 1 >= context) {
        result.reason = StopReason::kContextFull;
        break;
      }
      feed({&token, 1}, {});
      ++result.decoded_tokens;
    }
    result.decode_seconds = seconds_since(decode_start);
    if (!stops.stopped()) {
      show(stops.push(decoder.finish()));
      show(stops.finish());
    }
    return result;
  } catch (...) {
    // A failed step leaves layers at different lengths; start over rather than guess.
    start_over();
    throw;
  }
}

}  // namespace lowkey
