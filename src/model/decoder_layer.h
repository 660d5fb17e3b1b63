#pragma once
// A decoder layer and the transformer of them, written once over the operations of ops.h. What
// families do differently is in ModelConfig. Torch-free.
#include <array>
#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"
#include "model/forward_options.h"
#include "model/ops.h"
#include "model/step.h"
#include "model/weights.h"

namespace lowkey {

// Some implementations do several operations in one pass over memory (FusedOps in ops.h); the
// others do what that means.
template <LayerOps Ops, std::same_as<Linear>... Linears>
std::array<typename Ops::Value, sizeof...(Linears)> linears_of_norm(Ops& ops,
                                                                    const typename Ops::Value& x,
                                                                    const Norm& norm,
                                                                    const Linears&... weights) {
  if constexpr (FusedOps<Ops>) {
    return ops.linears_of_norm(x, norm, weights...);
  } else {
    return ops.linears(ops.norm(x, norm), weights...);
  }
}

template <LayerOps Ops>
typename Ops::Value add_linear(Ops& ops, typename Ops::Value x, const typename Ops::Value& y,
                               const Linear& linear) {
  if constexpr (FusedOps<Ops>) {
    return ops.add_linear(std::move(x), y, linear);
  } else {
    return ops.add(std::move(x), ops.linear(y, linear));
  }
}

template <LayerOps Ops>
typename Ops::Value select_rows(Ops& ops, typename Ops::Value x, std::span<const int64_t> rows) {
  return std::ssize(rows) == ops.rows(x) ? std::move(x) : ops.select_rows(x, rows);
}

// The rotations of rotated models, which run on implementations that have them (is_simulated).
template <LayerOps Ops>
typename Ops::Value turned(Ops& ops, typename Ops::Value x, int32_t parts) {
  if constexpr (TurningOps<Ops>) {
    return ops.turn(std::move(x), parts);
  } else {
    LOWKEY_CHECK(parts == 0, "a rotated model on operations that do not rotate");
    return x;
  }
}

// Queries or keys as attention takes them.
template <LayerOps Ops>
typename Ops::Value placed_heads(Ops& ops, const ModelConfig& config, int32_t layer,
                                 typename Ops::Value x, const std::vector<float>& norm,
                                 int32_t num_heads) {
  if (config.qk_norm) x = ops.norm_heads(std::move(x), norm, num_heads);
  const RopeUse use = config.layers[static_cast<size_t>(layer)].rope;
  if (use != RopeUse::kNone) x = ops.rope(std::move(x), num_heads, use);
  return config.hadamard_qk ? turned(ops, std::move(x), num_heads) : std::move(x);
}

// The heads' outputs [rows, q channels], before the output projection.
template <LayerOps Ops>
typename Ops::Value attention(Ops& ops, const ModelConfig& config, const LayerWeights& w,
                              int32_t layer, std::array<typename Ops::Value, 3> qkv,
                              StepWatcher* watcher) {
  auto [q, k, v] = std::move(qkv);
  q = placed_heads(ops, config, layer, std::move(q), w.q_norm, config.num_qo_heads);
  k = placed_heads(ops, config, layer, std::move(k), w.k_norm, config.num_kv_heads);
  if (watcher) watcher->attention(layer, ops.floats(q), ops.floats(k), ops.floats(v), ops.rows(q));
  return ops.attend(layer, q, k, v);
}

// The last layer of a step nobody wants results of: its keys and values are all that stays.
template <LayerOps Ops>
void store_block(Ops& ops, const ModelConfig& config, const LayerWeights& w, int32_t layer,
                 const typename Ops::Value& x) {
  auto [k, v] = linears_of_norm(ops, x, w.attn_norm, w.k, w.v);
  k = placed_heads(ops, config, layer, std::move(k), w.k_norm, config.num_kv_heads);
  ops.store(layer, k, v);
}

// x + what the output projection makes of the heads, normed again if the model does that.
template <LayerOps Ops>
typename Ops::Value add_heads(Ops& ops, const ModelConfig& config, const LayerWeights& w,
                              typename Ops::Value x, const typename Ops::Value& heads) {
  if (!config.post_norms) return add_linear(ops, std::move(x), heads, w.o);
  return ops.add(std::move(x), ops.norm(ops.linear(heads, w.o), w.post_attn_norm));
}

template <LayerOps Ops>
typename Ops::Value attention_block(Ops& ops, const ModelConfig& config, const LayerWeights& w,
                                    int32_t layer, typename Ops::Value x, StepWatcher* watcher) {
  const typename Ops::Value heads = attention(
      ops, config, w, layer, linears_of_norm(ops, x, w.attn_norm, w.q, w.k, w.v), watcher);
  return add_heads(ops, config, w, std::move(x), heads);
}

template <LayerOps Ops>
typename Ops::Value activated(Ops& ops, const ModelConfig& config, const Mlp& mlp,
                              const typename Ops::Value& n) {
  if (!config.gated_mlp) return ops.activate(ops.linear(n, mlp.up));
  auto [gate, up] = ops.linears(n, mlp.gate, mlp.up);
  return ops.gate(std::move(gate), up);
}

// What goes into an MLP's `down`.
template <LayerOps Ops>
typename Ops::Value down_input(Ops& ops, const ModelConfig& config, const Mlp& mlp,
                               const typename Ops::Value& n) {
  typename Ops::Value y = activated(ops, config, mlp, n);
  return config.hadamard_down ? turned(ops, std::move(y), 1) : std::move(y);
}

// Each row's chosen experts, weighted: an expert's weights are read once, for all its rows.
template <LayerOps Ops>
typename Ops::Value mixture(Ops& ops, const ModelConfig& config, const LayerWeights& w,
                            const typename Ops::Value& n) {
  const Routing& routing = ops.route(n, w.router);
  typename Ops::Value sum = ops.zeros(ops.rows(n), config.hidden_size);
  for (int32_t e = 0; e < std::ssize(w.experts); ++e) {
    const std::span<const int64_t> rows = routing.rows(e);
    if (rows.empty()) continue;
    const Mlp& expert = w.experts[static_cast<size_t>(e)];
    const typename Ops::Value y =
        ops.linear(down_input(ops, config, expert, ops.select_rows(n, rows)), expert.down);
    sum = ops.add_to_rows(std::move(sum), y, rows, routing.weights(e));
  }
  return sum;
}

// x + what the MLP makes of n, normed again if the model does that.
template <LayerOps Ops>
typename Ops::Value add_mlp(Ops& ops, const ModelConfig& config, const LayerWeights& w,
                            typename Ops::Value x, const typename Ops::Value& n) {
  const bool experts = !w.experts.empty();
  if (!experts && !config.post_norms) {
    return add_linear(ops, std::move(x), down_input(ops, config, w.mlp, n), w.mlp.down);
  }
  typename Ops::Value y = experts ? mixture(ops, config, w, n)
                                  : ops.linear(down_input(ops, config, w.mlp, n), w.mlp.down);
  if (config.post_norms) y = ops.norm(y, w.post_mlp_norm);
  return ops.add(std::move(x), y);
}

template <LayerOps Ops>
typename Ops::Value mlp_block(Ops& ops, const ModelConfig& config, const LayerWeights& w,
                              typename Ops::Value x) {
  if constexpr (FusedOps<Ops>) {
    const bool silu = config.gated_mlp && config.activation == Activation::kSilu;
    if (silu && !config.post_norms && w.experts.empty()) {
      return ops.add_silu_mlp(std::move(x), w.mlp_norm, w.mlp);
    }
  }
  const typename Ops::Value n = ops.norm(x, w.mlp_norm);
  return add_mlp(ops, config, w, std::move(x), n);
}

// Attention and MLP of the same x; what follows attention is done of the wanted rows alone.
template <LayerOps Ops>
typename Ops::Value parallel_block(Ops& ops, const ModelConfig& config, const LayerWeights& w,
                                   int32_t layer, typename Ops::Value x,
                                   std::optional<std::span<const int64_t>> wanted,
                                   StepWatcher* watcher) {
  typename Ops::Value n = ops.norm(x, w.attn_norm);
  typename Ops::Value heads =
      attention(ops, config, w, layer, ops.linears(n, w.q, w.k, w.v), watcher);
  if (wanted) {
    x = select_rows(ops, std::move(x), *wanted);
    n = select_rows(ops, std::move(n), *wanted);
    heads = select_rows(ops, std::move(heads), *wanted);
  }
  if (!config.shared_norm) n = ops.norm(x, w.mlp_norm);
  x = add_heads(ops, config, w, std::move(x), heads);
  return add_mlp(ops, config, w, std::move(x), n);
}

template <LayerOps Ops>
typename Ops::Value embedding(Ops& ops, const ModelWeights& w, const StepRows& step) {
  typename Ops::Value x = ops.embed(w.embedding, step.tokens());
  if (w.config.embedding_scale != 1.0) {
    x = ops.scale(std::move(x), static_cast<float>(w.config.embedding_scale));
  }
  if (w.config.learned_positions) {
    x = ops.add(std::move(x), ops.embed(w.positions, step.position_rows()));
  }
  return x;
}

// The residual stream before `layer` -> after it; of the rows `wanted` only, if given: for the last
// layer, when nobody needs the others any more.
template <LayerOps Ops>
typename Ops::Value decoder_layer(Ops& ops, const ModelConfig& config, const LayerWeights& w,
                                  int32_t layer, typename Ops::Value x,
                                  std::optional<std::span<const int64_t>> wanted = std::nullopt,
                                  StepWatcher* watcher = nullptr) {
  if (config.parallel) {
    return parallel_block(ops, config, w, layer, std::move(x), wanted, watcher);
  }
  x = attention_block(ops, config, w, layer, std::move(x), watcher);
  if (wanted) x = select_rows(ops, std::move(x), *wanted);
  return mlp_block(ops, config, w, std::move(x));
}

// A step's tokens -> hidden states after the final norm, of the wanted rows only (ascending; may be
// none): nobody needs the others once the last layer has stored their K and V.
template <LayerOps Ops>
typename Ops::Value transformer(Ops& ops, const ModelWeights& w, const StepRows& step,
                                const ForwardOptions& options = {}) {
  const ModelConfig& config = w.config;
  StepWatcher* const watcher = options.watcher;
  const std::span<const int64_t> wanted_rows = step.wanted_rows();
  typename Ops::Value x = options.first_layer == 0
                              ? embedding(ops, w, step)
                              : ops.rows_of(options.residual, step.num_rows(), config.hidden_size);
  for (int32_t layer = options.first_layer; layer < config.num_layers; ++layer) {
    const LayerWeights& weights = w.layers[static_cast<size_t>(layer)];
    const bool last = layer + 1 == config.num_layers;
    if (watcher) watcher->residual(layer, ops.floats(x), ops.rows(x));
    if (last && wanted_rows.empty()) {
      store_block(ops, config, weights, layer, x);
      return ops.select_rows(x, wanted_rows);
    }
    x = decoder_layer(ops, config, weights, layer, std::move(x),
                      last ? std::optional(wanted_rows) : std::nullopt, watcher);
  }
  if (watcher) watcher->residual(config.num_layers, ops.floats(x), ops.rows(x));
  return ops.norm(x, w.final_norm);
}

}  // namespace lowkey
