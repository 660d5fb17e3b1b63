#include "model/exact_ops.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.h"
#include "model/decoder_layer.h"
#include "model/simulation.h"

namespace lowkey {

static_assert(TurningOps<ExactOps>);

namespace {

// Queries that are computed together. Keys that lie after all of them are not multiplied: of a text
// from its beginning that is nearly half.
constexpr int64_t kQueryRows = 128;

at::Tensor copy_of(const std::vector<float>& values, at::IntArrayRef shape) {
  return at::from_blob(const_cast<float*>(values.data()), shape, at::kFloat).clone();
}

at::Tensor copy_of(std::span<const int64_t> values) {
  return at::from_blob(const_cast<int64_t*>(values.data()), {std::ssize(values)}, at::kLong)
      .clone();
}

at::Tensor product(const at::Tensor& x, const at::Tensor& weight) {
  return at::linear(x.to(weight.scalar_type()), weight).to(at::kFloat);
}

// A matrix of the model as a term of a product.
at::Tensor weight_of(const WeightMatrix& matrix) {
  at::Tensor weight = float_tensor_of(matrix);
  LOWKEY_CHECK(weight.defined(), "ExactOps on weights that are neither f32 nor bf16");
  return weight;
}

at::Tensor positions(int64_t first, int64_t count) {
  return at::arange(first, first + count, at::kFloat);
}

}  // namespace

ExactOps::ExactOps(const ModelConfig& config, LinearHook hook)
    : ExactOpsParts(config),
      AtenOps(config, pool, attention),
      config_(config),
      rope_(config),
      hook_(std::move(hook)) {
  if (config.alibi) alibi_slopes_ = alibi_slopes(config.num_qo_heads);
}

void ExactOps::begin(std::span<const int32_t> tokens, const ExactPrefix& prefix) {
  LOWKEY_CHECK(prefix.k.size() == prefix.v.size(), "{} layers of keys, {} of values",
               prefix.k.size(), prefix.v.size());
  LOWKEY_CHECK(prefix.k.empty() || std::ssize(prefix.k) == config_.num_layers,
               "a prefix of {} layers for {}", prefix.k.size(), config_.num_layers);
  step_.assign_exact(tokens, prefix.length(), config_, rope_);
  AtenOps::begin(step_);
  prefix_ = prefix;
  main_ = angles_of(RopeUse::kMain);
  local_ = angles_of(RopeUse::kLocal);
  blocks_.clear();
}

ExactOps::Angles ExactOps::angles_of(RopeUse use) const {
  const StepRows::Angles& angles = step_.angles(use);
  const std::array<int64_t, 3> shape{step_.num_rows(), 1, angles.half_dim};
  return {copy_of(angles.cos, shape), copy_of(angles.sin, shape)};
}

ExactOps::Value ExactOps::linear(const Value& x, const Linear& linear) {
  LinearTerms terms{.x = x, .weight = {}, .bias = {}};
  if (hook_) hook_(linear, terms);
  if (!terms.weight.defined()) {
    weight_of(linear.weight);  // never unpacked: the next matrix would take its place
    if (!terms.bias.defined()) return AtenOps::linear(terms.x, linear);
    terms.weight = weight_of(linear.weight);
  }
  if (is_simulated(config_)) {
    terms.x = rounded_activations(config_, terms.x);
    terms.weight = terms.weight.to(at::kFloat);
  }
  const at::Tensor y = product(terms.x, terms.weight);
  if (terms.bias.defined()) return y + terms.bias;
  return linear.bias.empty() ? y : y + copy_of(linear.bias, {std::ssize(linear.bias)});
}

ExactOps::Value ExactOps::rope(const Value& x, int32_t num_heads, RopeUse use) {
  const Angles& angles = use == RopeUse::kLocal ? local_ : main_;
  const at::Tensor heads = x.view({x.size(0), num_heads, config_.head_dim});
  return turned_heads(heads, angles.cos, angles.sin).view(x.sizes());
}

const std::vector<ExactOps::Block>& ExactOps::blocks(int32_t window) {
  std::vector<Block>& blocks = blocks_[window];
  const int64_t before = prefix_.length(), rows = step_.num_rows();
  for (int64_t first = blocks.empty() ? 0 : rows; first < rows; first += kQueryRows) {
    Block block;
    block.first = first;
    block.count = std::min(kQueryRows, rows - first);
    if (window > 0) block.first_key = std::max<int64_t>(0, before + first - window + 1);
    block.keys = before + first + block.count - block.first_key;
    // How far back each key lies: negative for those still to come.
    const at::Tensor distance = positions(before + first, block.count).unsqueeze(1) -
                                positions(block.first_key, block.keys).unsqueeze(0);
    at::Tensor hidden = distance < 0;
    if (window > 0) hidden = hidden.logical_or(distance >= window);
    block.bias = at::zeros({block.count, block.keys}, at::kFloat)
                     .masked_fill(hidden, -std::numeric_limits<float>::infinity());
    const int64_t kv_heads = config_.num_kv_heads, group = config_.num_qo_heads / kv_heads;
    if (config_.alibi) {
      const at::Tensor slopes =
          copy_of(alibi_slopes_, {config_.num_qo_heads, 1, 1}) * config_.attention_scale;
      block.bias = (block.bias - slopes * distance).view({kv_heads, -1, block.keys});
    } else {
      block.bias = block.bias.repeat({group, 1}).unsqueeze(0);
    }
    blocks.push_back(std::move(block));
  }
  return blocks;
}

ExactOps::Value ExactOps::attend(int32_t layer, const Value& q, const Value& k, const Value& v) {
  const auto at_layer = static_cast<size_t>(layer);
  const int64_t rows = q.size(0), dim = config_.head_dim, kv_heads = config_.num_kv_heads;
  const int64_t group = config_.num_qo_heads / kv_heads;
  const auto all = [&](const std::vector<at::Tensor>& before, const at::Tensor& now) {
    at::Tensor heads = now.view({rows, kv_heads, dim});
    if (!before.empty()) heads = at::cat({before[at_layer], heads}, 0);
    return heads.transpose(0, 1).contiguous();  // [kv_heads, keys, dim]
  };
  const at::Tensor keys = all(prefix_.k, k), values = all(prefix_.v, v);
  // The query heads of one KV head are rows beside each other: fewer, larger products.
  const at::Tensor queries = q.view({rows, kv_heads, group, dim}).permute({1, 2, 0, 3});
  std::vector<at::Tensor> outputs;  // [rows of the block, kv_heads, group, dim]
  for (const Block& block : blocks(config_.layers[at_layer].window)) {
    const at::Tensor asked =
        queries.narrow(2, block.first, block.count).reshape({kv_heads, group * block.count, dim});
    const at::Tensor block_keys = keys.narrow(1, block.first_key, block.keys);
    const at::Tensor block_values = values.narrow(1, block.first_key, block.keys);
    at::Tensor out;  // [kv_heads, group * rows, dim]
    if (config_.attention_softcap == 0.0) {
      out = at::scaled_dot_product_attention(asked.unsqueeze(0), block_keys.unsqueeze(0),
                                             block_values.unsqueeze(0), block.bias.unsqueeze(0),
                                             /*dropout_p=*/0, /*is_causal=*/false,
                                             config_.attention_scale)
                .squeeze(0);
    } else {
      const double cap = config_.attention_softcap;
      const at::Tensor scores =
          at::matmul(asked, block_keys.transpose(1, 2)) * config_.attention_scale;
      out = at::matmul(at::softmax(cap * at::tanh(scores / cap) + block.bias, -1), block_values);
    }
    outputs.push_back(out.view({kv_heads, group, block.count, dim}).permute({2, 0, 1, 3}));
  }
  return at::cat(outputs, 0).reshape({rows, q.size(1)});
}

const Routing& ExactOps::route(const Value& x, const Linear& router) {
  const int64_t experts = router.weight.rows();
  at::Tensor weight = at::empty({experts, router.weight.cols()}, at::kFloat);
  router.weight.dequantize_rows(0, experts, weight.mutable_data_ptr<float>());
  at::Tensor logits = at::linear(x, weight);
  if (!router.bias.empty()) logits = logits + copy_of(router.bias, {experts});
  const at::Tensor numbers = logits.detach().contiguous();
  routing_.assign(numbers.const_data_ptr<float>(), x.size(0), static_cast<int32_t>(experts),
                  config_.experts_per_token, config_.normalize_expert_weights);

  // The same weights once more, in the same order, as functions of the logits.
  std::vector<at::Tensor> weights;
  const at::Tensor all = at::softmax(logits, -1);
  at::Tensor chosen = at::zeros_like(numbers);
  for (int32_t e = 0; e < experts; ++e) {
    chosen.select(1, e).index_fill_(0, copy_of(routing_.rows(e)), 1.0);
  }
  const at::Tensor total = (all * chosen).sum(-1);
  for (int32_t e = 0; e < experts; ++e) {
    const at::Tensor rows = copy_of(routing_.rows(e));
    const at::Tensor own = all.select(1, e).index_select(0, rows);
    weights.push_back(config_.normalize_expert_weights ? own / total.index_select(0, rows) : own);
  }
  routing_weights_ = at::cat(weights);
  return routing_;
}

ExactOps::Value ExactOps::add_to_rows(const Value& x, const Value& y, std::span<const int64_t> rows,
                                      std::span<const float> factors) {
  const int64_t first = factors.data() - routing_.weights(0).data();
  LOWKEY_CHECK(first >= 0 && first + std::ssize(factors) <= routing_weights_.numel(),
               "factors that are not the last route()'s");
  const at::Tensor by_row = routing_weights_.narrow(0, first, std::ssize(factors)).unsqueeze(1);
  return x.index_add(0, copy_of(rows), y * by_row);
}

ExactOps::Value ExactOps::logits(const WeightMatrix& head, const Value& hidden) const {
  const at::Tensor logits = product(hidden, weight_of(head));
  const double cap = config_.logit_softcap;
  return cap == 0.0 ? logits : cap * at::tanh(logits / cap);
}

std::vector<at::Tensor> layer_outputs(ExactOps& ops, const ModelWeights& weights,
                                      std::span<const int32_t> tokens, const ExactPrefix& prefix) {
  ops.begin(tokens, prefix);
  std::vector<at::Tensor> outputs;
  at::Tensor x = embedding(ops, weights, ops.step());
  for (int32_t layer = 0; layer < weights.config.num_layers; ++layer) {
    x = decoder_layer(ops, weights.config, weights.layers[static_cast<size_t>(layer)], layer, x);
    outputs.push_back(x);
  }
  return outputs;
}

}  // namespace lowkey
