#pragma once
// The Llama architecture, written once over the operations of ops.h. Torch-free.
#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "model/forward_options.h"
#include "model/ops.h"
#include "model/weights.h"

namespace lowkey {

// Some implementations do several operations in one pass over memory (FusedOps in ops.h); the
// others do what that means.
template <LayerOps Ops, std::same_as<Linear>... Linears>
std::array<typename Ops::Value, sizeof...(Linears)> linears_of_norm(Ops& ops,
                                                                    const typename Ops::Value& x,
                                                                    const std::vector<float>& norm,
                                                                    const Linears&... weights) {
  if constexpr (FusedOps<Ops>) {
    return ops.linears_of_norm(x, norm, weights...);
  } else {
    return ops.linears(ops.rms_norm(x, norm), weights...);
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
typename Ops::Value attention_block(Ops& ops, const ModelConfig& config, const LayerWeights& w,
                                    int32_t layer, typename Ops::Value x, StepWatcher* watcher) {
  auto [q, k, v] = linears_of_norm(ops, x, w.attn_norm, w.q, w.k, w.v);
  q = ops.rope(std::move(q), config.num_qo_heads);
  k = ops.rope(std::move(k), config.num_kv_heads);
  if (watcher) watcher->attention(layer, ops.floats(q), ops.floats(k), ops.floats(v), ops.rows(q));
  return add_linear(ops, std::move(x), ops.attend(layer, q, k, v), w.o);
}

// The last layer of a step nobody wants results of: its keys and values are all that stays.
template <LayerOps Ops>
void store_block(Ops& ops, const ModelConfig& config, const LayerWeights& w, int32_t layer,
                 const typename Ops::Value& x) {
  auto [k, v] = linears_of_norm(ops, x, w.attn_norm, w.k, w.v);
  k = ops.rope(std::move(k), config.num_kv_heads);
  ops.store(layer, k, v);
}

template <LayerOps Ops>
typename Ops::Value mlp_block(Ops& ops, const LayerWeights& w, typename Ops::Value x) {
  if constexpr (FusedOps<Ops>) {
    return ops.add_gated_mlp(std::move(x), w.mlp_norm, w.gate, w.up, w.down);
  } else {
    auto [gate, up] = ops.linears(ops.rms_norm(x, w.mlp_norm), w.gate, w.up);
    return ops.add(std::move(x), ops.linear(ops.silu_mul(std::move(gate), up), w.down));
  }
}

// Token ids -> hidden states after the final norm, of the wanted rows only (ascending; may be
// none): nobody needs the others once the last layer has stored their K and V.
template <LayerOps Ops>
typename Ops::Value transformer(Ops& ops, const ModelWeights& w, std::span<const int32_t> tokens,
                                std::span<const int64_t> wanted_rows,
                                const ForwardOptions& options = {}) {
  StepWatcher* const watcher = options.watcher;
  typename Ops::Value x =
      options.first_layer == 0
          ? ops.embed(w.embedding, tokens)
          : ops.rows_of(options.residual, std::ssize(tokens), w.config.hidden_size);
  for (int32_t layer = options.first_layer; layer < w.config.num_layers; ++layer) {
    const LayerWeights& weights = w.layers[static_cast<size_t>(layer)];
    const bool last = layer + 1 == w.config.num_layers;
    if (watcher) watcher->residual(layer, ops.floats(x), ops.rows(x));
    if (last && wanted_rows.empty()) {
      store_block(ops, w.config, weights, layer, x);
      return ops.select_rows(std::move(x), wanted_rows);
    }
    x = attention_block(ops, w.config, weights, layer, std::move(x), watcher);
    if (last) x = ops.select_rows(std::move(x), wanted_rows);
    x = mlp_block(ops, weights, std::move(x));
  }
  if (watcher) watcher->residual(w.config.num_layers, ops.floats(x), ops.rows(x));
  return ops.rms_norm(x, w.final_norm);
}

}  // namespace lowkey
