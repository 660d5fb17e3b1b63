#include "probe/pivot_study.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "cache/kv_cache.h"
#include "core/error.h"
#include "model/kv_shape.h"
#include "probe/pivots.h"

namespace lowkey {
namespace {

// What one document's tokens get of its distant queries' attention, layer by layer, in f32 on exact
// keys.
class AttentionReceived {
 public:
  AttentionReceived(const ModelConfig& config, int64_t tokens, ThreadPool& pool)
      : config_(config), tokens_(tokens), pool_(pool) {}

  void add_layer(const float* q, const float* k) {
    const auto n = static_cast<size_t>(tokens_);
    std::vector<std::vector<double>> heads(static_cast<size_t>(config_.num_qo_heads),
                                           std::vector<double>(n, 0.0));
    pool_.run(config_.num_qo_heads,
              [&](int64_t head, int) { add_head(q, k, head, heads[static_cast<size_t>(head)]); });
    std::vector<double>& mean = layers_.emplace_back(n, 0.0);
    for (size_t t = 0; t < n; ++t) {
      for (const std::vector<double>& head : heads) mean[t] += head[t];
      const int64_t distant = tokens_ - static_cast<int64_t>(t) - kSinkDistance;
      // Too few queries say nothing of a token.
      mean[t] = distant < kSinkDistance
                    ? 0
                    : mean[t] / static_cast<double>(distant * config_.num_qo_heads);
    }
  }

  const std::vector<std::vector<double>>& layers() const { return layers_; }  // [layer][token]

 private:
  void add_head(const float* q, const float* k, int64_t head, std::vector<double>& sums) const {
    const int64_t dim = config_.head_dim;
    const int64_t kv_head = head / (config_.num_qo_heads / config_.num_kv_heads);
    const auto scale = static_cast<float>(config_.attention_scale);
    std::vector<float> p(static_cast<size_t>(tokens_));
    for (int64_t i = 0; i < tokens_; ++i) {
      const float* query = q + (i * config_.num_qo_heads + head) * dim;
      float most = -INFINITY;
      for (int64_t j = 0; j <= i; ++j) {
        const float* key = k + (j * config_.num_kv_heads + kv_head) * dim;
        float dot = 0;
        for (int64_t c = 0; c < dim; ++c) dot += query[c] * key[c];
        p[static_cast<size_t>(j)] = dot * scale;
        most = std::max(most, dot * scale);
      }
      double sum = 0;
      for (int64_t j = 0; j <= i; ++j) {
        float& weight = p[static_cast<size_t>(j)];
        weight = std::exp(weight - most);
        sum += static_cast<double>(weight);
      }
      for (int64_t j = 0; j <= i - kSinkDistance; ++j) {
        sums[static_cast<size_t>(j)] += static_cast<double>(p[static_cast<size_t>(j)]) / sum;
      }
    }
  }

  const ModelConfig& config_;
  const int64_t tokens_;
  ThreadPool& pool_;
  std::vector<std::vector<double>> layers_;
};

class PivotPass final : public StepWatcher {
 public:
  PivotPass(const ModelConfig& config, int64_t tokens, ThreadPool& pool,
            std::function<void()> layer_done)
      : config_(config), received_(config, tokens, pool), layer_done_(std::move(layer_done)) {}

  void residual(int32_t layer, const float* x, int64_t rows) override {
    finder_.add_layer(layer, x, rows, config_.hidden_size);
  }
  void attention(int32_t, const float* q, const float* k, const float*, int64_t) override {
    received_.add_layer(q, k);
    layer_done_();
  }

  PivotDocument document(const Document& source) const {
    PivotDocument result;
    result.name = source.name;
    result.tokens = std::ssize(source.tokens);
    const std::vector<std::vector<double>>& layers = received_.layers();
    result.pivot_attention.assign(layers.size(), 0.0);
    std::map<int64_t, PivotToken> found;
    for (const Pivot& pivot : finder_.pivots()) {
      if (pivot.magnitude < kPivotPeakRatio * pivot.typical) continue;
      PivotToken& token = found[pivot.position];
      token.massive = true;
      token.first_layer = pivot.layer;
      token.last_layer = pivot.last_layer;
      token.peak_layer = pivot.peak_layer;
      token.channels = pivot.channels;
      token.magnitude = pivot.magnitude;
      token.typical = pivot.typical;
      for (size_t l = 0; l < layers.size(); ++l) {
        result.pivot_attention[l] += layers[l][static_cast<size_t>(pivot.position)];
      }
    }
    for (int64_t t = 0; t < result.tokens; ++t) {
      PivotToken shares;
      for (size_t l = 0; l < layers.size(); ++l) {
        const double share = layers[l][static_cast<size_t>(t)];
        shares.attention += share / static_cast<double>(layers.size());
        if (share <= shares.attention_peak) continue;
        shares.attention_peak = share;
        shares.attention_layer = static_cast<int32_t>(l);
      }
      if (shares.attention_peak < kSinkShare && found.count(t) == 0) continue;
      PivotToken& token = found[t];
      token.position = t;
      token.token = source.tokens[static_cast<size_t>(t)];
      token.attention = shares.attention;
      token.attention_peak = shares.attention_peak;
      token.attention_layer = shares.attention_layer;
    }
    for (auto& [position, token] : found) result.found.push_back(std::move(token));
    return result;
  }

 private:
  const ModelConfig& config_;
  PivotFinder finder_;
  AttentionReceived received_;
  std::function<void()> layer_done_;
};

}  // namespace

int64_t recommended_prefix(std::span<const PivotDocument> documents) {
  std::map<int64_t, size_t> counts;
  for (const PivotDocument& document : documents) {
    const int64_t layers = std::ssize(document.pivot_attention);
    for (const PivotToken& token : document.found) {
      const bool stays = 2 * (token.last_layer - token.first_layer + 1) >= layers;
      counts[token.position] += token.massive && stays ? 1 : 0;
    }
  }
  int64_t prefix = 0;
  for (const auto& [position, count] : counts) {
    if (2 * count > documents.size()) prefix = position + 1;
  }
  return prefix;
}

PivotStudy study_pivots(Model& model, std::span<const Document> documents, ThreadPool& pool,
                        const ProgressFn& progress) {
  const ModelConfig& config = model.config();
  if (const char* what = probe_refusal(config)) {
    fail(ErrorCode::kUnsupported, "probe: a model with {} cannot be measured yet", what);
  }
  if (documents.empty()) fail(ErrorCode::kInvalidArgument, "probe: no text to measure on");
  for (const Document& document : documents) {
    if (document.tokens.empty() || std::ssize(document.tokens) > config.max_context) {
      fail(ErrorCode::kInvalidArgument, "{}: {} tokens; must be between 1 and the model's {}",
           document.name, document.tokens.size(), config.max_context);
    }
  }
  PivotStudy study;
  int64_t done = 0;
  const int64_t total = std::ssize(documents) * config.num_layers;
  std::vector<float> hidden;
  for (const Document& document : documents) {
    KvCache cache(resolve_recipe(parse_recipe("16"), kv_shape(config)));
    KvSequence sequence = cache.new_sequence();
    PivotPass pass(config, std::ssize(document.tokens), pool,
                   [&] { report(progress, "looking for pivots", ++done, total); });
    hidden.resize(document.tokens.size() * static_cast<size_t>(config.hidden_size));
    const StepItem item{&sequence, document.tokens, RowsWanted::kAll};
    model.forward({&item, 1}, hidden.data(), ForwardOptions{.watcher = &pass});
    study.documents.push_back(pass.document(document));
  }
  study.prefix = recommended_prefix(study.documents);
  return study;
}

}  // namespace lowkey
