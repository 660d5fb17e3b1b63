#pragma once
// Where the error of a quantized KV cache comes from: what each layer loses under each candidate,
// and why. The sensitivity metrics of KVTuner (arXiv 2502.04420), the noise of quantized scores
// beside its theory, and what the papers' figures show. Torch-free header.
//
// How it is measured. Each document runs once through the model on an exact (f16) cache. In every
// layer its K and V are then stored in a real one-layer cache under each candidate and read back as
// attention would see them; nothing accumulates from layer to layer. Queries are those that predict
// scored tokens, a sample of them, in decode semantics: the query at position p sees what the cache
// holds after p tokens, its exact window included, and its own K and V exactly.
//
// What the papers leave open is decided here:
//   - Relative errors are ratios of sums, sum |x - x^| / sum |x|: element-wise quotients have no
//     mean where elements may be zero. Sums run over one head (all documents); a layer's value is
//     the mean over its heads.
//   - e_k and e_v count the tokens that a document's end finds packed; exact windows and the intact
//     prefix do not dilute them. Nothing packed: 0.
//   - e_a is absolute, as in the paper: |a - a^| averaged over the tokens a query sees (so it falls
//     with the context), then over queries.
//   - e_o is relative, over queries and channels of a head's output.
//   - 16- and 32-bit sides count as exact: no error.
//   - A bias is the same with the sign kept: sum (x^ - x) / sum |x|. bias_score is that of q.k
//     over the tokens seen packed.
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/threads.h"
#include "eval/document.h"
#include "model/model.h"
#include "quant/layout.h"
#include "recipe/candidates.h"

namespace lowkey {

struct ProbeOptions {
  int32_t intact_prefix = 1;  // tokens at the start of a document that every candidate keeps exact
  int64_t max_queries = 256;  // per document, evenly spaced over its scored positions
  bool depth = true;          // growth with depth: one more pass per recipe that is compared
  bool ablation = true;       // group size and R
};

struct HeadErrors {
  double e_k = 0;  // of its KV head
  double e_a = 0;
  double e_o = 0;
};

struct CandidateErrors {
  std::string label;
  double e_k = 0, e_v = 0, e_a = 0, e_o = 0;
  double bias_k = 0, bias_score = 0, bias_o = 0;
  std::vector<HeadErrors> heads;  // [num_qo_heads]
};

// One side quantized along one axis, every token but the intact prefix and an unfinished group of
// 32: groups of 32 channels or of 32 tokens, so that both store the same bits. By the specification
// in quant/affine.h, not through a cache: no cache keeps values per channel. The other side is
// exact.
struct AxisErrors {
  Side side = Side::kKey;
  QuantAxis axis = QuantAxis::kPerToken;
  int32_t bits = 0;
  double error = 0;  // sum |x - x^| / sum |x|
  double e_o = 0;
};

// Standard deviation of the error of a score q.k / sqrt(d), over the tokens queries see packed.
// Rounding is uniform noise within a step: predicted is the root of the mean of
// 1 / (12 d) * sum over channels of q^2 step^2.
struct ScoreNoise {
  int32_t bits = 0;  // of the keys, stored as the first candidate with these bits does
  double predicted = 0;
  double measured = 0;
};

// Of the exact attention, means over queries.
struct AttentionShape {
  double entropy = 0;     // nats
  double top_share = 0;   // weight of the largest 5% of the tokens seen, at least one
  double sink_share = 0;  // weight of token 0
};

struct LayerProbe {
  std::vector<CandidateErrors> candidates;  // in the order asked for
  std::vector<AxisErrors> axes;
  std::vector<ScoreNoise> score_noise;
  std::vector<AttentionShape> heads;  // [num_qo_heads]
  AttentionShape mean;                // over heads
};

// How errors grow from layer to layer when the whole model runs on one candidate. Index l: the
// residual stream before layer l; num_layers: after the last. Means over queries.
struct DepthGrowth {
  std::string recipe;
  std::vector<double> relative_error;  // ||h^ - h|| / ||h||, measured
  // What it would be if each layer added its own error of the attention output (measured on exact
  // inputs, times its output matrix), these were independent, and later layers just carried them
  // along: the root of the sum of their squares, over ||h||. Where measured lies above, layers
  // amplify what reaches them; where below, they damp it.
  std::vector<double> independent;
};

// A massive activation (arXiv 2402.17762): a token with a channel of the residual stream at least
// kPivotRatio times the median magnitude of that layer. Heads park their attention there, and its
// keys and values are unlike all others: what an intact prefix keeps exact.
inline constexpr double kPivotRatio = 300;

struct Pivot {
  std::string document;
  int64_t position = 0;
  int32_t token = 0;
  int32_t layer = 0;       // the first before which it is massive; num_layers: after the last
  int32_t last_layer = 0;  // likewise; between them it may not be
  int32_t peak_layer = 0;  // where it is largest
  std::vector<int32_t> channels;  // where it is largest, descending; at most 8
  double magnitude = 0;           // largest of all layers
  double ratio = 0;               // of it to that layer's median
  double typical = 0;             // median over tokens of their largest magnitude, there
};

// How the weight on the tokens that matter most to one query moves as keys lose bits: in a few
// layers of the first document, the head and query whose attention moves most at the fewest bits.
struct AttentionShift {
  int32_t layer = 0, head = 0;
  int64_t query = 0;                              // its position
  std::vector<int64_t> positions;                 // of the key tokens, ascending
  std::vector<int32_t> tokens;                    // which they are
  std::map<int32_t, std::vector<double>> scores;  // by bits of the keys (16: exact): probabilities
};

// The same bits for keys and values, per group size and R; on every fourth query. Means over
// layers.
struct AblationPoint {
  int32_t bits = 0;
  int32_t group_size = 0;
  int32_t residual_length = 0;
  double e_o = 0;
  double stored_bits = 0;  // at the length of the longest document
};

struct ProbeResult {
  int64_t tokens = 0;
  int64_t queries = 0;
  std::vector<std::string> candidates;  // labels
  std::vector<LayerProbe> layers;
  std::vector<DepthGrowth> depth;
  std::vector<Pivot> pivots;  // by document, then position
  std::vector<AttentionShift> shifts;
  std::vector<AblationPoint> ablation;
};

// What of a model the probe's formulas do not know yet ("sliding windows"): it compares
// softmax(scale q . k) over all tokens before, whose product with o is what a layer adds. Null
// where that is what its layers do.
const char* probe_refusal(const ModelConfig& config);

// Runs on `pool`, the model's own; the result depends on the instruction set, not on the number of
// threads. A document is held whole: K and V of one layer in every form compared, about 100 bytes
// per number of them. Throws Error kInvalidArgument: no document, none of whose tokens is scored, a
// document longer than the model's context, candidates that do not fit the model or repeat a label;
// as Model::forward; what `progress` throws.
ProbeResult probe(Model& model, std::span<const Document> documents,
                  std::span<const LayerCandidate> candidates, const ProbeOptions& options,
                  ThreadPool& pool, const ProgressFn& progress);

}  // namespace lowkey
