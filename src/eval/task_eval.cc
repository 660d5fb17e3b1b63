#include "eval/task_eval.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "cache/kv_cache.h"
#include "core/error.h"
#include "engine/prefix_file.h"
#include "engine/sampler.h"
#include "engine/stop_strings.h"

namespace lowkey {
namespace {

using Clock = std::chrono::steady_clock;

int64_t common_tokens(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

std::vector<int32_t> encode(const Engine& engine, const Task& task, PromptForm form,
                            const TaskExample& asked) {
  if (form == PromptForm::kChat) return engine.encode_chat(task_turns(task.shots, asked));
  return engine.tokenizer().encode(task_text(task.shots, asked), SpecialTokens::kIgnore, true);
}

// One answer in the making.
class Answering {
 public:
  Answering(KvSequence sequence, const Tokenizer& tokenizer, const TaskOptions& options,
            int64_t room, TaskAnswer& answer)
      : sequence_(std::move(sequence)),
        tokenizer_(tokenizer),
        decoder_(tokenizer),
        stops_(options.stop),
        max_tokens_(options.max_tokens),
        room_(room),
        answer_(&answer) {}

  // Takes the next token; false once the answer is complete.
  bool take(int32_t token) {
    if (tokenizer_.is_end_of_generation(token)) return end(StopReason::kEndOfAnswer);
    token_ = token;
    answer_->tokens.push_back(token);
    answer_->text += stops_.push(decoder_.push(token));
    if (stops_.stopped()) {
      answer_->reason = StopReason::kStopString;
      return false;
    }
    const auto count = static_cast<int64_t>(answer_->tokens.size());
    if (count == max_tokens_) return end(StopReason::kTokenLimit);
    if (count == room_) return end(StopReason::kContextFull);
    return true;
  }

  StepItem item() { return {&sequence_, {&token_, 1}, RowsWanted::kLast}; }
  int64_t length() const { return sequence_.length(); }
  const TaskAnswer& answer() const { return *answer_; }

 private:
  bool end(StopReason reason) {
    answer_->reason = reason;
    answer_->text += stops_.push(decoder_.finish());
    answer_->text += stops_.finish();
    return false;
  }

  KvSequence sequence_;
  const Tokenizer& tokenizer_;
  StreamDecoder decoder_;
  StopStrings stops_;
  int64_t max_tokens_;
  int64_t room_;  // tokens that the context has left for an answer
  TaskAnswer* answer_;
  int32_t token_ = 0;  // the newest: not in the cache yet
};

class TaskRunner {
 public:
  TaskRunner(Model& model, const Tokenizer& tokenizer, const TaskPrompts& prompts,
             const CacheSpec& spec, const TaskOptions& options, const ProgressFn& progress)
      : model_(model),
        tokenizer_(tokenizer),
        prompts_(prompts),
        options_(options),
        progress_(progress),
        what_("answering with " + spec.recipe.label),
        spec_(spec),
        cache_(spec),
        hidden_(static_cast<size_t>(options.batch * model.config().hidden_size)),
        logits_(static_cast<size_t>(options.batch * model.config().vocab_size)) {}

  TaskResult run() {
    result_.answers.resize(prompts_.prompts.size());
    share_beginning();
    for (size_t next = 0; next < prompts_.prompts.size() || !open_.empty();) {
      while (next < prompts_.prompts.size() && std::ssize(open_) < options_.batch) start(next++);
      if (!open_.empty()) step();
    }
    account();
    return std::move(result_);
  }

 private:
  // The shots' keys and values: each question goes on from a fork, even the only one, so that how
  // many are asked changes no bit. Where a prompt attends to itself unquantized it must be one
  // step, and there is nothing to share.
  void share_beginning() {
    if (prompts_.shared_tokens == 0) return;
    if (cache_.recipe().prefill == PrefillMode::kExact) return;
    const auto shared = static_cast<size_t>(prompts_.shared_tokens);
    const auto beginning = std::span(prompts_.prompts[0].tokens).first(shared);
    beginning_.emplace(cache_.new_sequence());
    prefill(model_, *beginning_, beginning.subspan(spec_.taken_off(beginning)), RowsWanted::kNone,
            nullptr, {}, "");
  }

  // A sequence that holds the first tokens of a prompt, and how many. A prompt of which the shots
  // are only a part of the prefix does not follow them in the cache.
  std::pair<KvSequence, size_t> begun(std::span<const int32_t> prompt) {
    const auto shared = static_cast<size_t>(prompts_.shared_tokens);
    const size_t taken_off = spec_.taken_off(prompt);
    if (beginning_ && taken_off <= shared) return {beginning_->fork(), shared};
    return {cache_.new_sequence(), taken_off};
  }

  void start(size_t index) {
    const TaskPrompt& prompt = prompts_.prompts[index];
    TaskAnswer& answer = result_.answers[index];
    answer.line = prompt.line;
    auto [sequence, held] = begun(prompt.tokens);
    const auto rest = std::span(prompt.tokens).subspan(held);
    if (rest.empty()) {
      const std::vector<float>& last = hidden_after_prefix(spec_);
      std::copy(last.begin(), last.end(), hidden_.begin());
    } else {
      prefill(model_, sequence, rest, RowsWanted::kLast, hidden_.data(), {}, "");
    }
    model_.logits(hidden_.data(), 1, logits_.data());
    const int64_t room = model_.config().max_context - sequence.length();
    Answering answering(std::move(sequence), tokenizer_, options_, room, answer);
    if (answering.take(argmax(row(0)))) {
      open_.push_back(std::move(answering));
    } else {
      close(answering);
    }
  }

  // One token more for every open answer.
  void step() {
    const auto begin = Clock::now();
    std::vector<StepItem> items;
    for (Answering& answering : open_) items.push_back(answering.item());
    model_.forward(items, hidden_.data());
    model_.logits(hidden_.data(), std::ssize(items), logits_.data());
    result_.decode_seconds += std::chrono::duration<double>(Clock::now() - begin).count();
    std::vector<Answering> going_on;
    for (size_t i = 0; i < open_.size(); ++i) {
      if (open_[i].take(argmax(row(i)))) {
        going_on.push_back(std::move(open_[i]));
      } else {
        close(open_[i]);
      }
    }
    open_ = std::move(going_on);
    // Done is what will not be computed any more: an answer that ends early counts whole.
    int64_t done = closed_ * options_.max_tokens;
    for (const Answering& answering : open_) done += std::ssize(answering.answer().tokens);
    report(progress_, what_, done, std::ssize(prompts_.prompts) * options_.max_tokens);
  }

  void close(const Answering& answering) {
    ++closed_;
    cached_tokens_ += answering.length();
  }

  std::span<const float> row(size_t index) const {
    const auto vocab = static_cast<size_t>(model_.config().vocab_size);
    return std::span(logits_).subspan(index * vocab, vocab);
  }

  void account() {
    int64_t tokens = 0;
    for (size_t i = 0; i < result_.answers.size(); ++i) {
      TaskAnswer& answer = result_.answers[i];
      answer.judgement = judge(answer.text, prompts_.prompts[i].answer);
      result_.correct += answer.judgement.flexible ? 1 : 0;
      result_.correct_strict += answer.judgement.strict ? 1 : 0;
      tokens += std::ssize(answer.tokens);
    }
    const auto count = std::ssize(result_.answers);
    result_.interval = wilson_95(result_.correct, count);
    result_.answer_tokens = static_cast<double>(tokens) / static_cast<double>(count);
    result_.cached_tokens = static_cast<double>(cached_tokens_) / static_cast<double>(count);
  }

  Model& model_;
  const Tokenizer& tokenizer_;
  const TaskPrompts& prompts_;
  const TaskOptions& options_;
  const ProgressFn& progress_;
  const std::string what_;
  const CacheSpec spec_;
  TaskResult result_;
  KvCache cache_;  // before its sequences: they die first
  std::optional<KvSequence> beginning_;
  std::vector<Answering> open_;
  int64_t closed_ = 0;
  int64_t cached_tokens_ = 0;
  std::vector<float> hidden_, logits_;  // [batch, hidden_size], [batch, vocab_size]
};

}  // namespace

TaskPrompts task_prompts(const Engine& engine, const Task& task, PromptForm form, int64_t limit) {
  TaskPrompts all;
  all.name = task.name;
  for (const TaskExample& example : task.asked) {
    if (limit > 0 && std::ssize(all.prompts) == limit) break;
    all.prompts.push_back({encode(engine, task, form, example),
                           std::string(final_answer(example.worked)), example.line});
  }
  if (task.shots.empty() || all.prompts.empty()) return all;
  // Questions that begin differently say where the shots end: what is shared does not depend on
  // how many questions are asked.
  TaskExample probe;
  probe.messages = {{"user", "A"}};
  const std::vector<int32_t> letter = encode(engine, task, form, probe);
  probe.messages = {{"user", "7"}};
  all.shared_tokens = common_tokens(letter, encode(engine, task, form, probe));
  for (const TaskPrompt& prompt : all.prompts) {
    all.shared_tokens = std::min({all.shared_tokens, common_tokens(letter, prompt.tokens),
                                  static_cast<int64_t>(prompt.tokens.size()) - 1});
  }
  return all;
}

TaskResult answer_task(Model& model, const Tokenizer& tokenizer, const TaskPrompts& prompts,
                       const CacheSpec& spec, const TaskOptions& options,
                       const ProgressFn& progress) {
  if (prompts.prompts.empty()) fail(ErrorCode::kInvalidArgument, "no questions to ask");
  if (options.max_tokens < 1) {
    fail(ErrorCode::kInvalidArgument, "max_tokens {}: at least 1", options.max_tokens);
  }
  if (options.batch < 1 || options.batch > kNativeFloatRows) {
    fail(ErrorCode::kInvalidArgument, "batch {}: 1 to {}", options.batch, kNativeFloatRows);
  }
  const auto beginning = std::span(prompts.prompts[0].tokens);
  for (const TaskPrompt& prompt : prompts.prompts) {
    const auto count = static_cast<int64_t>(prompt.tokens.size());
    const auto taken_off = static_cast<int64_t>(spec.taken_off(prompt.tokens));
    const int64_t length = count - taken_off + spec.prefix_tokens();
    if (count == 0 || length >= model.config().max_context) {
      fail(ErrorCode::kInvalidArgument,
           "{}:{}: its prompt is {} tokens long; it must be shorter than the model's context, {}",
           prompts.name, prompt.line, length, model.config().max_context);
    }
    LOWKEY_CHECK(prompts.shared_tokens < count &&
                     common_tokens(beginning, prompt.tokens) >= prompts.shared_tokens,
                 "{}:{} does not begin with the {} shared tokens", prompts.name, prompt.line,
                 prompts.shared_tokens);
  }
  return TaskRunner(model, tokenizer, prompts, spec, options, progress).run();
}

int64_t answers_changed(const TaskResult& a, const TaskResult& b) {
  LOWKEY_CHECK(a.answers.size() == b.answers.size(), "{} and {}", a.answers.size(),
               b.answers.size());
  int64_t changed = 0;
  for (size_t i = 0; i < a.answers.size(); ++i) {
    changed += a.answers[i].judgement.given == b.answers[i].judgement.given ? 0 : 1;
  }
  return changed;
}

}  // namespace lowkey
