#include "eval/scorer.h"

#include <fmt/format.h>

#include <algorithm>

#include "cache/kv_cache.h"
#include "core/error.h"
#include "engine/engine.h"
#include "engine/prefix_file.h"
#include "model/kv_shape.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

// Logits of this many positions at a time: with 50,000 tokens in the vocabulary, 25 MB.
constexpr int64_t kLogitRows = 128;

bool is_plain(const ResolvedLayer& layer) {
  return std::all_of(layer.heads.begin(), layer.heads.end(),
                     [](const HeadRecipe& head) { return head.k.bits == 16 && head.v.bits == 16; });
}

void check(const Document& document, const ModelConfig& config) {
  const auto length = std::ssize(document.tokens);
  if (length < 2 || length > config.max_context) {
    fail(ErrorCode::kInvalidArgument, "{}: {} tokens: must be between 2 and the model's {}",
         document.name, length, config.max_context);
  }
  int64_t end = 1;
  for (const TokenRange& range : document.scored) {
    if (range.first < end || range.last <= range.first || range.last > length) {
      fail(ErrorCode::kInvalidArgument,
           "{}: scored tokens {} to {}: outside of it, or out of order", document.name, range.first,
           range.last);
    }
    end = range.last;
  }
}

// Keeps the residual stream of a document's chunks, one after the other.
class ResidualKeeper : public StepWatcher {
 public:
  ResidualKeeper(std::vector<std::vector<float>>& layers, int64_t hidden_size)
      : layers_(layers), hidden_size_(hidden_size) {}
  void residual(int32_t layer, const float* x, int64_t rows) override {
    // Layer 0 starts from the embedding, and after the last one `hidden` is what counts.
    if (layer == 0 || static_cast<size_t>(layer) >= layers_.size()) return;
    std::vector<float>& kept = layers_[static_cast<size_t>(layer)];
    kept.insert(kept.end(), x, x + rows * hidden_size_);
  }

 private:
  std::vector<std::vector<float>>& layers_;
  const int64_t hidden_size_;
};

}  // namespace

struct Scorer::Impl {
  // A document's run in 16 bits.
  struct Reference {
    std::vector<std::vector<float>> residuals;  // [layer][tokens * hidden_size]; empty: not kept
    std::vector<float> hidden;                  // [scored tokens, hidden_size]
  };

  Impl(Model& runs, std::vector<Document> texts, ThreadPool& threads, const ScorerOptions& options)
      : model(runs), pool(threads), documents(std::move(texts)) {
    const ModelConfig& config = model.config();
    shape = kv_shape(model.config());
    for (const Document& document : documents) {
      check(document, config);
      tokens += std::ssize(document.tokens);
      scored += document.num_scored();
    }
    int64_t budget = options.keep_bytes;
    const int64_t residual_bytes =
        tokens * (config.num_layers - 1) * config.hidden_size * int64_t{sizeof(float)};
    keep_residuals = options.keep_residuals && residual_bytes <= budget;
    if (keep_residuals) budget -= residual_bytes;
    const int64_t row_bytes = config.vocab_size * int64_t{sizeof(float)};
    kept_rows = std::min(scored, budget / row_bytes / kLogitRows * kLogitRows);
    if (budget / row_bytes >= scored) kept_rows = scored;
  }

  int64_t hidden_size() const { return model.config().hidden_size; }
  int64_t vocab() const { return model.config().vocab_size; }

  // Runs one document on a cache; the hidden states before its scored tokens go to `out`.
  void run(const Document& document, const CacheSpec& spec, const ForwardOptions& options,
           std::vector<float>& out, const ProgressFn& progress) {
    KvCache cache(spec);
    KvSequence sequence = cache.new_sequence();
    const size_t taken_off = spec.taken_off(document.tokens);
    const auto rest_tokens = std::span(document.tokens).subspan(taken_off);
    // Row i is after token i of the document; those of a prefix taken off are not known but for
    // the last.
    hidden.resize(document.tokens.size() * static_cast<size_t>(hidden_size()));
    float* const rest = hidden.data() + static_cast<int64_t>(taken_off) * hidden_size();
    const bool wanted = std::any_of(
        document.scored.begin(), document.scored.end(),
        [&](const TokenRange& range) { return range.first == static_cast<int64_t>(taken_off); });
    if (taken_off > 0 && wanted) {
      const std::vector<float>& last = hidden_after_prefix(spec);
      std::copy(last.begin(), last.end(), rest - hidden_size());
    }
    prefill(model, sequence, rest_tokens, RowsWanted::kAll, rest, progress, "", options);
    if (options.first_layer == 0) {
      const int64_t bytes = cache.usage().in_use();
      LOWKEY_CHECK(bytes == bytes_at(spec.recipe, sequence.length()).total(), "{} bytes allocated",
                   bytes);
    }
    for (const TokenRange& range : document.scored) {
      out.insert(out.end(), hidden.begin() + (range.first - 1) * hidden_size(),
                 hidden.begin() + (range.last - 1) * hidden_size());
    }
  }

  void check_against(const CacheSpec& spec) const {
    if (!spec.prefix) return;
    for (const Document& document : documents) {
      const auto taken_off = static_cast<int64_t>(spec.taken_off(document.tokens));
      if (taken_off > 0 && !document.scored.empty() && document.scored[0].first < taken_off) {
        fail(ErrorCode::kInvalidArgument,
             "{}: token {} is scored, which is one of the {} of the intact prefix: nothing "
             "predicts those",
             document.name, document.scored[0].first, taken_off);
      }
      const int64_t length = std::ssize(document.tokens) - taken_off + spec.prefix_tokens();
      if (length > model.config().max_context) {
        fail(ErrorCode::kInvalidArgument,
             "{}: {} tokens with the prefix before it: the model's context is {}", document.name,
             length, model.config().max_context);
      }
    }
  }

  // The 16-bit logits of scored positions [first, first + count), all within one document.
  const float* reference_logits(const Reference& reference, int64_t row_in_document, int64_t first,
                                int64_t count) {
    if (first + count <= kept_rows) return kept_logits.data() + first * vocab();
    scratch.resize(static_cast<size_t>(kLogitRows * vocab()));
    model.logits(reference.hidden.data() + row_in_document * hidden_size(), count, scratch.data());
    return scratch.data();
  }

  // Blocks of at most kLogitRows positions of one document, the same every time: how many rows a
  // product has may change its last bits.
  template <typename Visit>
  void for_each_block(const Visit& visit) {
    int64_t first = 0;
    for (size_t d = 0; d < documents.size(); ++d) {
      const int64_t rows = std::ssize(references[d].hidden) / hidden_size();
      for (int64_t row = 0; row < rows; row += kLogitRows) {
        const int64_t count = std::min(kLogitRows, rows - row);
        visit(d, row, first + row, count);
      }
      first += rows;
    }
  }

  std::vector<int32_t> targets() const {
    std::vector<int32_t> ids;
    for (const Document& document : documents) {
      for (const TokenRange& range : document.scored) {
        ids.insert(ids.end(), document.tokens.begin() + range.first,
                   document.tokens.begin() + range.last);
      }
    }
    return ids;
  }

  Model& model;
  ThreadPool& pool;
  std::vector<Document> documents;
  KvShape shape;
  int64_t tokens = 0;
  int64_t scored = 0;
  bool keep_residuals = false;
  int64_t kept_rows = 0;  // positions whose logits are kept: whole blocks

  std::vector<Reference> references;
  std::vector<float> kept_logits;  // [kept_rows, vocab]
  std::vector<PositionScore> reference_scores;
  std::vector<float> hidden, scratch;  // workspaces
};

Scorer::Scorer(Model& model, std::vector<Document> documents, ThreadPool& pool,
               const ScorerOptions& options, const ProgressFn& progress)
    : impl_(std::make_unique<Impl>(model, std::move(documents), pool, options)) {
  Impl& m = *impl_;
  const ResolvedRecipe plain = resolve_recipe(parse_recipe("16"), m.shape);
  int64_t done = 0;
  for (const Document& document : m.documents) {
    Impl::Reference& reference = m.references.emplace_back();
    if (m.keep_residuals) reference.residuals.resize(static_cast<size_t>(m.shape.num_layers));
    ResidualKeeper keeper(reference.residuals, m.hidden_size());
    m.run(document, plain, {.watcher = m.keep_residuals ? &keeper : nullptr}, reference.hidden,
          [&](std::string_view, int64_t part, int64_t) {
            report(progress, "measuring 16", done + part, m.tokens);
          });
    done += std::ssize(document.tokens);
  }
  // Blocks do not straddle documents, so what is kept ends with one.
  int64_t kept = 0;
  m.for_each_block([&](size_t, int64_t, int64_t first, int64_t count) {
    if (first + count <= m.kept_rows) kept = first + count;
  });
  m.kept_rows = kept;
  m.kept_logits.resize(static_cast<size_t>(kept * m.vocab()));
  const std::vector<int32_t> targets = m.targets();
  m.reference_scores.resize(targets.size());
  m.for_each_block([&](size_t d, int64_t row, int64_t first, int64_t count) {
    if (first + count <= m.kept_rows) {
      m.model.logits(m.references[d].hidden.data() + row * m.hidden_size(), count,
                     m.kept_logits.data() + first * m.vocab());
    }
    const float* logits = m.reference_logits(m.references[d], row, first, count);
    m.pool.run(count, [&](int64_t i, int) {
      const auto at = static_cast<size_t>(first + i);
      ReferencePrediction prediction;
      prediction.assign({logits + i * m.vocab(), static_cast<size_t>(m.vocab())});
      m.reference_scores[at] = {prediction.nll(targets[at]), 0, true};
    });
  });
}

Scorer::~Scorer() = default;
Scorer::Scorer(Scorer&&) noexcept = default;

const std::vector<Document>& Scorer::documents() const {
  return impl_->documents;
}
int64_t Scorer::scored_tokens() const {
  return impl_->scored;
}
int64_t Scorer::tokens() const {
  return impl_->tokens;
}
std::vector<PositionScore> Scorer::reference() const {
  return impl_->reference_scores;
}

std::vector<PositionScore> Scorer::score(const CacheSpec& spec, const ProgressFn& progress) {
  Impl& m = *impl_;
  m.check_against(spec);
  // Layers in 16 bits at the start are as in the reference: their results are kept already. Not so
  // behind a prefix from elsewhere.
  int32_t first_layer = 0;
  if (m.keep_residuals && !spec.prefix) {
    while (first_layer + 1 < m.shape.num_layers &&
           is_plain(spec.recipe.layers[static_cast<size_t>(first_layer)])) {
      ++first_layer;
    }
  }
  std::vector<std::vector<float>> hidden(m.documents.size());
  int64_t done = 0;
  for (size_t d = 0; d < m.documents.size(); ++d) {
    ForwardOptions options;
    if (first_layer > 0) {
      options.first_layer = first_layer;
      options.residual = m.references[d].residuals[static_cast<size_t>(first_layer)].data();
    }
    m.run(m.documents[d], spec, options, hidden[d], [&](std::string_view, int64_t part, int64_t) {
      report(progress, "measuring", done + part, m.tokens);
    });
    done += std::ssize(m.documents[d].tokens);
  }
  const std::vector<int32_t> targets = m.targets();
  std::vector<PositionScore> scores(targets.size());
  std::vector<float> logits(static_cast<size_t>(kLogitRows * m.vocab()));
  const auto vocab = static_cast<size_t>(m.vocab());
  m.for_each_block([&](size_t d, int64_t row, int64_t first, int64_t count) {
    m.model.logits(hidden[d].data() + row * m.hidden_size(), count, logits.data());
    const float* reference = m.reference_logits(m.references[d], row, first, count);
    m.pool.run(count, [&](int64_t i, int) {
      const auto at = static_cast<size_t>(first + i);
      ReferencePrediction prediction;
      prediction.assign({reference + i * m.vocab(), vocab});
      scores[at] = prediction.compare({logits.data() + i * m.vocab(), vocab}, targets[at]);
    });
  });
  return scores;
}

std::vector<Document> window_documents(std::span<const int32_t> tokens, int64_t ctx,
                                       int64_t max_windows, std::string_view name) {
  std::vector<Document> documents;
  int64_t windows = std::ssize(tokens) / ctx;
  if (max_windows > 0) windows = std::min(windows, max_windows);
  for (int64_t w = 0; w < windows; ++w) {
    const auto part = tokens.subspan(static_cast<size_t>(w * ctx), static_cast<size_t>(ctx));
    documents.push_back({fmt::format("{} {}", name, w + 1),
                         std::vector<int32_t>(part.begin(), part.end()),
                         {{1, ctx}}});
  }
  return documents;
}

}  // namespace lowkey
