#include "eval/multiple_choice.h"

#include <algorithm>
#include <optional>

#include "cache/kv_cache.h"
#include "core/error.h"
#include "eval/metrics.h"

namespace lowkey {
namespace {

constexpr std::string_view kBlanks = " \t\n\v\f\r";
constexpr int64_t kLogitRows = 128;  // logits of this many positions at a time

int64_t common_tokens(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// A beginning-of-text token where the file asks for one; never an end: choices go on.
std::vector<int32_t> encode(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> tokens = tokenizer.encode(text, SpecialTokens::kIgnore, false);
  const TokenizerSpec& spec = tokenizer.spec();
  if (spec.add_bos) tokens.insert(tokens.begin(), spec.bos);
  return tokens;
}

// How many tokens texts share that begin with `beginning`, whatever follows.
int64_t tokens_of_beginning(const Tokenizer& tokenizer, const std::string& beginning) {
  if (beginning.empty()) return 0;
  return common_tokens(encode(tokenizer, beginning + "A"), encode(tokenizer, beginning + "7"));
}

// The tokens before the first that choices do not share and after which something is scored: there
// the choices go separate ways.
int64_t parting(const ChoicePrompt& prompt) {
  int64_t at = prompt.prompt_tokens - 1;
  for (const std::vector<int32_t>& choice : prompt.tokens) {
    at = std::min(at, common_tokens(prompt.tokens[0], choice));
  }
  return at;
}

// Tokens that one step computes for one or several choices: all letters follow the same ones.
struct Branch {
  std::vector<int32_t> tokens;
  std::vector<size_t> choices;
  std::vector<float> hidden;  // [tokens, hidden_size]
};

class Chooser {
 public:
  Chooser(Model& model, ThreadPool& pool, const ChoicePrompts& prompts, const CacheSpec& spec,
          const ProgressFn& progress)
      : model_(model),
        pool_(pool),
        prompts_(prompts),
        spec_(spec),
        progress_(progress),
        cache_(spec) {}

  ChoiceResult run() {
    const std::string what = "choosing with " + spec_.recipe.label;
    const auto total = std::ssize(prompts_.prompts);
    int64_t prompt_tokens = 0;
    for (const ChoicePrompt& prompt : prompts_.prompts) {
      report(progress_, what, std::ssize(result_.answers), total);
      result_.answers.push_back(answer(prompt));
      prompt_tokens += prompt.prompt_tokens;
      result_.correct += result_.answers.back().right() ? 1 : 0;
      result_.correct_norm += result_.answers.back().right_norm() ? 1 : 0;
    }
    report(progress_, what, total, total);
    result_.interval = wilson_95(result_.correct, total);
    result_.interval_norm = wilson_95(result_.correct_norm, total);
    result_.cached_tokens = static_cast<double>(prompt_tokens) / static_cast<double>(total);
    return std::move(result_);
  }

 private:
  int64_t hidden_size() const { return model_.config().hidden_size; }
  int64_t vocab() const { return model_.config().vocab_size; }

  ChoiceAnswer answer(const ChoicePrompt& prompt) {
    // Where a prompt attends to itself unquantized it must be one step with its choice, and there
    // is nothing to share.
    const bool exact = cache_.recipe().prefill == PrefillMode::kExact;
    const auto begin = static_cast<int64_t>(spec_.taken_off(prompt.tokens[0]));
    const int64_t part = exact ? begin : parting(prompt);
    if (part < begin) {
      fail(ErrorCode::kInvalidArgument,
           "{}:{}: its prompt is the recipe's intact prefix and nothing else", prompts_.name,
           prompt.line);
    }
    std::vector<Branch> branches;
    for (size_t c = 0; c < prompt.tokens.size(); ++c) {
      const std::vector<int32_t> tokens(prompt.tokens[c].begin() + part,
                                        prompt.tokens[c].end() - 1);
      auto same = std::find_if(branches.begin(), branches.end(),
                               [&](const Branch& branch) { return branch.tokens == tokens; });
      if (same == branches.end()) same = branches.insert(same, {tokens, {}, {}});
      same->choices.push_back(c);
    }
    const KvSequence trunk = exact ? cache_.new_sequence() : after_prompt(prompt, begin, part);
    compute(trunk, branches);

    ChoiceAnswer answer;
    answer.line = prompt.line;
    answer.subject = prompt.subject;
    answer.gold = prompt.gold;
    answer.log_likelihood.resize(prompt.tokens.size());
    for (const Branch& branch : branches) {
      const int64_t first = prompt.prompt_tokens - 1 - part;  // row that predicts the first scored
      for (size_t c : branch.choices) {
        const auto targets =
            std::span(prompt.tokens[c]).subspan(static_cast<size_t>(prompt.prompt_tokens));
        answer.log_likelihood[c] = log_likelihood(branch, first, targets);
      }
    }
    pick(prompt, answer);
    return answer;
  }

  // A sequence that holds the prompt's tokens up to `part`. Shots are computed once for all
  // questions that follow each other with the same.
  KvSequence after_prompt(const ChoicePrompt& prompt, int64_t begin, int64_t part) {
    const auto tokens = std::span(prompt.tokens[0]);
    const auto feed = [&](KvSequence& sequence, int64_t first, int64_t last) {
      if (last <= first) return;
      prefill(model_, sequence,
              tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)),
              RowsWanted::kNone, nullptr, {}, "");
    };
    const int64_t shared = std::max(begin, prompt.beginning_tokens);
    if (!prompt.shares || !beginning_) {
      beginning_.emplace(cache_.new_sequence());
      feed(*beginning_, begin, shared);
    }
    KvSequence sequence = beginning_->fork();
    feed(sequence, shared, part);
    return sequence;
  }

  // The hidden states of all branches, several in a step, each on a fork of the trunk.
  void compute(const KvSequence& trunk, std::vector<Branch>& branches) {
    for (size_t next = 0; next < branches.size();) {
      std::vector<KvSequence> forks;
      std::vector<StepItem> items;
      const size_t first = next;
      int64_t rows = 0;
      do {
        forks.push_back(trunk.fork());
        rows += std::ssize(branches[next].tokens);
        ++next;
      } while (next < branches.size() && rows + std::ssize(branches[next].tokens) <= kPrefillChunk);
      for (size_t i = 0; i < forks.size(); ++i) {
        items.push_back({&forks[i], branches[first + i].tokens, RowsWanted::kAll});
      }
      std::vector<float> hidden(static_cast<size_t>(rows * hidden_size()));
      model_.forward(items, hidden.data());
      auto from = hidden.begin();
      for (size_t i = first; i < next; ++i) {
        const auto to = from + std::ssize(branches[i].tokens) * hidden_size();
        branches[i].hidden.assign(from, to);
        from = to;
      }
    }
  }

  // Of `targets` after the branch's row `first` and those after it.
  double log_likelihood(const Branch& branch, int64_t first, std::span<const int32_t> targets) {
    const auto count = static_cast<int64_t>(targets.size());
    std::vector<double> terms(targets.size());
    logits_.resize(static_cast<size_t>(kLogitRows * vocab()));
    for (int64_t done = 0; done < count; done += kLogitRows) {
      const int64_t rows = std::min(kLogitRows, count - done);
      model_.logits(branch.hidden.data() + (first + done) * hidden_size(), rows, logits_.data());
      pool_.run(rows, [&](int64_t i, int) {
        const auto row = std::span<const float>(logits_).subspan(static_cast<size_t>(i * vocab()),
                                                                 static_cast<size_t>(vocab()));
        const auto at = static_cast<size_t>(done + i);
        const float target = row[static_cast<size_t>(targets[at])];
        terms[at] = static_cast<double>(target) - log_sum_exp(row);
      });
    }
    double sum = 0;
    for (const double term : terms) sum += term;
    return sum;
  }

  static void pick(const ChoicePrompt& prompt, ChoiceAnswer& answer) {
    std::vector<double> per_byte;
    for (size_t c = 0; c < prompt.bytes.size(); ++c) {
      per_byte.push_back(answer.log_likelihood[c] / static_cast<double>(prompt.bytes[c]));
    }
    const auto largest = [](const std::vector<double>& values) {
      return static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
    };
    answer.picked = largest(answer.log_likelihood);
    answer.picked_norm = largest(per_byte);
  }

  Model& model_;
  ThreadPool& pool_;
  const ChoicePrompts& prompts_;
  const CacheSpec& spec_;
  const ProgressFn& progress_;
  ChoiceResult result_;
  KvCache cache_;  // before its sequences: they die first
  std::optional<KvSequence> beginning_;
  std::vector<float> logits_;
};

ChoicePrompt make_prompt(const Tokenizer& tokenizer, const ChoiceQuestion& question,
                         ChoiceStyle style, const std::string& beginning) {
  const ChoiceExample& asked = question.asked;
  ChoicePrompt prompt;
  prompt.gold = asked.gold;
  prompt.subject = asked.subject;
  prompt.line = asked.line;
  std::string context = beginning + choice_prompt(asked, style);
  // Blanks at its end are the continuation's: they are one token with what follows.
  const size_t end = context.find_last_not_of(kBlanks) + 1;
  const std::string blanks = context.substr(end);
  context.resize(end);
  prompt.prompt_tokens = std::ssize(encode(tokenizer, context));
  for (size_t c = 0; c < asked.choices.size(); ++c) {
    const std::string continuation = choice_continuation(asked, style, c);
    prompt.tokens.push_back(encode(tokenizer, context + blanks + continuation));
    prompt.bytes.push_back(std::ssize(continuation) - 1);  // without the blank before it
    prompt.prompt_tokens = std::min(prompt.prompt_tokens, std::ssize(prompt.tokens.back()) - 1);
  }
  return prompt;
}

}  // namespace

ChoicePrompts choice_prompts(const Tokenizer& tokenizer, const ChoiceTask& task, int64_t limit) {
  ChoicePrompts all{task.name, task.style, {}};
  std::string last;
  size_t group = 0;  // the first prompt with this beginning
  for (const ChoiceQuestion& question : task.questions) {
    if (limit > 0 && std::ssize(all.prompts) == limit) break;
    const std::string beginning = choice_beginning(question, task.style);
    ChoicePrompt prompt = make_prompt(tokenizer, question, task.style, beginning);
    prompt.shares = !all.prompts.empty() && beginning == last;
    if (!prompt.shares) group = all.prompts.size();
    const int64_t most = prompt.shares ? all.prompts[group].beginning_tokens
                                       : tokens_of_beginning(tokenizer, beginning);
    const int64_t fits = std::min(
        parting(prompt),
        prompt.shares ? common_tokens(all.prompts[group].tokens[0], prompt.tokens[0]) : most);
    all.prompts.push_back(std::move(prompt));
    for (size_t i = group; i < all.prompts.size(); ++i) {
      all.prompts[i].beginning_tokens = std::min(most, fits);
    }
    last = beginning;
  }
  return all;
}

void begin_with(ChoicePrompts& prompts, std::span<const int32_t> tokens) {
  if (tokens.empty()) return;
  for (ChoicePrompt& prompt : prompts.prompts) {
    const int64_t held = prompt.tokens[0].front() == tokens.front() ? 1 : 0;
    const auto missing = tokens.subspan(static_cast<size_t>(held));
    for (std::vector<int32_t>& choice : prompt.tokens) {
      choice.insert(choice.begin() + held, missing.begin(), missing.end());
    }
    prompt.prompt_tokens += std::ssize(missing);
    prompt.beginning_tokens += std::ssize(missing);
  }
}

ChoiceResult choose(Model& model, ThreadPool& pool, const ChoicePrompts& prompts,
                    const CacheSpec& spec, const ProgressFn& progress) {
  if (prompts.prompts.empty()) fail(ErrorCode::kInvalidArgument, "no questions to ask");
  for (const ChoicePrompt& prompt : prompts.prompts) {
    LOWKEY_CHECK(prompt.prompt_tokens >= 1, "{}:{}: an empty prompt", prompts.name, prompt.line);
    for (const std::vector<int32_t>& choice : prompt.tokens) {
      // The last token is scored and nothing after it.
      const int64_t length = std::ssize(choice) - 1 + spec.prefix_tokens() -
                             static_cast<int64_t>(spec.taken_off(choice));
      if (length > model.config().max_context) {
        fail(ErrorCode::kInvalidArgument,
             "{}:{}: {} tokens with its longest choice; the model's context is {}", prompts.name,
             prompt.line, length, model.config().max_context);
      }
    }
  }
  return Chooser(model, pool, prompts, spec, progress).run();
}

ChoiceChanges choice_changes(const ChoiceResult& a, const ChoiceResult& b, bool norm) {
  LOWKEY_CHECK(a.answers.size() == b.answers.size(), "{} and {}", a.answers.size(),
               b.answers.size());
  ChoiceChanges changes;
  for (size_t i = 0; i < a.answers.size(); ++i) {
    const int32_t gold = a.answers[i].gold;
    const int32_t before = norm ? a.answers[i].picked_norm : a.answers[i].picked;
    const int32_t after = norm ? b.answers[i].picked_norm : b.answers[i].picked;
    changes.changed += before == after ? 0 : 1;
    changes.lost += before == gold && after != gold ? 1 : 0;
    changes.gained += before != gold && after == gold ? 1 : 0;
  }
  changes.p_value = mcnemar_exact(changes.lost, changes.gained);
  return changes;
}

}  // namespace lowkey
