#include "model/random_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "core/half.h"
#include "core/rng.h"

namespace lowkey::test {
namespace {

// A window that bites within a hundred tokens, and one that ends within a page.
constexpr int32_t kWindow = 19;
constexpr int32_t kLongWindow = 40;

void set_experts(ModelConfig& c, int32_t experts, int32_t chosen, bool normalize) {
  for (LayerConfig& layer : c.layers) layer.experts = true;
  c.num_experts = experts;
  c.experts_per_token = chosen;
  c.expert_intermediate_size = 56;
  c.normalize_expert_weights = normalize;
}

void set_rope_scaling(RopeConfig& rope, RopeScaling scaling) {
  rope.scaling = scaling;
  rope.factor = 4.0;
  rope.original_context = 64;
  if (scaling == RopeScaling::kYarn) rope.attention_factor = 0.1 * std::log(4.0) + 1;
}

void set_layer_norm(ModelConfig& c, bool bias) {
  c.norm = NormKind::kLayer;
  c.norm_bias = bias;
}

void set_alibi(ModelConfig& c) {
  c.alibi = true;
  for (LayerConfig& layer : c.layers) layer.rope = RopeUse::kNone;
}

void set_positions(ModelConfig& c) {
  c.learned_positions = true;
  c.position_offset = 2;
  for (LayerConfig& layer : c.layers) layer.rope = RopeUse::kNone;
}

void set_parallel(ModelConfig& c, bool shared) {
  c.parallel = true;
  c.shared_norm = shared;
}

void set_local_layers(ModelConfig& c) {
  c.layers[0] = {.window = kWindow, .rope = RopeUse::kLocal, .experts = c.layers[0].experts};
  c.layers[2] = {.window = kLongWindow, .rope = RopeUse::kLocal, .experts = c.layers[2].experts};
  c.local_rope.base = 1000.0;
  c.local_rope.dim = c.head_dim;
}

// Of families, as their configurations fill the fields.
void set_gemma(ModelConfig& c) {
  set_local_layers(c);
  c.norm_plus_one = c.post_norms = c.qk_norm = true;
  c.activation = Activation::kGeluTanh;
  c.embedding_scale = std::sqrt(c.hidden_size);
  c.attention_scale = 1 / std::sqrt(c.head_dim + 8);
  c.attention_softcap = 50.0;
  c.logit_softcap = 30.0;
  set_rope_scaling(c.rope, RopeScaling::kLinear);
}

void set_opt(ModelConfig& c) {
  set_layer_norm(c, true);
  set_positions(c);
  c.gated_mlp = false;
  c.activation = Activation::kRelu;
  c.qkv_bias = c.attn_out_bias = c.mlp_bias = true;
}

void set_falcon(ModelConfig& c) {
  set_layer_norm(c, true);
  set_parallel(c, true);
  c.num_kv_heads = 1;
  c.gated_mlp = false;
  c.activation = Activation::kGelu;
}

}  // namespace

ModelConfig small_config() {
  ModelConfig c;
  c.architecture = "random";
  c.num_layers = 3;
  c.hidden_size = 72;
  c.intermediate_size = 104;
  c.num_qo_heads = 6;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.vocab_size = 131;
  c.max_context = 256;
  c.rope.dim = c.head_dim;
  c.layers.resize(3);
  c.attention_scale = 1 / std::sqrt(c.head_dim);
  return c;
}

const std::vector<ConfigVariation>& config_variations() {
  static const std::vector<ConfigVariation> all = {
      {"plain", [](ModelConfig&) {}},
      {"tied", [](ModelConfig& c) { c.tied_embeddings = true; }},
      {"all biases", [](ModelConfig& c) { c.qkv_bias = c.attn_out_bias = c.mlp_bias = true; }},
      {"LayerNorm", [](ModelConfig& c) { set_layer_norm(c, false); }},
      {"LayerNorm with bias", [](ModelConfig& c) { set_layer_norm(c, true); }},
      {"norms less one", [](ModelConfig& c) { c.norm_plus_one = true; }},
      {"post norms", [](ModelConfig& c) { c.post_norms = true; }},
      {"QK norm", [](ModelConfig& c) { c.qk_norm = true; }},
      {"partial RoPE", [](ModelConfig& c) { c.rope.dim = 8; }},
      {"linear RoPE", [](ModelConfig& c) { set_rope_scaling(c.rope, RopeScaling::kLinear); }},
      {"llama3 RoPE", [](ModelConfig& c) { set_rope_scaling(c.rope, RopeScaling::kLlama3); }},
      {"YaRN", [](ModelConfig& c) { set_rope_scaling(c.rope, RopeScaling::kYarn); }},
      {"RoPE divisors",
       [](ModelConfig& c) {
         c.rope.freq_divisors = {1, 1.5f, 2, 2.5f, 3, 8, 16, 32};
         c.rope.attention_factor = 1.19;
       }},
      {"a layer without RoPE", [](ModelConfig& c) { c.layers[1].rope = RopeUse::kNone; }},
      {"no RoPE at all",
       [](ModelConfig& c) {
         for (LayerConfig& layer : c.layers) layer.rope = RopeUse::kNone;
       }},
      {"local RoPE",
       [](ModelConfig& c) {
         c.layers[1].rope = RopeUse::kLocal;
         c.local_rope.base = 100.0;
         c.local_rope.dim = 12;
       }},
      {"windows", set_local_layers},
      {"a window everywhere",
       [](ModelConfig& c) {
         for (LayerConfig& layer : c.layers) layer.window = kWindow;
       }},
      {"parallel", [](ModelConfig& c) { set_parallel(c, false); }},
      {"parallel, one norm", [](ModelConfig& c) { set_parallel(c, true); }},
      {"ungated MLP", [](ModelConfig& c) { c.gated_mlp = false; }},
      {"GELU", [](ModelConfig& c) { c.activation = Activation::kGelu; }},
      {"GELU by tanh", [](ModelConfig& c) { c.activation = Activation::kGeluTanh; }},
      {"ReLU", [](ModelConfig& c) { c.activation = Activation::kRelu; }},
      {"scaled embedding", [](ModelConfig& c) { c.embedding_scale = 8.5; }},
      {"scaled scores", [](ModelConfig& c) { c.attention_scale = 0.4; }},
      {"softcapped scores", [](ModelConfig& c) { c.attention_softcap = 1.5; }},
      {"softcapped logits", [](ModelConfig& c) { c.logit_softcap = 5.0; }},
      {"ALiBi", set_alibi},
      {"learned positions", set_positions},
      {"experts", [](ModelConfig& c) { set_experts(c, 5, 2, true); }},
      {"experts, weights as they are", [](ModelConfig& c) { set_experts(c, 7, 3, false); }},
      {"experts in one layer",
       [](ModelConfig& c) {
         set_experts(c, 4, 1, true);
         c.layers[0].experts = c.layers[2].experts = false;
       }},
      {"Gemma", set_gemma},
      {"OPT", set_opt},
      {"Falcon", set_falcon},
      {"Qwen3-MoE",
       [](ModelConfig& c) {
         set_experts(c, 8, 3, true);
         c.qk_norm = true;
       }},
  };
  return all;
}

ModelConfig random_config(uint64_t seed) {
  SplitMix64 rng(seed);
  const auto flip = [&] { return rng.below(2) == 0; };
  ModelConfig c = small_config();
  c.num_kv_heads = flip() ? 2 : rng.below(2) == 0 ? 1 : 3;
  c.tied_embeddings = flip();
  c.qkv_bias = flip();
  c.attn_out_bias = flip();
  c.mlp_bias = flip();
  if (flip()) {
    set_layer_norm(c, flip());
  } else {
    c.norm_plus_one = flip();
  }
  c.post_norms = flip();
  c.qk_norm = flip();
  if (flip()) set_parallel(c, flip());
  c.gated_mlp = flip();
  c.activation = static_cast<Activation>(rng.below(4));
  if (flip()) c.embedding_scale = 3.0;
  if (flip()) c.attention_scale = 0.3;
  if (flip()) c.attention_softcap = 2.0;
  if (flip()) c.logit_softcap = 10.0;
  if (flip()) set_experts(c, 6, 2, flip());
  c.layers[1].experts = c.layers[1].experts && flip();
  if (flip()) set_local_layers(c);
  c.rope.dim = flip() ? c.head_dim : 10;
  set_rope_scaling(c.rope, static_cast<RopeScaling>(rng.below(4)));
  c.layers[1].rope = flip() ? RopeUse::kNone : RopeUse::kMain;
  switch (rng.below(4)) {
    case 0: set_alibi(c); break;
    case 1: set_positions(c); break;
    default: break;
  }
  return c;
}

RandomModel::RandomModel(ModelConfig config, DType dtype, uint64_t seed)
    : config_(std::move(config)), dtype_(dtype), seed_(seed) {
  const ModelConfig& c = config_;
  const int64_t hidden = c.hidden_size;
  const int64_t q = int64_t{c.num_qo_heads} * c.head_dim;
  const int64_t kv = int64_t{c.num_kv_heads} * c.head_dim;
  const auto add_mlp = [&](const std::string& p, int64_t inner) {
    if (c.gated_mlp) add_linear(p + "gate", inner, hidden, c.mlp_bias);
    add_linear(p + "up", inner, hidden, c.mlp_bias);
    add_linear(p + "down", hidden, inner, c.mlp_bias);
  };
  add("embed.weight", {c.vocab_size, hidden}, 0, 1);
  if (c.learned_positions) {
    add("positions.weight", {c.max_context + c.position_offset, hidden}, 0, 1);
  }
  for (int32_t l = 0; l < c.num_layers; ++l) {
    const std::string p = fmt::format("layers.{}.", l);
    add_norm(p + "attn_norm", hidden, c.norm_bias);
    add_linear(p + "q", q, hidden, c.qkv_bias);
    add_linear(p + "k", kv, hidden, c.qkv_bias);
    add_linear(p + "v", kv, hidden, c.qkv_bias);
    add_linear(p + "o", hidden, q, c.attn_out_bias);
    if (c.qk_norm) add_norm(p + "q_norm", c.head_dim, false);
    if (c.qk_norm) add_norm(p + "k_norm", c.head_dim, false);
    if (!(c.parallel && c.shared_norm)) add_norm(p + "mlp_norm", hidden, c.norm_bias);
    if (c.post_norms) add_norm(p + "post_attn_norm", hidden, c.norm_bias);
    if (c.post_norms) add_norm(p + "post_mlp_norm", hidden, c.norm_bias);
    if (!c.layers[static_cast<size_t>(l)].experts) {
      add_mlp(p, c.intermediate_size);
      continue;
    }
    add_linear(p + "router", c.num_experts, hidden, false);
    for (int32_t e = 0; e < c.num_experts; ++e) {
      add_mlp(fmt::format("{}experts.{}.", p, e), c.expert_intermediate_size);
    }
  }
  add_norm("final_norm", hidden, c.norm_bias);
  if (!c.tied_embeddings) add("head.weight", {c.vocab_size, hidden}, 0, 1);
}

void RandomModel::add(const std::string& name, std::vector<int64_t> shape, double center,
                      double spread) {
  SplitMix64 rng(seed_++);
  Tensor tensor;
  int64_t count = 1;
  for (int64_t n : shape) count *= n;
  // Vectors stay floats, as in most files.
  tensor.view.dtype = shape.size() == 1 ? DType::kF32 : dtype_;
  const auto size = static_cast<size_t>(dtype_block_bytes(tensor.view.dtype));
  tensor.bytes.resize(static_cast<size_t>(count) * size);
  for (int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<float>(center + spread * (2 * rng.uniform() - 1));
    const BFloat16 rounded = float_to_bfloat16(value);
    std::memcpy(tensor.bytes.data() + static_cast<size_t>(i) * size,
                size == 4 ? static_cast<const void*>(&value) : &rounded, size);
  }
  tensor.view.name = name;
  tensor.view.shape = std::move(shape);
  tensor.view.data = tensor.bytes;  // a moved vector keeps its memory
  tensors_.emplace(name, std::move(tensor));
}

void RandomModel::add_linear(const std::string& name, int64_t out, int64_t in, bool bias) {
  add(name + ".weight", {out, in}, 0, std::sqrt(3.0 / static_cast<double>(in)));
  if (bias) add(name + ".bias", {out}, 0, 0.3);
}

void RandomModel::add_norm(const std::string& name, int64_t size, bool bias) {
  add(name + ".weight", {size}, config_.norm_plus_one ? 0.25 : 1, 0.3);
  if (bias) add(name + ".bias", {size}, 0, 0.3);
}

FindTensor RandomModel::find() const {
  return [this](std::string_view name) {
    const auto tensor = tensors_.find(name);
    return tensor == tensors_.end() ? nullptr : &tensor->second.view;
  };
}

ModelWeights RandomModel::weights(WeightStorage storage, ThreadPool& pool) const {
  return make_weights(config_, find(), 0, storage, pool, {});
}

}  // namespace lowkey::test
