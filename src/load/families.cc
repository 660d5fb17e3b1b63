// Each family: how its files fill ModelConfig, and what they call the weights. Defaults are those
// of transformers' configuration classes; GGUF's are llama.cpp's.
#include "load/families.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "load/gguf_config.h"
#include "load/hf_config.h"
#include "load/model_config.h"

namespace lowkey {
namespace {

// --- what several families share

// One switch for all four projections.
void read_attention_bias(const HfConfig& hf, ModelConfig& config) {
  config.qkv_bias = config.attn_out_bias = hf.flag("attention_bias", false);
}

// transformers slides every layer of these families and does not look at layer_types.
void slide_every_layer(const HfConfig& hf, int64_t window, ModelConfig& config) {
  if (window <= 0) return;
  const std::vector<bool> sliding = hf.sliding_layers(config, [](int32_t) { return true; });
  if (std::find(sliding.begin(), sliding.end(), false) != sliding.end())
    hf.unsupported("layer_types", "layers that do not slide are not known of this family");
  hf.set_windows(window, sliding, config);
}

// Qwen's: off unless switched on, and then from layer max_window_layers on.
void read_switched_windows(const HfConfig& hf, ModelConfig& config) {
  const int64_t window =
      hf.flag("use_sliding_window", false) ? hf.window("sliding_window", 4096) : 0;
  const int64_t first = hf.fields().get_int("max_window_layers").value_or(28);
  const auto slides = [&](int32_t layer) { return window > 0 && layer >= first; };
  hf.set_windows(window, hf.sliding_layers(config, slides), config);
}

void read_hf_experts(const HfConfig& hf, const char* count, int32_t most, int32_t used,
                     ModelConfig& config) {
  config.num_experts = hf.count(count, kMaxExperts, most);
  config.experts_per_token = hf.count("num_experts_per_tok", kMaxExperts, used);
}

// --- Llama 1 to 3, Vicuna, SmolLM 1 and 2

void llama_from_hf(const HfConfig& hf, ModelConfig& config) {
  hf.read_decoder({}, config);
  read_attention_bias(hf, config);
  config.mlp_bias = hf.flag("mlp_bias", false);
}

// GGUF says "llama" of Mistral and Mixtral too.
void llama_from_gguf(const GgufConfig& gguf, ModelConfig& config) {
  gguf.read_decoder({.experts = true, .windows = GgufWindows::kAll}, config);
  if (!gguf.has_experts()) return;
  config.architecture = "mixtral";
  gguf.read_experts("feed_forward_length", config);
}

// --- Mistral, Mixtral

void mistral_from_hf(const HfConfig& hf, ModelConfig& config) {
  hf.read_decoder({.default_kv_heads = 8}, config);
  slide_every_layer(hf, hf.window("sliding_window", 4096), config);
}

void mixtral_from_hf(const HfConfig& hf, ModelConfig& config) {
  hf.read_decoder(
      {.default_norm_eps = 1e-5, .default_rope_base = 1e6, .experts = true, .default_kv_heads = 8},
      config);
  slide_every_layer(hf, hf.window("sliding_window", 0), config);
  read_hf_experts(hf, "num_local_experts", 8, 2, config);
  config.expert_intermediate_size = config.intermediate_size;
  for (LayerConfig& layer : config.layers) layer.experts = true;
}

constexpr NameRow kMixtralNames[] = {
    {"layers.#.router", "blk.#.ffn_gate_inp", "model.layers.#.block_sparse_moe.gate"},
    {"layers.#.experts.@.gate", "blk.#.ffn_gate_exps",
     "model.layers.#.block_sparse_moe.experts.@.w1"},
    {"layers.#.experts.@.up", "blk.#.ffn_up_exps", "model.layers.#.block_sparse_moe.experts.@.w3"},
    {"layers.#.experts.@.down", "blk.#.ffn_down_exps",
     "model.layers.#.block_sparse_moe.experts.@.w2"},
};

// --- Qwen2, Qwen2.5, Qwen3

void qwen2_from_hf(const HfConfig& hf, ModelConfig& config) {
  hf.read_decoder({.default_kv_heads = 32}, config);
  config.qkv_bias = true;
  read_switched_windows(hf, config);
}

void plain_from_gguf(const GgufConfig& gguf, ModelConfig& config) {
  gguf.read_decoder({}, config);
}

void qwen3_from_hf(const HfConfig& hf, ModelConfig& config) {
  hf.read_decoder({.default_kv_heads = 32, .default_head_dim = 128}, config);
  config.qk_norm = true;
  read_attention_bias(hf, config);
  read_switched_windows(hf, config);
}

void qwen3_from_gguf(const GgufConfig& gguf, ModelConfig& config) {
  gguf.read_decoder({}, config);
  config.qk_norm = true;
}

void qwen3_moe_from_hf(const HfConfig& hf, ModelConfig& config) {
  hf.read_decoder({.experts = true, .default_kv_heads = 4}, config);
  config.qk_norm = true;
  read_attention_bias(hf, config);
  if (hf.flag("use_sliding_window", false))
    slide_every_layer(hf, hf.window("sliding_window", 4096), config);
  read_hf_experts(hf, hf.has("num_local_experts") ? "num_local_experts" : "num_experts", 128, 8,
                  config);
  config.expert_intermediate_size = hf.count("moe_intermediate_size", kMaxHidden, 768);
  config.normalize_expert_weights = hf.flag("norm_topk_prob", false);
  const int32_t step = hf.count("decoder_sparse_step", kMaxLayers, 1);
  const std::vector<int64_t> dense = hf.ints("mlp_only_layers").value_or(std::vector<int64_t>{});
  for (int32_t i = 0; i < config.num_layers; ++i) {
    config.layers[static_cast<size_t>(i)].experts =
        (i + 1) % step == 0 && std::find(dense.begin(), dense.end(), i) == dense.end();
  }
}

void qwen3_moe_from_gguf(const GgufConfig& gguf, ModelConfig& config) {
  gguf.read_decoder({.experts = true}, config);
  config.qk_norm = true;
  gguf.read_experts("expert_feed_forward_length", config);
}

// --- Falcon

// Three layouts: 7B (one key/value head, attention and MLP side by side behind one norm), 40B (more
// of them, two norms) and RW (one after the other, ALiBi).
void falcon_from_hf(const HfConfig& hf, ModelConfig& config) {
  const int32_t hidden = hf.count("hidden_size", kMaxHidden, 4544);
  hf.read_decoder({.intermediate = "ffn_hidden_size",
                   .activation = "activation",
                   .default_activation = "gelu",
                   .norm_eps = "layer_norm_epsilon",
                   .kv_heads = nullptr,
                   .default_norm_eps = 1e-5,
                   .default_tied = true,
                   .default_intermediate = 4 * hidden,
                   .default_context = 2048},
                  config);
  const bool grouped = hf.flag("new_decoder_architecture", false);
  if (grouped) {
    config.num_kv_heads = hf.count("num_kv_heads", kMaxHeads, config.num_qo_heads);
  } else {
    config.num_kv_heads = hf.flag("multi_query", true) ? 1 : config.num_qo_heads;
  }
  config.norm = NormKind::kLayer;
  config.norm_bias = true;
  config.gated_mlp = false;
  config.parallel = hf.flag("parallel_attn", true);
  if (grouped && !config.parallel)
    hf.unsupported("parallel_attn", "the new decoder is known in parallel only");
  const int32_t norms = hf.count("num_ln_in_parallel_attn", 2, grouped ? 2 : 1);
  if (norms == 2 && !grouped)
    hf.unsupported("num_ln_in_parallel_attn", "2 norms are known of the new decoder only");
  config.shared_norm = config.parallel && norms == 1;
  config.qkv_bias = config.attn_out_bias = config.mlp_bias = hf.flag("bias", false);
  config.alibi = hf.flag("alibi", false);
  if (!config.alibi) return;
  config.rope = RopeConfig{};
  for (LayerConfig& layer : config.layers) layer.rope = RopeUse::kNone;
}

void falcon_from_gguf(const GgufConfig& gguf, ModelConfig& config) {
  gguf.read_decoder({.norm_eps = "attention.layer_norm_epsilon"}, config);
  config.norm = NormKind::kLayer;
  config.norm_bias = true;
  config.gated_mlp = false;
  config.activation = Activation::kGelu;
  config.parallel = true;
  config.shared_norm = !gguf.has_tensor("blk.0.attn_norm_2.weight");
}

bool has_two_parallel_norms(const ModelConfig& config) {
  return config.parallel && !config.shared_norm;
}

constexpr NameRow kFalconNames[] = {
    {"embed", "token_embd", "transformer.word_embeddings"},
    {"layers.#.attn_norm", "blk.#.attn_norm_2", "transformer.h.#.ln_attn", has_two_parallel_norms},
    {"layers.#.mlp_norm", "blk.#.attn_norm", "transformer.h.#.ln_mlp", has_two_parallel_norms},
    {"layers.#.attn_norm", "blk.#.attn_norm", "transformer.h.#.input_layernorm"},
    {"layers.#.mlp_norm", "blk.#.ffn_norm", "transformer.h.#.post_attention_layernorm"},
    {"layers.#.q", "blk.#.attn_qkv", "transformer.h.#.self_attention.query_key_value"},
    {"layers.#.k", "blk.#.attn_qkv", "transformer.h.#.self_attention.query_key_value"},
    {"layers.#.v", "blk.#.attn_qkv", "transformer.h.#.self_attention.query_key_value"},
    {"layers.#.o", "blk.#.attn_output", "transformer.h.#.self_attention.dense"},
    {"layers.#.up", "blk.#.ffn_up", "transformer.h.#.mlp.dense_h_to_4h"},
    {"layers.#.down", "blk.#.ffn_down", "transformer.h.#.mlp.dense_4h_to_h"},
    {"final_norm", "output_norm", "transformer.ln_f"},
};

// --- OPT

void opt_from_hf(const HfConfig& hf, ModelConfig& config) {
  hf.require("do_layer_norm_before", true, "norms behind attention and MLP are not known here");
  hf.require("_remove_final_layer_norm", false, "a model without a final norm is not known here");
  hf.require("layer_norm_elementwise_affine", true, "norms without weights are not known here");
  hf.read_decoder({.intermediate = "ffn_dim",
                   .activation = "activation_function",
                   .default_activation = "relu",
                   .norm_eps = nullptr,
                   .kv_heads = nullptr,
                   .default_norm_eps = 1e-5,
                   .default_tied = true,
                   .reads_rope = false},
                  config);
  if (hf.count("word_embed_proj_dim", kMaxHidden, config.hidden_size) != config.hidden_size) {
    hf.unsupported("word_embed_proj_dim",
                   fmt::format("embeddings of another size than hidden_size {} are not known here",
                               config.hidden_size));
  }
  config.norm = NormKind::kLayer;
  config.norm_bias = true;
  config.gated_mlp = false;
  config.qkv_bias = config.attn_out_bias = config.mlp_bias = hf.flag("enable_bias", true);
  config.learned_positions = true;
  config.position_offset = 2;
  for (LayerConfig& layer : config.layers) layer.rope = RopeUse::kNone;
}

constexpr NameRow kOptNames[] = {
    {"embed", "", "model.decoder.embed_tokens"},
    {"positions", "", "model.decoder.embed_positions"},
    {"layers.#.attn_norm", "", "model.decoder.layers.#.self_attn_layer_norm"},
    {"layers.#.q", "", "model.decoder.layers.#.self_attn.q_proj"},
    {"layers.#.k", "", "model.decoder.layers.#.self_attn.k_proj"},
    {"layers.#.v", "", "model.decoder.layers.#.self_attn.v_proj"},
    {"layers.#.o", "", "model.decoder.layers.#.self_attn.out_proj"},
    {"layers.#.mlp_norm", "", "model.decoder.layers.#.final_layer_norm"},
    {"layers.#.up", "", "model.decoder.layers.#.fc1"},
    {"layers.#.down", "", "model.decoder.layers.#.fc2"},
    {"final_norm", "", "model.decoder.final_layer_norm"},
};

// As Meta's own files have them.
constexpr RenamedPrefix kOptRenamed[] = {{"decoder.", "model.decoder."}};

// --- Gemma 1 to 3

void set_gemma(ModelConfig& config) {
  config.post_norms = config.architecture != "gemma";
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
}

void read_gemma_from_hf(const HfConfig& hf, HfDecoder from, ModelConfig& config) {
  hf.require("use_bidirectional_attention", false, "only causal attention is known here");
  from.activation = hf.has("hidden_activation") ? "hidden_activation" : "hidden_act";
  from.default_activation = "gelu_pytorch_tanh";
  from.default_tied = true;
  from.default_heads = 8;
  from.default_kv_heads = 4;
  from.default_head_dim = 256;
  hf.read_decoder(from, config);
  set_gemma(config);
  config.norm_plus_one = true;
  read_attention_bias(hf, config);
  config.attention_scale = 1.0 / std::sqrt(hf.number("query_pre_attn_scalar", 256.0));
}

void gemma_from_hf(const HfConfig& hf, ModelConfig& config) {
  read_gemma_from_hf(hf, {}, config);
  // hidden_act of the first files says "gelu" and was never looked at.
  if (!hf.has("hidden_activation")) config.activation = Activation::kGeluTanh;
}

void gemma_from_gguf(const GgufConfig& gguf, ModelConfig& config) {
  gguf.read_decoder({}, config);
  set_gemma(config);
  config.activation = Activation::kGeluTanh;
}

void gemma2_from_hf(const HfConfig& hf, ModelConfig& config) {
  read_gemma_from_hf(hf, {}, config);
  config.attention_softcap = hf.cap("attn_logit_softcapping", 50.0);
  config.logit_softcap = hf.cap("final_logit_softcapping", 30.0);
  const auto slides = [](int32_t i) { return i % 2 == 0; };
  hf.set_windows(hf.window("sliding_window", 4096), hf.sliding_layers(config, slides), config);
}

// The scale of the two sizes whose heads are not hidden / heads wide; GGUF has no key for it.
void set_gemma_gguf_scale(const GgufConfig& gguf, int32_t layers_of_27b, ModelConfig& config) {
  if (gguf.has("attention.scale") || config.num_layers != layers_of_27b) return;
  config.attention_scale = 1.0 / std::sqrt(config.hidden_size / config.num_qo_heads);
}

void gemma2_from_gguf(const GgufConfig& gguf, ModelConfig& config) {
  gguf.read_decoder({.windows = GgufWindows::kPeriodic, .period = 2, .default_window = 4096},
                    config);
  set_gemma(config);
  config.activation = Activation::kGeluTanh;
  config.attention_softcap = gguf.cap("attn_logit_softcapping", 50.0);
  config.logit_softcap = gguf.cap("final_logit_softcapping", 30.0);
  set_gemma_gguf_scale(gguf, 46, config);
}

// Sliding layers have a rope of their own, even where the window covers the context.
void set_local_rope(const std::vector<bool>& sliding, const RopeConfig& local,
                    ModelConfig& config) {
  config.local_rope = local;
  for (size_t layer = 0; layer < sliding.size(); ++layer) {
    if (sliding[layer]) config.layers[layer].rope = RopeUse::kLocal;
  }
}

void gemma3_from_hf(const HfConfig& hf, ModelConfig& config) {
  read_gemma_from_hf(hf,
                     {.reads_rope = false,
                      .default_layers = 26,
                      .default_hidden = 2304,
                      .default_intermediate = 9216,
                      .default_vocab = 262208,
                      .default_context = 131072},
                     config);
  config.qk_norm = true;
  config.attention_softcap = hf.cap("attn_logit_softcapping", 0.0);
  config.logit_softcap = hf.cap("final_logit_softcapping", 0.0);
  const int32_t pattern = hf.count("sliding_window_pattern", kMaxLayers, 6);
  const std::vector<bool> sliding =
      hf.sliding_layers(config, [&](int32_t i) { return (i + 1) % pattern != 0; });

  // transformers 5 has an object per kind of layer; before, rope_scaling held for the full ones.
  const nlohmann::json nothing = nlohmann::json::object();
  const JsonFields none(nothing, hf.fields().source_name(), "rope_parameters.");
  const JsonFields kinds = hf.fields().get_object("rope_parameters").value_or(none);
  if (kinds.has("rope_type") || kinds.has("rope_theta"))
    hf.unsupported("rope_parameters", "one rope for both kinds of layer is not known of Gemma 3");
  const JsonFields main = kinds.get_object("full_attention")
                              .value_or(hf.fields().get_object("rope_scaling").value_or(none));
  config.rope = hf.read_rope(main, hf.fields(), 1e6, 0, config);
  const RopeConfig local = hf.read_rope(kinds.get_object("sliding_attention").value_or(none), none,
                                        hf.number("rope_local_base_freq", 1e4), 0, config);
  hf.set_windows(hf.window("sliding_window", 4096), sliding, config);
  set_local_rope(sliding, local, config);
}

void gemma3_from_gguf(const GgufConfig& gguf, ModelConfig& config) {
  const GgufDecoder from{.windows = GgufWindows::kPeriodic, .period = 6};
  gguf.read_decoder(from, config);
  set_gemma(config);
  config.activation = Activation::kGeluTanh;
  config.qk_norm = true;
  config.logit_softcap = gguf.cap("final_logit_softcapping", 0.0);
  set_gemma_gguf_scale(gguf, 62, config);
  RopeConfig local;
  local.base = gguf.number("rope.freq_base_swa", 1e4);
  local.dim = config.rope.dim;
  set_local_rope(gguf.sliding_layers(from, config), local, config);
}

constexpr NameRow kGemmaNames[] = {
    {"layers.#.post_attn_norm", "blk.#.post_attention_norm",
     "model.layers.#.post_attention_layernorm"},
    {"layers.#.mlp_norm", "blk.#.ffn_norm", "model.layers.#.pre_feedforward_layernorm"},
    {"layers.#.post_mlp_norm", "blk.#.post_ffw_norm", "model.layers.#.post_feedforward_layernorm"},
};

// Gemma 3 that sees: older files and those of transformers 5.
constexpr RenamedPrefix kGemma3Renamed[] = {
    {"language_model.model.", "model."},
    {"model.language_model.", "model."},
    {"language_model.lm_head.", "lm_head."},
};
constexpr std::string_view kGemma3Ignored[] = {
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
};

// --- Phi-3, Phi-3.5, Phi-4

void phi3_from_hf(const HfConfig& hf, ModelConfig& config) {
  hf.read_decoder({.default_norm_eps = 1e-5, .default_original_context = 4096}, config);
  slide_every_layer(hf, hf.window("sliding_window", 0), config);
}

void phi3_from_gguf(const GgufConfig& gguf, ModelConfig& config) {
  gguf.read_decoder({.windows = GgufWindows::kAll}, config);
}

constexpr NameRow kPhi3Names[] = {
    {"layers.#.q", "blk.#.attn_qkv", "model.layers.#.self_attn.qkv_proj"},
    {"layers.#.k", "blk.#.attn_qkv", "model.layers.#.self_attn.qkv_proj"},
    {"layers.#.v", "blk.#.attn_qkv", "model.layers.#.self_attn.qkv_proj"},
    {"layers.#.gate", "blk.#.ffn_up", "model.layers.#.mlp.gate_up_proj"},
    {"layers.#.up", "blk.#.ffn_up", "model.layers.#.mlp.gate_up_proj"},
};

// --- SmolLM3

void smollm3_from_hf(const HfConfig& hf, ModelConfig& config) {
  hf.read_decoder({.default_rope_base = 2e6, .default_tied = true, .default_kv_heads = 4}, config);
  read_attention_bias(hf, config);
  config.mlp_bias = hf.flag("mlp_bias", false);
  const int32_t interval = hf.count("no_rope_layer_interval", kMaxLayers, 4);
  const auto rotates = hf.ints("no_rope_layers");  // 1 where the layer does have rope
  if (rotates && rotates->size() < config.layers.size())
    hf.corrupt("no_rope_layers", fmt::format("is shorter than {} layers", config.num_layers));
  for (int32_t i = 0; i < config.num_layers; ++i) {
    const auto at = static_cast<size_t>(i);
    const bool rope = rotates ? (*rotates)[at] != 0 : (i + 1) % interval != 0;
    if (!rope) config.layers[at].rope = RopeUse::kNone;
  }
  const int64_t window = hf.flag("use_sliding_window", false) ? hf.window("sliding_window", 0) : 0;
  const auto slides = [&](int32_t i) {
    return window > 0 && config.layers[static_cast<size_t>(i)].rope == RopeUse::kNone;
  };
  hf.set_windows(window, hf.sliding_layers(config, slides), config);
}

// llama.cpp's every fourth, for which there is no key.
void smollm3_from_gguf(const GgufConfig& gguf, ModelConfig& config) {
  gguf.read_decoder({}, config);
  for (size_t i = 3; i < config.layers.size(); i += 4) config.layers[i].rope = RopeUse::kNone;
}

// --- the table

constexpr Family kFamilies[] = {
    {.name = "llama",
     .hugging_face = {"LlamaForCausalLM", "llama"},
     .gguf = "llama",
     .from_hugging_face = llama_from_hf,
     .from_gguf = llama_from_gguf,
     .interleaved_in_gguf = true},
    {.name = "mistral",
     .hugging_face = {"MistralForCausalLM", "mistral"},
     .from_hugging_face = mistral_from_hf},
    {.name = "mixtral",
     .hugging_face = {"MixtralForCausalLM", "mixtral"},
     .from_hugging_face = mixtral_from_hf,
     .names = kMixtralNames,
     .interleaved_in_gguf = true},
    {.name = "qwen2",
     .hugging_face = {"Qwen2ForCausalLM", "qwen2"},
     .gguf = "qwen2",
     .from_hugging_face = qwen2_from_hf,
     .from_gguf = plain_from_gguf},
    {.name = "qwen3",
     .hugging_face = {"Qwen3ForCausalLM", "qwen3"},
     .gguf = "qwen3",
     .from_hugging_face = qwen3_from_hf,
     .from_gguf = qwen3_from_gguf},
    {.name = "qwen3_moe",
     .hugging_face = {"Qwen3MoeForCausalLM", "qwen3_moe"},
     .gguf = "qwen3moe",
     .from_hugging_face = qwen3_moe_from_hf,
     .from_gguf = qwen3_moe_from_gguf},
    {.name = "falcon",
     .hugging_face = {"FalconForCausalLM", "falcon"},
     .gguf = "falcon",
     .from_hugging_face = falcon_from_hf,
     .from_gguf = falcon_from_gguf,
     .names = kFalconNames,
     .qkv_by_kv_head = true},
    {.name = "opt",
     .hugging_face = {"OPTForCausalLM", "opt"},
     .from_hugging_face = opt_from_hf,
     .names = kOptNames,
     .renamed = kOptRenamed},
    {.name = "gemma",
     .hugging_face = {"GemmaForCausalLM", "gemma"},
     .gguf = "gemma",
     .from_hugging_face = gemma_from_hf,
     .from_gguf = gemma_from_gguf},
    {.name = "gemma2",
     .hugging_face = {"Gemma2ForCausalLM", "gemma2"},
     .gguf = "gemma2",
     .from_hugging_face = gemma2_from_hf,
     .from_gguf = gemma2_from_gguf,
     .names = kGemmaNames},
    {.name = "gemma3",
     .hugging_face = {"Gemma3ForCausalLM", "gemma3_text", "Gemma3ForConditionalGeneration",
                      "gemma3"},
     .gguf = "gemma3",
     .from_hugging_face = gemma3_from_hf,
     .from_gguf = gemma3_from_gguf,
     .names = kGemmaNames,
     .renamed = kGemma3Renamed,
     .ignored_prefixes = kGemma3Ignored},
    {.name = "phi3",
     .hugging_face = {"Phi3ForCausalLM", "phi3"},
     .gguf = "phi3",
     .from_hugging_face = phi3_from_hf,
     .from_gguf = phi3_from_gguf,
     .names = kPhi3Names},
    {.name = "smollm3",
     .hugging_face = {"SmolLM3ForCausalLM", "smollm3"},
     .gguf = "smollm3",
     .from_hugging_face = smollm3_from_hf,
     .from_gguf = smollm3_from_gguf,
     .interleaved_in_gguf = true},
};

constexpr NameRow kSharedNames[] = {
    {"embed", "token_embd", "model.embed_tokens"},
    {"layers.#.attn_norm", "blk.#.attn_norm", "model.layers.#.input_layernorm"},
    {"layers.#.q", "blk.#.attn_q", "model.layers.#.self_attn.q_proj"},
    {"layers.#.k", "blk.#.attn_k", "model.layers.#.self_attn.k_proj"},
    {"layers.#.v", "blk.#.attn_v", "model.layers.#.self_attn.v_proj"},
    {"layers.#.q_norm", "blk.#.attn_q_norm", "model.layers.#.self_attn.q_norm"},
    {"layers.#.k_norm", "blk.#.attn_k_norm", "model.layers.#.self_attn.k_norm"},
    {"layers.#.o", "blk.#.attn_output", "model.layers.#.self_attn.o_proj"},
    {"layers.#.mlp_norm", "blk.#.ffn_norm", "model.layers.#.post_attention_layernorm"},
    {"layers.#.gate", "blk.#.ffn_gate", "model.layers.#.mlp.gate_proj"},
    {"layers.#.up", "blk.#.ffn_up", "model.layers.#.mlp.up_proj"},
    {"layers.#.down", "blk.#.ffn_down", "model.layers.#.mlp.down_proj"},
    {"layers.#.router", "blk.#.ffn_gate_inp", "model.layers.#.mlp.gate"},
    {"layers.#.experts.@.gate", "blk.#.ffn_gate_exps", "model.layers.#.mlp.experts.@.gate_proj"},
    {"layers.#.experts.@.up", "blk.#.ffn_up_exps", "model.layers.#.mlp.experts.@.up_proj"},
    {"layers.#.experts.@.down", "blk.#.ffn_down_exps", "model.layers.#.mlp.experts.@.down_proj"},
    {"final_norm", "output_norm", "model.norm"},
    {"head", "output", "lm_head"},
};

template <typename Matches>
const Family* find_if(Matches&& matches) {
  const auto* at = std::find_if(std::begin(kFamilies), std::end(kFamilies), matches);
  return at == std::end(kFamilies) ? nullptr : at;
}

std::string listed(const std::vector<std::string_view>& names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 == names.size() ? " and " : ", ";
    text += names[i];
  }
  return text;
}

}  // namespace

const Family* find_family(std::string_view name) {
  return find_if([&](const Family& family) { return family.name == name; });
}

const Family* find_hugging_face_family(std::string_view name) {
  if (name.empty()) return nullptr;
  return find_if([&](const Family& family) {
    return std::find(family.hugging_face.begin(), family.hugging_face.end(), name) !=
           family.hugging_face.end();
  });
}

const Family* find_gguf_family(std::string_view architecture) {
  if (architecture.empty()) return nullptr;
  return find_if([&](const Family& family) { return family.gguf == architecture; });
}

std::string hugging_face_families_text() {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) names.push_back(family.hugging_face.front());
  return listed(names);
}

std::string gguf_families_text() {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) {
    if (!family.gguf.empty()) names.push_back(family.gguf);
  }
  return listed(names);
}

std::span<const NameRow> shared_names() {
  return kSharedNames;
}

}  // namespace lowkey
