#pragma once
// The operations a transformer is written over (decoder_layer.h). An implementation says what a
// Value is: rows of activations [rows, channels], movable. Operations that take a Value by value
// may reuse its memory; the others leave it alone. What a model's norm, activation and positions
// are, an implementation knows from its ModelConfig. Torch-free.
//
//   NativeOps  decode of few rows: no torch, no allocation                  native_ops.h
//   PrefillOps prompts in bf16, where the machine has it                    prefill_ops.h
//   AtenOps    everything else; differentiable but for attend and route     aten_ops.h
//
// Another way of computing (training on exact K and V, probing) is another implementation, or one
// that wraps an implementation and looks at what passes.
#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "model/routing.h"
#include "model/weights.h"

namespace lowkey {

template <typename Ops>
concept LayerOps = requires(Ops ops, typename Ops::Value x, const typename Ops::Value& y,
                            const Linear& linear, const WeightMatrix& table, const Norm& norm,
                            const std::vector<float>& weight, std::span<const int32_t> tokens,
                            std::span<const int64_t> rows, std::span<const float> factors,
                            const float* floats, float factor, int32_t n, RopeUse use) {
  requires std::movable<typename Ops::Value>;
  // Caller's rows, copied, or zeros: [n, n]. And a look at a Value's: how many, and the floats, row
  // by row.
  { ops.rows_of(floats, int64_t{n}, int64_t{n}) } -> std::same_as<typename Ops::Value>;
  { ops.zeros(int64_t{n}, int64_t{n}) } -> std::same_as<typename Ops::Value>;
  { ops.rows(y) } -> std::same_as<int64_t>;
  { ops.floats(y) } -> std::same_as<const float*>;
  // Rows of `table`: [tokens, hidden].
  { ops.embed(table, tokens) } -> std::same_as<typename Ops::Value>;
  // y W^T + bias, and several matrices over one input.
  { ops.linear(y, linear) } -> std::same_as<typename Ops::Value>;
  { ops.linears(y, linear, linear) } -> std::same_as<std::array<typename Ops::Value, 2>>;
  // The model's norm, row by row: y / sqrt(mean(y^2) + eps) * weight, or LayerNorm.
  { ops.norm(y, norm) } -> std::same_as<typename Ops::Value>;
  // The RMS norm of each of n heads of each row, all with the same weights [head_dim].
  { ops.norm_heads(std::move(x), weight, n) } -> std::same_as<typename Ops::Value>;
  // Turns n heads of each row to the row's position, by the angles of kMain or kLocal.
  { ops.rope(std::move(x), n, use) } -> std::same_as<typename Ops::Value>;
  // Causal attention of layer n on everything its sequences hold: q, k, v -> [rows, q channels].
  { ops.attend(n, y, y, y) } -> std::same_as<typename Ops::Value>;
  // What attend does besides, for rows whose results nobody wants: stores k, v in layer n.
  { ops.store(n, y, y) } -> std::same_as<void>;
  // The model's activation: act(x), and act(x) * y.
  { ops.activate(std::move(x)) } -> std::same_as<typename Ops::Value>;
  { ops.gate(std::move(x), y) } -> std::same_as<typename Ops::Value>;
  // x + y, and x * factor.
  { ops.add(std::move(x), y) } -> std::same_as<typename Ops::Value>;
  { ops.scale(std::move(x), factor) } -> std::same_as<typename Ops::Value>;
  // Some of the rows, in ascending order; and back: row rows[i] of x += factors[i] * row i of y.
  { ops.select_rows(y, rows) } -> std::same_as<typename Ops::Value>;
  { ops.add_to_rows(std::move(x), y, rows, factors) } -> std::same_as<typename Ops::Value>;
  // Which rows of y go to which expert, by the router's logits. Valid until the next call.
  { ops.route(y, linear) } -> std::same_as<const Routing&>;
};

// What an implementation may offer besides, all three together: sequences of operations whose
// intermediate rows never reach memory as floats.
template <typename Ops>
concept FusedOps = LayerOps<Ops> &&
    requires(Ops ops, typename Ops::Value x, const typename Ops::Value& y, const Linear& linear,
             const Norm& norm, const Mlp& mlp) {
  // linears(norm(y), ...).
  {
    ops.linears_of_norm(y, norm, linear, linear)
    } -> std::same_as<std::array<typename Ops::Value, 2>>;
  // x + linear(y).
  { ops.add_linear(std::move(x), y, linear) } -> std::same_as<typename Ops::Value>;
  // x + down(silu(gate(n)) * up(n)), with n = norm(x).
  { ops.add_silu_mlp(std::move(x), norm, mlp) } -> std::same_as<typename Ops::Value>;
};

// And what rotated models need (simulation.h).
template <typename Ops>
concept TurningOps = LayerOps<Ops> && requires(Ops ops, typename Ops::Value x, int32_t n) {
  // Each of n equal parts of each row times H / sqrt(their size), H a Hadamard matrix.
  { ops.turn(std::move(x), n) } -> std::same_as<typename Ops::Value>;
};

}  // namespace lowkey
