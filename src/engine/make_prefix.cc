#include "engine/make_prefix.h"

#include <algorithm>
#include <vector>

#include "cache/kv_cache.h"
#include "core/error.h"
#include "engine/engine.h"
#include "model/kv_shape.h"

namespace lowkey {
namespace {

// Keeps what attention is given, as f16: what a 16-bit cache stores.
class RowKeeper : public StepWatcher {
 public:
  explicit RowKeeper(IntactPrefix& prefix)
      : prefix_(prefix), seen_(static_cast<size_t>(prefix.num_layers), 0) {}

  void attention(int32_t layer, const float*, const float* k, const float* v,
                 int64_t rows) override {
    int64_t& seen = seen_[static_cast<size_t>(layer)];
    for (int64_t row = 0; row < rows; ++row) {
      for (int32_t head = 0; head < prefix_.num_kv_heads; ++head) {
        const int64_t from = (row * prefix_.num_kv_heads + head) * prefix_.head_dim;
        const int64_t to = prefix_.offset(layer, head) + (seen + row) * prefix_.head_dim;
        float_to_half(k + from, prefix_.k.data() + to, prefix_.head_dim);
        float_to_half(v + from, prefix_.v.data() + to, prefix_.head_dim);
      }
    }
    seen += rows;
  }

 private:
  IntactPrefix& prefix_;
  std::vector<int64_t> seen_;  // [layer] rows
};

}  // namespace

PrefixFile make_prefix(Model& model, const ModelFile& file, std::span<const int32_t> ids,
                       const ProgressFn& progress) {
  if (ids.empty() || std::ssize(ids) > kMaxIntactPrefix) {
    fail(ErrorCode::kInvalidArgument, "a prefix of {} tokens: 1 to {}", ids.size(),
         kMaxIntactPrefix);
  }
  const ModelConfig& config = model.config();
  if (file.source_fingerprint() != file.fingerprint()) {
    fail(ErrorCode::kInvalidArgument,
         "{}: its weights are quantized; a prefix is made with the 16-bit model it comes from, and "
         "serves both",
         file.path().string());
  }
  auto prefix = std::make_shared<IntactPrefix>();
  prefix->tokens.assign(ids.begin(), ids.end());
  prefix->num_layers = config.num_layers;
  prefix->num_kv_heads = config.num_kv_heads;
  prefix->head_dim = config.head_dim;
  const auto numbers = static_cast<size_t>(prefix->offset(config.num_layers, 0));
  prefix->k.resize(numbers);
  prefix->v.resize(numbers);
  // Of every token: a last layer that nobody wants results of is not watched.
  std::vector<float> hidden(ids.size() * static_cast<size_t>(config.hidden_size));
  RowKeeper keeper(*prefix);
  KvCache cache(resolve_recipe(parse_recipe("16"), kv_shape(config)));
  KvSequence sequence = cache.new_sequence();
  prefill(model, sequence, ids, RowsWanted::kAll, hidden.data(), progress, "running the prefix",
          {.watcher = &keeper});
  prefix->hidden.assign(hidden.end() - config.hidden_size, hidden.end());
  PrefixFile result;
  result.prefix = std::move(prefix);
  result.model_sha256 = file.fingerprint();
  result.tokenizer_sha256 = tokenizer_fingerprint(file.tokenizer());
  return result;
}

}  // namespace lowkey
