#pragma once
// How many of a task's questions a model answers right over a cache of some recipe: greedy decoding
// of several questions at once, then exact match (eval/answers.h).
//
// Deterministic. Prompts are computed one at a time; decode steps have at most kNativeFloatRows
// rows, whose kernels give each row the bits it would have alone (linear/matmul.h). So an answer
// depends neither on the questions decoded beside it nor on the number of threads.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/progress.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "eval/answers.h"
#include "eval/task_file.h"
#include "model/model.h"
#include "recipe/recipe.h"

namespace lowkey {

enum class PromptForm : uint8_t { kText, kChat };  // task_text, task_turns

struct TaskPrompt {
  std::vector<int32_t> tokens;
  std::string answer;  // what counts of it: final_answer
  int64_t line = 0;    // of the task file
};

struct TaskPrompts {
  std::string name;  // of the task's file
  std::vector<TaskPrompt> prompts;
  // So many tokens at the beginning are the same in all: the shots. Computed once per recipe.
  int64_t shared_tokens = 0;
};

// The first `limit` questions (0: all) as tokens. What a file says never becomes a control token.
// Throws Error kUnsupported for kChat where the model has no chat template; kInvalidArgument if
// the template refuses a conversation.
TaskPrompts task_prompts(const Engine& engine, const Task& task, PromptForm form,
                         int64_t limit = 0);

struct TaskOptions {
  int64_t max_tokens = 256;                       // of an answer, as lm-evaluation-harness
  std::vector<std::string> stop = {"Question:"};  // as for its GSM8K
  int64_t batch = kNativeFloatRows;  // questions decoded at once, 1..kNativeFloatRows; for speed
};

struct TaskAnswer {
  int64_t line = 0;
  std::vector<int32_t> tokens;  // without the one that ended it
  std::string text;
  Judgement judgement;
  StopReason reason = StopReason::kEndOfAnswer;
};

struct TaskResult {
  std::vector<TaskAnswer> answers;  // in the prompts' order
  int64_t correct = 0;              // flexible
  int64_t correct_strict = 0;
  Interval interval;          // of correct / answers
  double answer_tokens = 0;   // mean
  double cached_tokens = 0;   // mean over questions of what the cache holds at the end
  double decode_seconds = 0;  // of all steps together; the only figure that changes from run to run

  double accuracy() const {
    return static_cast<double>(correct) / static_cast<double>(answers.size());
  }
};

// Prompts that begin with the spec's prefix have it taken off, before others it is put.
// Throws Error kInvalidArgument naming the line of a prompt that does not fit the model's context,
// for no prompts, and for options that make no sense.
TaskResult answer_task(Model& model, const Tokenizer& tokenizer, const TaskPrompts& prompts,
                       const CacheSpec& spec, const TaskOptions& options,
                       const ProgressFn& progress);

// Questions that two recipes answer differently, right or wrong (Judgement::given).
int64_t answers_changed(const TaskResult& a, const TaskResult& b);

}  // namespace lowkey
