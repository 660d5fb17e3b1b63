#pragma once
// What a recipe costs on a text: perplexity, divergence from 16-bit, memory and speed. Both arms
// use the same weights, activations and kernels, so what differs is the cache alone. `prefill:
// cached` semantics unless a recipe says otherwise.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cache/intact_prefix.h"
#include "core/progress.h"
#include "core/threads.h"
#include "eval/metrics.h"
#include "model/model.h"
#include "recipe/recipe.h"

namespace lowkey {

struct EvaluateOptions {
  int64_t ctx = 1024;  // tokens of a window: a sequence of its own
  // Between window starts; 0: ctx. Only a window's last `stride` tokens are scored.
  int64_t stride = 0;
  int64_t max_windows = 0;  // 0: all that fit
  // Put in place of every window's first tokens, as context only: the model's beginning-of-text
  // token (what llama.cpp and the IntactKV paper do), or a system prompt. Empty: the text as it is.
  std::vector<int32_t> begin_with = {};
  // What the last of these tokens predicts is not scored either: there the text begins in the
  // middle. The IntactKV paper leaves it out.
  bool skip_first = false;
  int64_t decode_tokens = 64;  // steps timed per recipe at depth ctx; 0: none
};

// Window `w` as the model gets it.
std::vector<int32_t> window_tokens(std::span<const int32_t> text, const EvaluateOptions& options,
                                   int64_t w);

struct EvaluatedRecipe {
  std::string label;
  Summary summary;
  double code_bits = 0;
  double stored_bits = 0;          // at ctx tokens, as allocated
  double bytes_per_token = 0;      // at ctx tokens, as allocated
  double tokens_per_second = 0;    // decoding at depth ctx; 0: not measured
  std::vector<double> window_nll;  // summed over a window's scored tokens, nats
};

struct Evaluation {
  EvaluatedRecipe reference;  // 16-bit, the others' yardstick
  std::vector<EvaluatedRecipe> recipes;
  int64_t windows = 0;
  int64_t scored_tokens = 0;
};

// Windows start at 0, stride, 2 stride, ...; all are ctx tokens long. The first token of the text
// is never scored, and every recipe is scored on the same tokens. Throws Error kInvalidArgument
// when the text is shorter than one window, or the options make no sense.
Evaluation evaluate(Model& model, std::span<const int32_t> tokens,
                    const std::vector<CacheSpec>& recipes, const EvaluateOptions& options,
                    ThreadPool& pool, const ProgressFn& progress);

}  // namespace lowkey
