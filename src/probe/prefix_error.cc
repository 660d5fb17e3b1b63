#include "probe/prefix_error.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "cache/kv_cache.h"
#include "core/error.h"
#include "engine/make_prefix.h"
#include "eval/metrics.h"
#include "model/kv_shape.h"
#include "model/simulation.h"

namespace lowkey {
namespace {

constexpr int64_t kLogitRows = 128;  // logits of this many positions at a time

// The first `length` tokens of a prefix: what a token leaves does not depend on later ones.
std::shared_ptr<const IntactPrefix> first_of(const IntactPrefix& whole, int64_t length) {
  auto part = std::make_shared<IntactPrefix>();
  part->tokens.assign(whole.tokens.begin(), whole.tokens.begin() + length);
  part->num_layers = whole.num_layers;
  part->num_kv_heads = whole.num_kv_heads;
  part->head_dim = whole.head_dim;
  for (int32_t layer = 0; layer < whole.num_layers; ++layer) {
    for (int32_t head = 0; head < whole.num_kv_heads; ++head) {
      const int64_t from = whole.offset(layer, head);
      const int64_t to = from + length * whole.head_dim;
      part->k.insert(part->k.end(), whole.k.begin() + from, whole.k.begin() + to);
      part->v.insert(part->v.end(), whole.v.begin() + from, whole.v.begin() + to);
    }
  }
  return part;
}

// The hidden states of the tokens from `behind` on, after a prefix that a cache begins with.
std::vector<float> run(Model& model, const std::vector<int32_t>& tokens,
                       std::shared_ptr<const IntactPrefix> prefix, int64_t behind) {
  const int64_t length = prefix ? prefix->length() : 0;
  KvCache cache(CacheSpec(resolve_recipe(parse_recipe("16"), kv_shape(model.config()), length),
                          std::move(prefix)));
  KvSequence sequence = cache.new_sequence();
  const auto rest = std::span(tokens).subspan(static_cast<size_t>(length));
  const int64_t width = model.config().hidden_size;
  std::vector<float> hidden(rest.size() * static_cast<size_t>(width));
  prefill(model, sequence, rest, RowsWanted::kAll, hidden.data(), {}, "");
  hidden.erase(hidden.begin(), hidden.begin() + (behind - length) * width);
  return hidden;
}

struct ErrorSums {
  double error = 0, size = 0, kl = 0;
  int64_t tokens = 0;
};

}  // namespace

std::vector<int64_t> prefix_lengths(int64_t most) {
  std::vector<int64_t> lengths = {0, 1, 2, 3};
  for (int64_t step = 4; step < most; step *= 2) {
    lengths.push_back(step);
    lengths.push_back(step + step / 2);
  }
  lengths.push_back(most);
  std::erase_if(lengths, [most](int64_t length) { return length > most; });
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  return lengths;
}

std::vector<PrefixError> prefix_errors(Engine& exact, Engine& quantized,
                                       std::span<const Document> documents,
                                       std::span<const int64_t> lengths,
                                       const ProgressFn& progress) {
  LOWKEY_CHECK(!lengths.empty(), "no lengths");
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  Model& reference = exact.model();
  const auto width = static_cast<size_t>(reference.config().hidden_size);
  const auto vocab = static_cast<size_t>(reference.config().vocab_size);
  std::vector<ErrorSums> sums(lengths.size());
  std::vector<float> logits(static_cast<size_t>(kLogitRows) * vocab);
  std::vector<float> reference_logits(logits.size());
  int64_t done = 0;
  const int64_t total = std::ssize(documents) * (std::ssize(lengths) + 1);
  for (const Document& document : documents) {
    if (std::ssize(document.tokens) <= longest ||
        std::ssize(document.tokens) > reference.config().max_context) {
      fail(ErrorCode::kInvalidArgument,
           "{}: {} tokens; must be more than the longest prefix, {}, and at most the model's {}",
           document.name, document.tokens.size(), longest, reference.config().max_context);
    }
    report(progress, "measuring prefixes", done++, total);
    std::shared_ptr<const IntactPrefix> prefix;
    if (longest > 0) {
      const PrefixFile file = make_prefix(
          reference, exact.file(), std::span(document.tokens).first(static_cast<size_t>(longest)));
      check_prefix(file, exact.file().path().string(), quantized.file());
      prefix = prefix_for(file.prefix, quantized.file().config());
    }
    const std::vector<float> h = run(reference, document.tokens, nullptr, longest);
    const auto rows = static_cast<int64_t>(h.size() / width);
    for (size_t i = 0; i < lengths.size(); ++i) {
      report(progress, "measuring prefixes", done++, total);
      const std::vector<float> found =
          run(quantized.model(), document.tokens,
              lengths[i] == 0 ? nullptr : first_of(*prefix, lengths[i]), longest);
      for (size_t x = 0; x < h.size(); ++x) {
        const double difference = static_cast<double>(found[x]) - static_cast<double>(h[x]);
        sums[i].error += difference * difference;
        sums[i].size += static_cast<double>(h[x]) * static_cast<double>(h[x]);
      }
      for (int64_t row = 0; row < rows; row += kLogitRows) {
        const int64_t count = std::min(kLogitRows, rows - row);
        const auto offset = static_cast<size_t>(row) * width;
        reference.logits(h.data() + offset, count, reference_logits.data());
        quantized.model().logits(found.data() + offset, count, logits.data());
        std::vector<double> kl(static_cast<size_t>(count));
        exact.pool().run(count, [&](int64_t r, int) {
          const auto at = static_cast<size_t>(r) * vocab;
          ReferencePrediction prediction;
          prediction.assign(std::span<const float>(reference_logits).subspan(at, vocab));
          kl[static_cast<size_t>(r)] =
              prediction.compare(std::span<const float>(logits).subspan(at, vocab), 0).kl;
        });
        for (const double one : kl) sums[i].kl += one;
      }
      sums[i].tokens += rows;
    }
  }
  report(progress, "measuring prefixes", total, total);
  const bool comparable = is_rotated(reference.config()) == is_rotated(quantized.file().config());
  std::vector<PrefixError> errors;
  for (size_t i = 0; i < lengths.size(); ++i) {
    double hidden = sums[i].size > 0 ? sums[i].error / sums[i].size : 0;
    if (!comparable) hidden = std::numeric_limits<double>::quiet_NaN();
    errors.push_back({lengths[i], hidden, sums[i].kl / static_cast<double>(sums[i].tokens)});
  }
  return errors;
}

}  // namespace lowkey
