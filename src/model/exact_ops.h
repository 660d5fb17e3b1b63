#pragma once
// The operations of ops.h with exact dense attention in place of the packed cache, differentiable
// throughout: what training and layer-wise work on weights (GPTQ and its like) compute with. One
// sequence per step, over a prefix whose keys and values are given, or none. Belongs to one thread,
// and computes on it alone: callers share whole samples out over their threads.
//
// Nothing here is reused behind autograd's back: begin() may be called again, and gradients of
// earlier steps still be asked for. Matrices must be stored as f32 or bf16 (WeightStorage::kF32,
// kBF16), bf16 ones being multiplied in bf16; the weights must outlive the gradients.
#include <ATen/core/Tensor.h>

#include <array>
#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "core/threads.h"
#include "model/aten_ops.h"
#include "model/cache_attention.h"
#include "model/rope.h"
#include "model/routing.h"
#include "model/step.h"
#include "model/weights.h"

namespace lowkey {

// What a step's tokens follow: per layer [tokens, num_kv_heads, head_dim] in float32, keys after
// RoPE at positions 0, 1, ... Empty: nothing.
struct ExactPrefix {
  std::vector<at::Tensor> k, v;

  int64_t length() const { return k.empty() ? 0 : k.front().size(0); }
};

// What a product is made of. A weight or bias that is undefined is the model's own.
struct LinearTerms {
  at::Tensor x;       // float32 [rows, in]
  at::Tensor weight;  // [out, in], float32 or bf16; multiplied in its own type
  at::Tensor bias;    // [out]
};

// Is shown every product of layers but the router's, and may change its terms.
using LinearHook = std::function<void(const Linear& linear, LinearTerms& terms)>;

// What AtenOps is made of: a pool of the calling thread alone. The cache is never asked.
struct ExactOpsParts {
  explicit ExactOpsParts(const ModelConfig& config) : attention(config, pool) {}

  ThreadPool pool{1};
  CacheAttention attention;
};

class ExactOps : private ExactOpsParts, private AtenOps {
 public:
  using Value = at::Tensor;  // float32 [rows, channels]

  // config must outlive it.
  explicit ExactOps(const ModelConfig& config, LinearHook hook = {});

  // Before each step: its tokens, at positions prefix.length(), ... Throws Error as
  // StepRows::assign_exact.
  void begin(std::span<const int32_t> tokens, const ExactPrefix& prefix = {});
  const StepRows& step() const { return step_; }

  using AtenOps::activate;
  using AtenOps::add;
  using AtenOps::embed;
  using AtenOps::floats;
  using AtenOps::gate;
  using AtenOps::norm;
  using AtenOps::norm_heads;
  using AtenOps::rows;
  using AtenOps::rows_of;
  using AtenOps::scale;
  using AtenOps::select_rows;
  using AtenOps::turn;
  using AtenOps::zeros;

  Value linear(const Value& x, const Linear& linear);
  template <std::same_as<Linear>... Linears>
  std::array<Value, sizeof...(Linears)> linears(const Value& x, const Linears&... weights) {
    return {linear(x, weights)...};
  }
  Value rope(const Value& x, int32_t num_heads, RopeUse use);
  Value attend(int32_t layer, const Value& q, const Value& k, const Value& v);
  void store(int32_t, const Value&, const Value&) {}  // nothing follows a step
  const Routing& route(const Value& x, const Linear& router);
  // `factors` are those of the last route().
  Value add_to_rows(const Value& x, const Value& y, std::span<const int64_t> rows,
                    std::span<const float> factors);

  // Not an operation of layers: hidden states after the final norm -> logits [rows, vocab_size],
  // capped as the model says.
  Value logits(const WeightMatrix& head, const Value& hidden) const;

 private:
  struct Angles {
    at::Tensor cos, sin;  // [rows, 1, half_dim]
  };
  Angles angles_of(RopeUse use) const;
  // Some queries of the step, the keys that they see, and what is added to their scores: 0 or
  // -infinity, or what ALiBi takes.
  struct Block {
    int64_t first = 0, count = 0;
    int64_t first_key = 0, keys = 0;  // the prefix's come before the step's
    at::Tensor bias;  // [1 or num_kv_heads, query heads of one * count, keys], as attend() has them
  };
  // Of a layer with such a window.
  const std::vector<Block>& blocks(int32_t window);

  const ModelConfig& config_;
  const RopeTables rope_;
  LinearHook hook_;
  std::vector<float> alibi_slopes_;
  StepRows step_;
  ExactPrefix prefix_;
  Angles main_, local_;
  std::map<int32_t, std::vector<Block>> blocks_;
  Routing routing_;
  at::Tensor routing_weights_;  // Routing's weights, expert after expert, for autograd
};

// A step from its tokens on: the residual stream after each layer, [rows, hidden_size] each.
std::vector<at::Tensor> layer_outputs(ExactOps& ops, const ModelWeights& weights,
                                      std::span<const int32_t> tokens,
                                      const ExactPrefix& prefix = {});

}  // namespace lowkey
