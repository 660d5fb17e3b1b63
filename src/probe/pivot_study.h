#pragma once
// Which tokens a quantized model must keep exact: those with massive activations, which attention
// rests on (IntactKV, arXiv 2403.01241, calls them pivots), and how long a prefix covers them.
// Torch-free header.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/threads.h"
#include "eval/document.h"
#include "model/model.h"
#include "probe/probe.h"

namespace lowkey {

// A pivot's largest magnitude is at least kPivotRatio times its layer's median, and at least so
// many times what tokens usually reach: in deep layers many tokens have a few large channels.
inline constexpr double kPivotPeakRatio = 10;
// What a sink gets of the attention of distant queries in some layer; 1 / tokens would be even.
inline constexpr double kSinkShare = 0.2;
// Queries at least so many tokens later count: nearer ones look at a token because it is near.
inline constexpr int64_t kSinkDistance = 16;

struct PivotToken {
  int64_t position = 0;
  int32_t token = 0;
  bool massive = false;
  // Of the massive activation, as in Pivot; nothing where there is none.
  int32_t first_layer = 0, last_layer = 0, peak_layer = 0;
  std::vector<int32_t> channels;
  double magnitude = 0, typical = 0;
  // Of distant queries' attention: mean over layers, heads and queries; the most in one layer.
  double attention = 0;
  double attention_peak = 0;
  int32_t attention_layer = 0;
};

struct PivotDocument {
  std::string name;
  int64_t tokens = 0;
  std::vector<PivotToken> found;  // by position: massive ones and sinks
  // [num_layers]: of distant queries' attention, what the document's massive tokens get together.
  std::vector<double> pivot_attention;
};

struct PivotStudy {
  std::vector<PivotDocument> documents;
  // The shortest prefix that covers every position where more than half of the documents have a
  // token that is massive in half of the layers at least; 0: there is none. Tokens of this or that
  // text stand out for a few layers too, but nothing rests on them.
  int64_t prefix = 0;
};

// One exact pass per document, in one step each. Documents should begin alike (the BOS token, a
// chat template's tokens): positions are compared. Throws Error kInvalidArgument for no document or
// one longer than the model's context; kUnsupported as probe(); as Model::forward.
PivotStudy study_pivots(Model& model, std::span<const Document> documents, ThreadPool& pool,
                        const ProgressFn& progress);

// The rule by itself.
int64_t recommended_prefix(std::span<const PivotDocument> documents);

}  // namespace lowkey
