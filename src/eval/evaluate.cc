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
  CacheSpec spec;
  EvaluatedRecipe result;
  std::vector<PositionScore> scores;
};

class Evaluator {
 public:
  Evaluator(Model& model, std::span<const int32_t> tokens, const std::vector<CacheSpec>& recipes,
            const EvaluateOptions& options, ThreadPool& pool, const ProgressFn& progress)
      : model_(model), tokens_(tokens), options_(options), pool_(pool), progress_(progress) {
    add_arm(resolve_recipe(parse_recipe("16"), kv_shape(model_.config())));
    for (const CacheSpec& spec : recipes) add_arm(spec);
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
  void add_arm(const CacheSpec& spec) {
    const ResolvedRecipe& recipe = spec.recipe;
    Arm arm{spec, {}, {}};
    arm.result.label = recipe.label;
    arm.result.code_bits = code_bits(recipe);
    // As allocated: the scorer checks the cache against this arithmetic.
    arm.result.bytes_per_token = static_cast<double>(bytes_at(recipe, options_.ctx).total()) /
                                 static_cast<double>(options_.ctx);
    arm.result.stored_bits = stored_bits(recipe, options_.ctx);
    arms_.push_back(std::move(arm));
  }

  // The first token of a window that is scored: one that earlier windows have not scored, that the
  // text has and something comes before.
  int64_t first_target(int64_t w) const {
    const int64_t fresh = w == 0 ? 0 : options_.ctx - options_.stride;
    const auto context = std::max<int64_t>(1, std::ssize(options_.begin_with));
    return std::max(fresh, context + (options_.skip_first ? 1 : 0));
  }

  void window(int64_t w) {
    const auto progress_of = [&](const Arm& arm) {
      return [&](std::string_view, int64_t done, int64_t) {
        report(progress_, "measuring " + arm.result.label, done_ + done, total_);
      };
    };
    const Document document = {
        "the window", window_tokens(tokens_, options_, w), {{first_target(w), options_.ctx}}};
    Scorer scorer(model_, {document}, pool_, {.keep_residuals = false}, progress_of(arms_[0]));
    add_scores(arms_[0], scorer.reference());
    for (size_t a = 1; a < arms_.size(); ++a) {
      add_scores(arms_[a], scorer.score(arms_[a].spec, progress_of(arms_[a])));
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
    const std::vector<int32_t> text = window_tokens(tokens_, options_, 0);
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<KvSequence> sequences;
    for (size_t a = 0; a < arms_.size(); ++a) {
      report(progress_, "measuring speed", static_cast<int64_t>(a),
             static_cast<int64_t>(arms_.size()));
      caches.push_back(std::make_unique<KvCache>(arms_[a].spec));
      sequences.push_back(caches.back()->new_sequence());
      prefill(model_, sequences.back(), std::span(text).subspan(arms_[a].spec.taken_off(text)),
              RowsWanted::kNone, nullptr, {}, "");
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

std::vector<int32_t> window_tokens(std::span<const int32_t> text, const EvaluateOptions& options,
                                   int64_t w) {
  const auto begin = text.begin() + w * (options.stride == 0 ? options.ctx : options.stride);
  std::vector<int32_t> window(begin, begin + options.ctx);
  std::copy(options.begin_with.begin(), options.begin_with.end(), window.begin());
  return window;
}

Evaluation evaluate(Model& model, std::span<const int32_t> tokens,
                    const std::vector<CacheSpec>& recipes, const EvaluateOptions& options,
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
  const auto before = std::ssize(checked.begin_with) + (checked.skip_first ? 1 : 0);
  if (before >= checked.ctx) {
    fail(ErrorCode::kInvalidArgument,
         "ctx {}: windows that begin with {} token{} leave nothing to score", checked.ctx,
         checked.begin_with.size(), checked.begin_with.size() == 1 ? "" : "s");
  }
  for (const int32_t token : checked.begin_with) {
    if (token < 0 || token >= model.config().vocab_size) {
      fail(ErrorCode::kInvalidArgument, "token {} at the beginning of windows: the model has {}",
           token, model.config().vocab_size);
    }
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
