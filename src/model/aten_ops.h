#pragma once
// The operations of ops.h on libtorch: prompts that PrefillOps does not suit, training, tests.
// Written with out-of-place operations, so that autograd can follow them; attend (the packed cache)
// and route alone leave ATen, and training replaces them. Belongs to one thread.
//
// At inference the rows of a step are shared out over our own pool, and ATen runs single-threaded
// on each of its threads: libgomp's threads spin while they wait, which on a busy machine makes a
// prefill ten times slower (docs/decisions.md).
#include <ATen/core/Tensor.h>

#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

#include "core/threads.h"
#include "model/cache_attention.h"
#include "model/ops.h"
#include "model/routing.h"
#include "model/simulated_ops.h"
#include "model/step.h"
#include "model/weights.h"

namespace lowkey {

// A matrix of floats as ATen sees it, in its own memory; undefined if it is kept as anything else.
at::Tensor float_tensor_of(const WeightMatrix& matrix);

// heads: [rows, heads, head_dim]; cos, sin: [rows, 1, half_dim]. The first 2 * half_dim channels of
// each head turned, the others as they are.
at::Tensor turned_heads(const at::Tensor& heads, const at::Tensor& cos, const at::Tensor& sin);

class AtenOps {
 public:
  using Value = at::Tensor;  // float32 [rows, channels], whatever the weights are stored as

  // Throws Error kUnsupported for a rotated model of a size there is no Hadamard matrix for.
  AtenOps(const ModelConfig& config, ThreadPool& pool, CacheAttention& attention);

  // Before each step: where its rows belong. `step` must outlive the step.
  void begin(const StepRows& step);

  Value rows_of(const float* x, int64_t rows, int64_t cols);
  Value zeros(int64_t rows, int64_t cols);
  int64_t rows(const Value& x) const;
  const float* floats(const Value& x) const;
  Value embed(const WeightMatrix& table, std::span<const int32_t> tokens);
  Value linear(const Value& x, const Linear& linear);
  template <std::same_as<Linear>... Linears>
  std::array<Value, sizeof...(Linears)> linears(const Value& x, const Linears&... weights) {
    return {linear(x, weights)...};
  }
  Value norm(const Value& x, const Norm& norm);
  Value norm_heads(const Value& x, const std::vector<float>& weight, int32_t num_heads);
  Value rope(const Value& x, int32_t num_heads, RopeUse use);
  Value turn(const Value& x, int32_t parts);
  Value attend(int32_t layer, const Value& q, const Value& k, const Value& v);
  void store(int32_t layer, const Value& k, const Value& v);
  Value activate(const Value& x);
  Value gate(const Value& x, const Value& y);
  Value add(const Value& x, const Value& y);
  Value scale(const Value& x, float factor);
  Value select_rows(const Value& x, std::span<const int64_t> rows);
  Value add_to_rows(const Value& x, const Value& y, std::span<const int64_t> rows,
                    std::span<const float> factors);
  const Routing& route(const Value& x, const Linear& router);

  // Not an operation of layers: straight into the caller's memory [rows, head.rows()].
  void logits(const WeightMatrix& head, const float* hidden, int64_t rows, float* out);

 private:
  // The weights as ATen sees them: the same memory where it can read it, otherwise unpacked into a
  // buffer that the next call reuses.
  at::Tensor tensor_of(const WeightMatrix& matrix);

  // work(first row, number of rows) -> those rows of the result [rows, cols], on all threads; in
  // one piece, and visible to autograd, where gradients are wanted.
  template <typename Work>
  Value by_rows(int64_t rows, int64_t cols, const Work& work);

  at::Tensor activated(const at::Tensor& x) const;

  const ModelConfig config_;  // what inputs of matrices are rounded to
  const NormKind norm_;
  const Activation activation_;
  const double norm_eps_;
  const int64_t head_dim_;
  ThreadPool& pool_;
  CacheAttention& attention_;
  Router router_;
  Rotations rotations_;
  at::Tensor unpacked_;
  const StepRows* step_ = nullptr;
};

}  // namespace lowkey
