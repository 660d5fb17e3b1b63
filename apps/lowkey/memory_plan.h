#pragma once
// What a model needs with a recipe, a length and a batch: arithmetic alone, nothing is loaded. The
// cache's bytes are recipe/bytes.h's, which the allocator is asserted against; the workspace is an
// estimate (tests/apps/plan_memory_test.cc holds it against a running model). Torch-free, pure.
#include <cstdint>
#include <optional>
#include <string>

#include "load/model_file.h"
#include "recipe/bytes.h"
#include "recipe/recipe.h"

namespace lowkey {

inline constexpr int64_t kMaxPlannedBatch = int64_t{1} << 20;

// `batch` sequences of `ctx` tokens each.
struct MemoryNeed {
  KvBytes kv;
  int64_t weights = 0;
  int64_t workspace = 0;
  int64_t total() const { return kv.total() + weights + workspace; }
};

// A recipe on a model, at any length and batch.
class MemoryPlan {
 public:
  // prefix_tokens: of the prefix's file that the recipe names (engine/prefix_file.h). Its keys and
  // values lie in memory once for all sequences, unless the recipe keeps more tokens exact. Throws
  // Error as resolve_recipe.
  MemoryPlan(const KvRecipe& recipe, const ModelConfig& config, int64_t weight_bytes,
             int64_t prefix_tokens = 0);

  const ResolvedRecipe& recipe() const { return recipe_; }

  // Throws Error kInvalidArgument: ctx beyond kMaxTokens, batch beyond kMaxPlannedBatch, or more
  // bytes than 63 bits can count.
  MemoryNeed need(int64_t ctx, int64_t batch) const;

  // The longest context of `batch` sequences, the most sequences of `ctx` tokens that `memory`
  // holds; 0 if not even one. At most kMaxTokens, kMaxPlannedBatch.
  int64_t longest_ctx(int64_t memory, int64_t batch) const;
  int64_t largest_batch(int64_t memory, int64_t ctx) const;

 private:
  bool fits(int64_t memory, int64_t ctx, int64_t batch) const;

  ResolvedRecipe recipe_;
  ModelConfig config_;
  int64_t weight_bytes_;
  bool prefix_shared_;
};

// What a step needs besides weights and cache, at its highest: activations of a piece of a prompt
// or of one token of every sequence, their logits, the step's own keys and values, and attention's
// partial results. Estimated; libtorch's own buffers, where it computes prompts, come on top.
int64_t workspace_bytes(const ModelConfig& config, int64_t ctx, int64_t batch);

// The second copy of the layers' matrices, in bf16, that prompts are computed with where the
// processor has AVX512_BF16 (docs/decisions.md), unless weights are used in place (--weights file,
// auto for files larger than a quarter of memory). Not in MemoryNeed: it depends on the machine.
int64_t prompt_weights_bytes(const ModelConfig& config);

}  // namespace lowkey
