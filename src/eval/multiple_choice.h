#pragma once
// How often a model finds the right one of several choices the likeliest, over a cache of some
// recipe: the multiple-choice tasks of EleutherAI's lm-evaluation-harness (MMLU, ARC, HellaSwag).
//
// As there: a choice's score is the sum of its tokens' log-probabilities after the prompt, both
// encoded as one text and parted after the tokens that the prompt alone has; acc picks the highest,
// acc_norm the highest per byte of the choice's text; of equals the first.
//
// A prompt's keys and values are computed once and forked for each choice; shots, once for all
// questions that have the same. Deterministic, whatever the number of threads.
#include <cstdint>
#include <string>
#include <vector>

#include "cache/intact_prefix.h"
#include "core/progress.h"
#include "engine/engine.h"
#include "eval/answers.h"
#include "eval/choice_file.h"

namespace lowkey {

struct ChoicePrompt {
  std::vector<std::vector<int32_t>> tokens;  // per choice: prompt and continuation
  int64_t prompt_tokens = 0;                 // scored is what comes after them
  int64_t beginning_tokens = 0;  // the shots' among them; the same as the last prompt's if `shares`
  bool shares = false;
  std::vector<int64_t> bytes;  // per choice: of its text
  int32_t gold = 0;
  std::string subject;
  int64_t line = 0;
};

struct ChoicePrompts {
  std::string name;
  ChoiceStyle style = ChoiceStyle::kText;
  std::vector<ChoicePrompt> prompts;
};

// The first `limit` questions (0: all) as tokens, after a beginning-of-text token where the model's
// file asks for one. What a file says never becomes a control token.
ChoicePrompts choice_prompts(const Tokenizer& tokenizer, const ChoiceTask& task, int64_t limit = 0);
// Puts these before every prompt: what an intact prefix would add, so that recipes with and without
// it are asked the same. A beginning-of-text token that prompts have already is not put twice.
void begin_with(ChoicePrompts& prompts, std::span<const int32_t> tokens);

struct ChoiceAnswer {
  int64_t line = 0;
  std::string subject;
  int32_t gold = 0;
  int32_t picked = 0;                  // acc's
  int32_t picked_norm = 0;             // acc_norm's
  std::vector<double> log_likelihood;  // per choice, nats

  bool right() const { return picked == gold; }
  bool right_norm() const { return picked_norm == gold; }
};

struct ChoiceResult {
  std::vector<ChoiceAnswer> answers;  // in the prompts' order
  int64_t correct = 0, correct_norm = 0;
  Interval interval, interval_norm;  // Wilson's, of the shares
  double cached_tokens = 0;          // mean over questions: of the prompt

  double accuracy() const { return share(correct); }
  double accuracy_norm() const { return share(correct_norm); }

 private:
  double share(int64_t count) const {
    return static_cast<double>(count) / static_cast<double>(answers.size());
  }
};

// Throws Error kInvalidArgument naming the line of a question that does not fit the model's
// context, and for no questions; as Model::forward.
ChoiceResult choose(Model& model, ThreadPool& pool, const ChoicePrompts& prompts,
                    const CacheSpec& spec, const ProgressFn& progress);

// Two runs over the same questions, by the choice that `norm` says counts.
struct ChoiceChanges {
  int64_t changed = 0;  // another choice, right or wrong
  int64_t lost = 0;     // right in a, wrong in b
  int64_t gained = 0;
  // McNemar's exact test: how likely a split at least as uneven as lost/gained is if neither run
  // is better.
  double p_value = 1;
};
ChoiceChanges choice_changes(const ChoiceResult& a, const ChoiceResult& b, bool norm);

}  // namespace lowkey
