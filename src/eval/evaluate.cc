#include "eval/evaluate.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "cache/kv_cache.h"
#include "core/error.h"
#include "engine/engine.h"
#include "eval/scorer.h"
#include "model/kv_shape.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

struct Arm {
  ResolvedRecipe recipe;
  EvaluatedRecipe result;
  std::vector<PositionScore> scores;
};

class Evaluator {
 public:
  Evaluator(Model& model, std::span<const int32_t> tokens,
            const std::vector<ResolvedRecipe>& recipes, const EvaluateOptions& options,
            ThreadPool& pool, const ProgressFn& progress)
      : model_(model), tokens_(tokens), options_(options), pool_(pool), progress_(progress) {
    add_arm(resolve_recipe(parse_recipe("16"), kv_shape(model_.config())));
    for (const ResolvedRecipe& recipe : recipes) add_arm(recipe);
  }

  Evaluation run(int64_t num_windows) {
    total_ = num_windows * static_cast<int64_t>(arms_.size()) * options_.ctx;
    for (int64_t w = 0; w < num_windows; ++w) window(w);
    if (options_.decode_tokens > 0) measure_speed();
    Evaluation evaluation;
    evaluation.windows = num_windows;
    for (Arm& arm : arms_) {
      arm.result.summary = summarize(arm.scores);
      evaluation.scored_tokens = arm.result.summary.positions;
    }
    evaluation.reference = std::move(arms_[0].result);
    for (size_t i = 1; i < arms_.size(); ++i) {
      evaluation.recipes.push_back(std::move(arms_[i].result));
    }
    return evaluation;
  }

 private:
  void add_arm(const ResolvedRecipe& recipe) {
    Arm arm;
    arm.recipe = recipe;
    arm.result.label = recipe.label;
    arm.result.code_bits = code_bits(recipe);
    // As allocated: the scorer checks the cache against this arithmetic.
    arm.result.bytes_per_token = static_cast<double>(bytes_at(recipe, options_.ctx).total()) /
                                 static_cast<double>(options_.ctx);
    arm.result.stored_bits = stored_bits(recipe, options_.ctx);
    arms_.push_back(std::move(arm));
  }

  // Models that expect a beginning-of-text token (an attention sink) get it in every window, in
  // place of the first token, which is context only: what llama.cpp and the IntactKV paper do.
  std::vector<int32_t> window_tokens(int64_t w) const {
    const auto begin = tokens_.begin() + w * options_.stride;
    std::vector<int32_t> text(begin, begin + options_.ctx);
    if (options_.bos >= 0) text[0] = options_.bos;
    return text;
  }

  void window(int64_t w) {
    const int64_t first_target = w == 0 ? 1 : std::max<int64_t>(1, options_.ctx - options_.stride);
    const auto progress_of = [&](const Arm& arm) {
      return [&](std::string_view, int64_t done, int64_t) {
        report(progress_, "measuring " + arm.result.label, done_ + done, total_);
      };
    };
    Scorer scorer(model_, {{"the window", window_tokens(w), {{first_target, options_.ctx}}}}, pool_,
                  {.keep_residuals = false}, progress_of(arms_[0]));
    add_scores(arms_[0], scorer.reference());
    for (size_t a = 1; a < arms_.size(); ++a) {
      add_scores(arms_[a], scorer.score(arms_[a].recipe, progress_of(arms_[a])));
    }
  }

  void add_scores(Arm& arm, const std::vector<PositionScore>& scores) {
    double nll = 0;
    for (const PositionScore& score : scores) nll += score.nll;
    arm.result.window_nll.push_back(nll);
    arm.scores.insert(arm.scores.end(), scores.begin(), scores.end());
    done_ += options_.ctx;
  }

  // Decodes the text's own tokens after a window, recipes taking turns step by step, so that a
  // machine that slows down slows all of them.
  void measure_speed() {
    const std::vector<int32_t> text = window_tokens(0);
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<KvSequence> sequences;
    for (size_t a = 0; a < arms_.size(); ++a) {
      report(progress_, "measuring speed", static_cast<int64_t>(a),
             static_cast<int64_t>(arms_.size()));
      caches.push_back(std::make_unique<KvCache>(arms_[a].recipe));
      sequences.push_back(caches.back()->new_sequence());
      prefill(model_, sequences.back(), text, RowsWanted::kNone, nullptr, {}, "");
    }
    std::vector<float> hidden(static_cast<size_t>(model_.config().hidden_size));
    std::vector<float> logits(static_cast<size_t>(model_.config().vocab_size));
    std::vector<double> seconds(arms_.size(), 0.0);
    for (int64_t step = -1; step < options_.decode_tokens; ++step) {
      const int32_t token = text[static_cast<size_t>((step + 1) % options_.ctx)];
      for (size_t a = 0; a < arms_.size(); ++a) {
        const auto start = std::chrono::steady_clock::now();
        const StepItem item{&sequences[a], {&token, 1}, RowsWanted::kLast};
        model_.forward({&item, 1}, hidden.data());
        model_.logits(hidden.data(), 1, logits.data());
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        if (step >= 0) seconds[a] += took.count();  // the first step warms up
      }
    }
    for (size_t a = 0; a < arms_.size(); ++a) {
      arms_[a].result.tokens_per_second = static_cast<double>(options_.decode_tokens) / seconds[a];
    }
  }

  Model& model_;
  std::span<const int32_t> tokens_;
  const EvaluateOptions options_;
  ThreadPool& pool_;
  const ProgressFn& progress_;
  std::vector<Arm> arms_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

}  // namespace

Evaluation evaluate(Model& model, std::span<const int32_t> tokens,
                    const std::vector<ResolvedRecipe>& recipes, const EvaluateOptions& options,
                    ThreadPool& pool, const ProgressFn& progress) {
  EvaluateOptions checked = options;
  if (checked.stride == 0) checked.stride = checked.ctx;
  if (checked.ctx < 2 || checked.ctx > model.config().max_context) {
    fail(ErrorCode::kInvalidArgument, "ctx {}: must be between 2 and the model's {}", checked.ctx,
         model.config().max_context);
  }
  if (checked.stride < 1 || checked.stride > checked.ctx) {
    fail(ErrorCode::kInvalidArgument, "stride {}: must be between 1 and ctx, {}", checked.stride,
         checked.ctx);
  }
  if (checked.ctx + 1 + checked.decode_tokens > model.config().max_context) {
    checked.decode_tokens = std::max<int64_t>(0, model.config().max_context - checked.ctx - 1);
  }
  const auto count = static_cast<int64_t>(tokens.size());
  if (count < checked.ctx) {
    fail(ErrorCode::kInvalidArgument,
         "the text is {} tokens long, shorter than one window of {}: use a longer text or a "
         "smaller --ctx",
         count, checked.ctx);
  }
  int64_t windows = (count - checked.ctx) / checked.stride + 1;
  if (checked.max_windows > 0) windows = std::min(windows, checked.max_windows);
  return Evaluator(model, tokens, recipes, checked, pool, progress).run(windows);
}

}  // namespace lowkey
