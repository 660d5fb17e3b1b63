#pragma once
// How far a recipe's predictions are from the 16-bit cache's, on documents: the inner loop of eval
// and tune. The 16-bit run is made once and kept; so a trial costs one pass through the model, and
// one that leaves the first layers in 16 bits starts behind them.
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/intact_prefix.h"
#include "core/progress.h"
#include "core/threads.h"
#include "eval/document.h"
#include "eval/metrics.h"
#include "model/model.h"
#include "recipe/recipe.h"

namespace lowkey {

struct ScorerOptions {
  // What may be kept of the 16-bit run: first the residual stream before every layer, then logits
  // of as many positions as fit. The rest is computed again when needed, with the same bits.
  int64_t keep_bytes = int64_t{3} << 30;
  bool keep_residuals = true;
};

// One document of the calibration or held-out set cut out of a longer text: whole windows of ctx
// tokens, every token but the first scored.
std::vector<Document> window_documents(std::span<const int32_t> tokens, int64_t ctx,
                                       int64_t max_windows, std::string_view name);

class Scorer {
 public:
  // Runs the documents in 16 bits. Throws Error kInvalidArgument for a document that is empty,
  // longer than the model's context or scored outside itself; as Model::forward. Model and pool
  // must outlive the scorer.
  Scorer(Model& model, std::vector<Document> documents, ThreadPool& pool,
         const ScorerOptions& options = {}, const ProgressFn& progress = {});
  ~Scorer();
  Scorer(Scorer&&) noexcept;

  const std::vector<Document>& documents() const;
  int64_t scored_tokens() const;
  int64_t tokens() const;  // of all documents

  // The 16-bit cache's own scores: KL 0, its likelihood.
  std::vector<PositionScore> reference() const;

  // One score per scored token, documents in order. The same bits for any number of threads.
  // Progress counts tokens. Throws Error as Model::forward.
  //
  // Where the spec has a prefix: documents that begin with its ids have these taken off, and none
  // of their predictions within it may be scored (the first token that may is the one after it,
  // which the prefix's own hidden state predicts, the 16-bit model's: IntactPrefix::hidden); to
  // others it is put in front, and what they see lies so much further on. The reference stays the
  // plain 16-bit cache on the document as it is. Throws Error kInvalidArgument naming a document
  // that is scored within the prefix, or does not fit the model's context with it.
  std::vector<PositionScore> score(const CacheSpec& spec, const ProgressFn& progress = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lowkey
