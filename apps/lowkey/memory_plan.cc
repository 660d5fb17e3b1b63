#include "memory_plan.h"

#include <algorithm>
#include <limits>

#include "attention/attend.h"
#include "core/checked.h"
#include "core/error.h"
#include "model/kv_shape.h"

namespace lowkey {
namespace {

// What the rooms above this program's torch-free half do; the test notices where they change.
constexpr int64_t kPromptRows = 512;     // engine: a prompt goes in pieces of so many tokens
constexpr int64_t kNativeStepRows = 16;  // model: steps of up to so many rows have own buffers
constexpr int64_t kNativeBuffers = 6;    // x, its norm, q, k, v, attention's output
constexpr int64_t kViewBytes = 256;      // cache: what a step notes down per KV head

// f32 rows of x, q, k, v and attention's output, and two of products' inputs in bf16.
constexpr int64_t kStepRowBytes = 5 * 4 + 2 * 2;

// The largest n in [0, most] for which `fits`, which holds up to some n and not beyond.
template <typename Fits>
int64_t largest(int64_t most, const Fits& fits) {
  int64_t good = 0;
  for (int64_t bad = most + 1; bad - good > 1;) {
    const int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

// Half of what 63 bits hold is left for weights and workspace.
bool countable(int64_t bytes, int64_t batch) {
  return bytes <= std::numeric_limits<int64_t>::max() / 2 / batch;
}

}  // namespace

MemoryPlan::MemoryPlan(const KvRecipe& recipe, const ModelConfig& config, int64_t weight_bytes,
                       int64_t prefix_tokens)
    : recipe_(resolve_recipe(recipe, kv_shape(config), prefix_tokens)),
      config_(config),
      weight_bytes_(weight_bytes),
      prefix_shared_(prefix_tokens > 0 && prefix_tokens == recipe_.intact_prefix) {}

MemoryNeed MemoryPlan::need(int64_t ctx, int64_t batch) const {
  if (batch < 1 || batch > kMaxPlannedBatch) {
    fail(ErrorCode::kInvalidArgument, "a batch of {}: 1 to {}", batch, kMaxPlannedBatch);
  }
  MemoryNeed need;
  const KvBytes one = bytes_at(recipe_, ctx);
  if (!countable(one.total(), batch)) {
    fail(ErrorCode::kInvalidArgument, "{} sequences of {} bytes: more than can be counted", batch,
         one.total());
  }
  need.kv = {one.pages * batch, one.windows * batch,
             prefix_shared_ ? one.prefix : one.prefix * batch};
  need.weights = weight_bytes_;
  need.workspace = workspace_bytes(config_, ctx, batch);
  return need;
}

bool MemoryPlan::fits(int64_t memory, int64_t ctx, int64_t batch) const {
  // A search passes lengths that need() refuses to count: none of them fits.
  if (!countable(bytes_at(recipe_, ctx).total(), batch)) return false;
  if (recipe_.shape.windows.empty()) return need(ctx, batch).total() <= memory;
  // With windows, pages come and go: what a shorter sequence takes must fit too.
  for (int64_t length = std::max<int64_t>(0, ctx - kPageTokens + 1); length <= ctx; ++length) {
    if (need(length, batch).total() > memory) return false;
  }
  return true;
}

int64_t MemoryPlan::longest_ctx(int64_t memory, int64_t batch) const {
  return largest(kMaxTokens, [&](int64_t ctx) { return fits(memory, ctx, batch); });
}

int64_t MemoryPlan::largest_batch(int64_t memory, int64_t ctx) const {
  return largest(kMaxPlannedBatch, [&](int64_t batch) { return fits(memory, ctx, batch); });
}

int64_t workspace_bytes(const ModelConfig& config, int64_t ctx, int64_t batch) {
  const int64_t q = int64_t{config.num_qo_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  const int64_t widest = std::max<int64_t>(
      {config.hidden_size, config.intermediate_size, config.expert_intermediate_size, q, kv});
  const int64_t rows = std::max(batch, std::min(ctx, kPromptRows));
  const int64_t activations = rows * widest * kStepRowBytes +
                              kNativeStepRows * widest * kNativeBuffers * int64_t{sizeof(float)};
  const int64_t logits =
      batch * (int64_t{config.hidden_size} + config.vocab_size) * int64_t{sizeof(float)};
  const int64_t new_tokens = rows * 2 * kv * 2 + batch * config.num_kv_heads * kViewBytes;
  const int64_t runs = std::min(ceil_div<int64_t>(ctx, kPageTokens), kMaxDecodeRuns);
  const int64_t partials =
      batch * runs * config.num_qo_heads * (config.head_dim + 2) * int64_t{sizeof(float)};
  return activations + logits + new_tokens + partials;
}

int64_t prompt_weights_bytes(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t heads = 2 * int64_t{config.num_qo_heads} + 2 * int64_t{config.num_kv_heads};
  const int64_t mixed = std::count_if(config.layers.begin(), config.layers.end(),
                                      [](const LayerConfig& layer) { return layer.experts; });
  const int64_t inner = (config.num_layers - mixed) * config.intermediate_size +
                        mixed * config.num_experts * config.expert_intermediate_size;
  return 2 * hidden *
         (config.num_layers * heads * config.head_dim + (config.gated_mlp ? 3 : 2) * inner);
}

}  // namespace lowkey
