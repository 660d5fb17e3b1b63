// What published models' config.json say, as ModelConfig.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "load/families.h"
#include "load/hf_config.h"
#include "load/model_config.h"

namespace lowkey {
namespace {

using nlohmann::json;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig config_of(const json& config) {
  return read_hf_config(JsonFields(config, "config.json"));
}

// "code: message", or "" if it was read.
std::string refusal(const json& config) {
  try {
    config_of(config);
  } catch (const Error& error) {
    return std::string(error_code_name(error.code())) + ": " + error.what();
  }
  return "";
}

std::vector<int32_t> windows(const ModelConfig& config) {
  std::vector<int32_t> all;
  for (const LayerConfig& layer : config.layers) all.push_back(layer.window);
  return all;
}

// One letter a layer: M main rope, L local, N none.
std::string ropes(const ModelConfig& config) {
  std::string text;
  for (const LayerConfig& layer : config.layers)
    text += layer.rope == RopeUse::kNone ? 'N' : layer.rope == RopeUse::kMain ? 'M' : 'L';
  return text;
}

struct Sizes {
  int32_t layers, hidden, intermediate, qo_heads, kv_heads, head_dim, vocab;
  int64_t context;
  friend bool operator==(const Sizes&, const Sizes&) = default;
};

Sizes sizes(const ModelConfig& c) {
  return {c.num_layers,   c.hidden_size, c.intermediate_size, c.num_qo_heads,
          c.num_kv_heads, c.head_dim,    c.vocab_size,        c.max_context};
}

json llama31() {
  return json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "mlp_bias": false, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
    "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 128256})");
}

json mistral() {
  return json::parse(R"({
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": false, "vocab_size": 32000})");
}

json mixtral() {
  return json::parse(R"({
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "num_local_experts": 8, "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false,
    "vocab_size": 32000})");
}

json qwen25() {
  return json::parse(R"({
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
    "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 32768,
    "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 131072, "tie_word_embeddings": false, "use_sliding_window": false,
    "vocab_size": 152064})");
}

json qwen3() {
  return json::parse(R"({
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": false,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
    "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16,
    "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null,
    "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
    "use_sliding_window": false, "vocab_size": 151936})");
}

json qwen3_moe() {
  return json::parse(R"({
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": false,
    "decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
    "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48,
    "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": true,
    "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
    "rope_scaling": null, "rope_theta": 1000000.0, "sliding_window": null,
    "tie_word_embeddings": false, "use_sliding_window": false, "vocab_size": 151936})");
}

json falcon7() {
  return json::parse(R"({
    "architectures": ["FalconForCausalLM"], "model_type": "falcon", "alibi": false,
    "apply_residual_connection_post_layernorm": false, "bias": false, "hidden_size": 4544,
    "layer_norm_epsilon": 1e-05, "multi_query": true, "new_decoder_architecture": false,
    "num_attention_heads": 71, "num_hidden_layers": 32, "num_kv_heads": 71, "parallel_attn": true,
    "vocab_size": 65024})");
}

json falcon40() {
  return json::parse(R"({
    "architectures": ["FalconForCausalLM"], "model_type": "falcon", "alibi": false, "bias": false,
    "hidden_size": 8192, "layer_norm_epsilon": 1e-05, "new_decoder_architecture": true,
    "num_attention_heads": 128, "num_hidden_layers": 60, "num_kv_heads": 8, "parallel_attn": true,
    "vocab_size": 65024})");
}

json falcon_rw() {
  return json::parse(R"({
    "architectures": ["FalconForCausalLM"], "model_type": "falcon", "alibi": true, "bias": true,
    "hidden_size": 2048, "layer_norm_epsilon": 1e-05, "multi_query": false,
    "new_decoder_architecture": false, "num_attention_heads": 32, "num_hidden_layers": 24,
    "parallel_attn": false, "vocab_size": 50304})");
}

json opt() {
  return json::parse(R"({
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "_remove_final_layer_norm": false,
    "activation_function": "relu", "do_layer_norm_before": true, "ffn_dim": 3072,
    "hidden_size": 768, "max_position_embeddings": 2048, "num_attention_heads": 12,
    "num_hidden_layers": 12, "vocab_size": 50272, "word_embed_proj_dim": 768})");
}

json gemma2() {
  return json::parse(R"({
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": false,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "head_dim": 128,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 4608, "intermediate_size": 36864, "max_position_embeddings": 8192,
    "num_attention_heads": 32, "num_hidden_layers": 46, "num_key_value_heads": 16,
    "query_pre_attn_scalar": 144, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
    "sliding_window": 4096, "vocab_size": 256000})");
}

json gemma3_1b() {
  return json::parse(R"({
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attention_bias": false,
    "attn_logit_softcapping": null, "final_logit_softcapping": null, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
    "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26,
    "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000,
    "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144})");
}

// Of the language model only what differs from transformers' defaults.
json gemma3_4b() {
  return json::parse(R"({
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "boi_token_index": 255999, "eos_token_id": [1, 106], "image_token_index": 262144,
    "mm_tokens_per_image": 256, "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
      "model_type": "gemma3_text", "num_hidden_layers": 34,
      "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"}})");
}

json phi3_4k() {
  return json::parse(R"({
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": false,
    "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
    "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
    "rope_scaling": null, "rope_theta": 10000.0, "sliding_window": 2047,
    "tie_word_embeddings": false, "vocab_size": 32064})");
}

json phi4_mini() {
  json config = json::parse(R"({
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": false,
    "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "num_attention_heads": 24, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 0.75, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "rope_scaling": {"type": "longrope"}, "sliding_window": 262144, "tie_word_embeddings": true,
    "vocab_size": 200064})");
  for (int i = 0; i < 48; ++i) {
    config["rope_scaling"]["short_factor"].push_back(1.0 + 0.5 * i);
    config["rope_scaling"]["long_factor"].push_back(2.0 + i);
  }
  return config;
}

json smollm3() {
  json config = json::parse(R"({
    "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "attention_bias": false,
    "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 11008,
    "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": false,
    "no_rope_layer_interval": 4, "num_attention_heads": 16, "num_hidden_layers": 36,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 5000000.0,
    "sliding_window": null, "use_sliding_window": false, "vocab_size": 128256})");
  for (int i = 0; i < 36; ++i) {
    config["no_rope_layers"].push_back((i + 1) % 4 == 0 ? 0 : 1);
    config["layer_types"].push_back("full_attention");
  }
  return config;
}

json changed(json config, const char* patch) {
  config.merge_patch(json::parse(patch));  // null takes a field away
  return config;
}

TEST(FamilyConfig, Llama) {
  const ModelConfig c = config_of(llama31());
  EXPECT_EQ(c.architecture, "llama");
  EXPECT_EQ(sizes(c), (Sizes{32, 4096, 14336, 32, 8, 128, 128256, 131072}));
  EXPECT_EQ(c.norm_eps, 1e-5);
  EXPECT_EQ(c.rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(c.rope.base, 500000.0);
  EXPECT_EQ(c.rope.original_context, 8192);
  EXPECT_EQ(c.norm, NormKind::kRms);
  EXPECT_EQ(c.activation, Activation::kSilu);
  EXPECT_TRUE(c.gated_mlp);
  EXPECT_FALSE(c.tied_embeddings || c.norm_bias || c.qk_norm || c.post_norms || c.parallel);
  EXPECT_EQ(c.attention_scale, 1.0 / std::sqrt(128.0));
  EXPECT_EQ(c.embedding_scale, 1.0);
  EXPECT_THAT(windows(c), Each(0));
  EXPECT_EQ(ropes(c), std::string(32, 'M'));

  json vicuna = llama31();
  vicuna.erase("rope_scaling"), vicuna.erase("rope_theta"), vicuna.erase("num_key_value_heads");
  vicuna["rope_scaling"] = nullptr;
  EXPECT_EQ(config_of(vicuna).rope.base, 10000.0);
  EXPECT_EQ(config_of(vicuna).num_kv_heads, 32);
}

TEST(FamilyConfig, Mistral) {
  const ModelConfig c = config_of(mistral());
  EXPECT_EQ(c.architecture, "mistral");
  EXPECT_EQ(sizes(c), (Sizes{32, 4096, 14336, 32, 8, 128, 32000, 32768}));
  EXPECT_THAT(windows(c), Each(4096));
  json later = mistral();
  later["sliding_window"] = nullptr;
  EXPECT_THAT(windows(config_of(later)), Each(0));
  later.erase("sliding_window");
  EXPECT_THAT(windows(config_of(later)), Each(4096)) << "transformers' default, null is none";
  later["sliding_window"] = 32768;
  EXPECT_THAT(windows(config_of(later)), Each(0)) << "covers the context";
}

TEST(FamilyConfig, Mixtral) {
  const ModelConfig c = config_of(mixtral());
  EXPECT_EQ(c.architecture, "mixtral");
  EXPECT_EQ(sizes(c), (Sizes{32, 4096, 14336, 32, 8, 128, 32000, 32768}));
  EXPECT_EQ(c.num_experts, 8);
  EXPECT_EQ(c.experts_per_token, 2);
  EXPECT_EQ(c.expert_intermediate_size, 14336);
  EXPECT_TRUE(c.normalize_expert_weights);
  EXPECT_TRUE(std::all_of(c.layers.begin(), c.layers.end(), [](auto& l) { return l.experts; }));
  EXPECT_THAT(windows(c), Each(0));
}

TEST(FamilyConfig, Qwen2) {
  const ModelConfig c = config_of(qwen25());
  EXPECT_EQ(c.architecture, "qwen2");
  EXPECT_EQ(sizes(c), (Sizes{28, 3584, 18944, 28, 4, 128, 152064, 32768}));
  EXPECT_TRUE(c.qkv_bias);
  EXPECT_FALSE(c.attn_out_bias || c.mlp_bias);
  EXPECT_THAT(windows(c), Each(0)) << "switched off";
  const ModelConfig on = config_of(
      changed(qwen25(),
              R"({"use_sliding_window": true, "sliding_window": 4096, "max_window_layers": 25})"));
  EXPECT_EQ(on.layers[24].window, 0);
  EXPECT_EQ(on.layers[25].window, 4096);
  json typed = changed(qwen25(), R"({"use_sliding_window": true, "sliding_window": 64,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]})");
  EXPECT_THAT(windows(config_of(typed)), ElementsAre(64, 0, 64)) << "what layer_types says counts";
}

TEST(FamilyConfig, Qwen3) {
  const ModelConfig c = config_of(qwen3());
  EXPECT_EQ(c.architecture, "qwen3");
  EXPECT_EQ(sizes(c), (Sizes{28, 1024, 3072, 16, 8, 128, 151936, 40960}));
  EXPECT_TRUE(c.qk_norm && c.tied_embeddings);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_EQ(config_of(changed(qwen3(), R"({"head_dim": null})")).head_dim, 128)
      << "transformers' default, not hidden / heads";
}

TEST(FamilyConfig, Qwen3Moe) {
  const ModelConfig c = config_of(qwen3_moe());
  EXPECT_EQ(c.architecture, "qwen3_moe");
  EXPECT_EQ(sizes(c), (Sizes{48, 2048, 6144, 32, 4, 128, 151936, 40960}));
  EXPECT_EQ(c.num_experts, 128);
  EXPECT_EQ(c.experts_per_token, 8);
  EXPECT_EQ(c.expert_intermediate_size, 768);
  EXPECT_TRUE(c.normalize_expert_weights && c.qk_norm);
  EXPECT_TRUE(c.layers.front().experts && c.layers.back().experts);
  // As transformers 5 saves it, with dense layers between.
  const ModelConfig mixed = config_of(
      changed(qwen3_moe(), R"({"num_experts": null, "num_local_experts": 16, "norm_topk_prob": null,
                       "decoder_sparse_step": 2, "mlp_only_layers": [3], "num_hidden_layers": 6})"));
  EXPECT_EQ(mixed.num_experts, 16);
  EXPECT_FALSE(mixed.normalize_expert_weights) << "transformers' default";
  std::vector<bool> experts;
  for (const LayerConfig& layer : mixed.layers) experts.push_back(layer.experts);
  EXPECT_THAT(experts, ElementsAre(false, true, false, false, false, true));
}

TEST(FamilyConfig, Falcon) {
  const ModelConfig seven = config_of(falcon7());
  EXPECT_EQ(seven.architecture, "falcon");
  EXPECT_EQ(sizes(seven), (Sizes{32, 4544, 18176, 71, 1, 64, 65024, 2048}));
  EXPECT_EQ(seven.norm, NormKind::kLayer);
  EXPECT_EQ(seven.activation, Activation::kGelu);
  EXPECT_TRUE(seven.norm_bias && seven.parallel && seven.shared_norm && seven.tied_embeddings);
  EXPECT_FALSE(seven.gated_mlp || seven.qkv_bias || seven.alibi);
  EXPECT_EQ(seven.rope.dim, 64);

  const ModelConfig forty = config_of(falcon40());
  EXPECT_EQ(sizes(forty), (Sizes{60, 8192, 32768, 128, 8, 64, 65024, 2048}));
  EXPECT_TRUE(forty.parallel);
  EXPECT_FALSE(forty.shared_norm);
  EXPECT_TRUE(config_of(changed(falcon40(), R"({"num_ln_in_parallel_attn": 1})")).shared_norm)
      << "Falcon2-11B";

  const ModelConfig rw = config_of(falcon_rw());
  EXPECT_EQ(sizes(rw), (Sizes{24, 2048, 8192, 32, 32, 64, 50304, 2048}));
  EXPECT_TRUE(rw.alibi && rw.qkv_bias && rw.attn_out_bias && rw.mlp_bias);
  EXPECT_FALSE(rw.parallel || rw.shared_norm);
  EXPECT_EQ(ropes(rw), std::string(24, 'N'));
}

TEST(FamilyConfig, Opt) {
  const ModelConfig c = config_of(opt());
  EXPECT_EQ(c.architecture, "opt");
  EXPECT_EQ(sizes(c), (Sizes{12, 768, 3072, 12, 12, 64, 50272, 2048}));
  EXPECT_EQ(c.norm, NormKind::kLayer);
  EXPECT_EQ(c.norm_eps, 1e-5);
  EXPECT_EQ(c.activation, Activation::kRelu);
  EXPECT_TRUE(c.norm_bias && c.qkv_bias && c.attn_out_bias && c.mlp_bias && c.tied_embeddings);
  EXPECT_FALSE(c.gated_mlp);
  EXPECT_TRUE(c.learned_positions);
  EXPECT_EQ(c.position_offset, 2);
  EXPECT_EQ(ropes(c), std::string(12, 'N'));
}

TEST(FamilyConfig, Gemma2) {
  const ModelConfig c = config_of(gemma2());
  EXPECT_EQ(c.architecture, "gemma2");
  EXPECT_EQ(sizes(c), (Sizes{46, 4608, 36864, 32, 16, 128, 256000, 8192}));
  EXPECT_EQ(c.activation, Activation::kGeluTanh);
  EXPECT_TRUE(c.norm_plus_one && c.post_norms && c.tied_embeddings);
  EXPECT_FALSE(c.qk_norm);
  EXPECT_EQ(c.attention_softcap, 50.0);
  EXPECT_EQ(c.logit_softcap, 30.0);
  EXPECT_DOUBLE_EQ(c.attention_scale, 1.0 / 12.0);
  EXPECT_DOUBLE_EQ(c.embedding_scale, std::sqrt(4608.0));
  EXPECT_EQ(c.layers[0].window, 4096);
  EXPECT_EQ(c.layers[1].window, 0);
  EXPECT_EQ(c.layers[44].window, 4096);
  EXPECT_EQ(ropes(c), std::string(46, 'M'));
  json uncapped = gemma2();
  uncapped["attn_logit_softcapping"] = nullptr;
  EXPECT_EQ(config_of(uncapped).attention_softcap, 0.0);
  uncapped.erase("attn_logit_softcapping");
  EXPECT_EQ(config_of(uncapped).attention_softcap, 50.0) << "transformers' default";
}

TEST(FamilyConfig, Gemma3) {
  const ModelConfig one = config_of(gemma3_1b());
  EXPECT_EQ(one.architecture, "gemma3");
  EXPECT_EQ(sizes(one), (Sizes{26, 1152, 6912, 4, 1, 256, 262144, 32768}));
  EXPECT_TRUE(one.norm_plus_one && one.post_norms && one.qk_norm && one.tied_embeddings);
  EXPECT_EQ(one.attention_softcap, 0.0);
  EXPECT_EQ(one.logit_softcap, 0.0);
  EXPECT_DOUBLE_EQ(one.attention_scale, 1.0 / 16.0);
  EXPECT_EQ(one.rope.base, 1e6);
  EXPECT_EQ(one.local_rope.base, 1e4);
  EXPECT_EQ(one.local_rope.dim, 256);
  EXPECT_EQ(ropes(one), "LLLLLMLLLLLMLLLLLMLLLLLMLL");
  EXPECT_EQ(one.layers[4].window, 512);
  EXPECT_EQ(one.layers[5].window, 0);

  const ModelConfig four = config_of(gemma3_4b());
  EXPECT_EQ(sizes(four), (Sizes{34, 2560, 10240, 8, 4, 256, 262208, 131072}));
  EXPECT_EQ(four.rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(four.rope.factor, 8.0);
  EXPECT_EQ(four.rope.base, 1e6);
  EXPECT_EQ(four.local_rope.scaling, RopeScaling::kNone);
  EXPECT_EQ(four.layers[0].window, 1024);
  EXPECT_TRUE(four.tied_embeddings);

  // As transformers 5 saves it; a window that covers the context leaves the local rope.
  json saved = changed(gemma3_1b(), R"({"rope_theta": null, "rope_local_base_freq": null,
    "sliding_window_pattern": null, "num_hidden_layers": 3, "sliding_window": 40000,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "rope_parameters": {
      "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 2000000.0},
      "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0}}})");
  const ModelConfig five = config_of(saved);
  EXPECT_EQ(ropes(five), "MLL");
  EXPECT_THAT(windows(five), Each(0));
  EXPECT_EQ(five.rope.base, 2e6);
  EXPECT_EQ(five.rope.factor, 4.0);
  EXPECT_EQ(five.local_rope.base, 2e4);
}

TEST(FamilyConfig, Phi3) {
  const ModelConfig c = config_of(phi3_4k());
  EXPECT_EQ(c.architecture, "phi3");
  EXPECT_EQ(sizes(c), (Sizes{32, 3072, 8192, 32, 32, 96, 32064, 4096}));
  EXPECT_EQ(c.norm_eps, 1e-5);
  EXPECT_THAT(windows(c), Each(2047));
  EXPECT_EQ(c.rope.dim, 96);

  const ModelConfig mini = config_of(phi4_mini());
  EXPECT_EQ(sizes(mini), (Sizes{32, 3072, 8192, 24, 8, 128, 200064, 4096}))
      << "the context ends with the short factors";
  EXPECT_EQ(mini.rope.dim, 96);
  ASSERT_EQ(mini.rope.freq_divisors.size(), 48u);
  EXPECT_EQ(mini.rope.freq_divisors[3], 2.5f);
  EXPECT_DOUBLE_EQ(mini.rope.attention_factor, std::sqrt(1.0 + std::log(32.0) / std::log(4096.0)));
  EXPECT_EQ(mini.rope.original_context, 4096);
  EXPECT_THAT(windows(mini), Each(0));
  EXPECT_TRUE(mini.tied_embeddings);
  // Names of the same in Phi-3's first files, and a factor said outright.
  for (const char* name : {"su", "yarn"}) {
    json old = phi4_mini();
    old["rope_scaling"]["type"] = name;
    EXPECT_EQ(config_of(old).rope.freq_divisors, mini.rope.freq_divisors) << name;
    old["rope_scaling"]["attention_factor"] = 1.25;
    EXPECT_EQ(config_of(old).rope.attention_factor, 1.25);
  }
}

TEST(FamilyConfig, SmolLm3) {
  const ModelConfig c = config_of(smollm3());
  EXPECT_EQ(c.architecture, "smollm3");
  EXPECT_EQ(sizes(c), (Sizes{36, 2048, 11008, 16, 4, 128, 128256, 65536}));
  EXPECT_EQ(ropes(c).substr(0, 9), "MMMNMMMNM");
  EXPECT_EQ(c.rope.base, 5e6);
  EXPECT_TRUE(c.tied_embeddings) << "transformers' default";
  json without = smollm3();
  without.erase("no_rope_layers"), without.erase("rope_theta");
  EXPECT_EQ(ropes(config_of(without)), ropes(c)) << "every fourth";
  EXPECT_EQ(config_of(without).rope.base, 2e6);
  without["no_rope_layer_interval"] = 3;
  EXPECT_EQ(ropes(config_of(without)).substr(0, 7), "MMNMMNM");
}

// Against transformers' _compute_yarn_parameters.
TEST(FamilyConfig, Yarn) {
  const auto rope = [](const char* more) {
    json config = changed(qwen25(), R"({"hidden_size": 64, "num_attention_heads": 4,
      "max_position_embeddings": 256, "rope_theta": 10000.0,
      "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}})");
    config["rope_scaling"].merge_patch(json::parse(more));
    return config_of(config).rope;
  };
  const RopeConfig plain = rope("{}");
  EXPECT_EQ(plain.scaling, RopeScaling::kYarn);
  EXPECT_EQ(plain.factor, 4.0);
  EXPECT_EQ(plain.original_context, 64);
  EXPECT_EQ(plain.beta_fast, 32.0);
  EXPECT_EQ(plain.beta_slow, 1.0);
  EXPECT_DOUBLE_EQ(plain.attention_factor, 0.1 * std::log(4.0) + 1.0);
  EXPECT_EQ(rope(R"({"beta_fast": 4, "beta_slow": 2})").beta_fast, 4.0);
  EXPECT_EQ(rope(R"({"beta_fast": 4, "beta_slow": 2})").beta_slow, 2.0);
  EXPECT_EQ(rope(R"({"attention_factor": 1.5})").attention_factor, 1.5);
  EXPECT_NEAR(rope(R"({"mscale": 0.7, "mscale_all_dim": 0.4})").attention_factor,
              1.0394038191422568, 1e-12);
  EXPECT_DOUBLE_EQ(rope(R"({"mscale": 0.7})").attention_factor, plain.attention_factor);
  EXPECT_EQ(rope(R"({"original_max_position_embeddings": null})").original_context, 256);
  EXPECT_EQ(rope(R"({"factor": null})").factor, 4.0) << "256 / 64";
  const RopeConfig exact = rope(R"({"truncate": false, "beta_fast": 4})");
  EXPECT_EQ(exact.scaling, RopeScaling::kNone);
  const std::vector<double> expected{1.0, 1.1327242449, 3.8466572428, 4.0, 4.0, 4.0, 4.0, 4.0};
  ASSERT_EQ(exact.freq_divisors.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(exact.freq_divisors[i], expected[i], 1e-6 * expected[i]) << i;
}

TEST(FamilyConfig, RefusesInOneLine) {
  struct Case {
    json config;
    const char* patch;
    const char* message;
  };
  const std::vector<Case> cases{
      {llama31(), R"({"num_local_experts": 8})",
       "unsupported: config.json: 'num_local_experts': mixtures of experts are not known of the "
       "llama family"},
      {llama31(), R"({"num_experts": 8})", "'num_experts': mixtures of experts are not known"},
      {llama31(), R"({"num_hidden_layers": 4097})",
       "corrupt_file: config.json: 'num_hidden_layers' is 4097, not between 1 and 4096"},
      {llama31(), R"({"rope_scaling": null, "rope_parameters": {"full_attention": {}}})",
       "'rope_parameters.full_attention': rope per kind of layer is not known of the llama family"},
      {mistral(),
       R"({"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]})",
       "unsupported: config.json: 'layer_types': layers that do not slide are not known of this"},
      {mistral(), R"({"sliding_window": -1})", "'sliding_window' is -1, not between"},
      {mixtral(), R"({"num_experts_per_tok": 9})",
       "corrupt_file: config.json: 9 experts for each token, of 8"},
      {mixtral(), R"({"num_local_experts": 5000})",
       "'num_local_experts' is 5000, not between 1 and 4096"},
      {qwen25(), R"({"num_hidden_layers": 1, "layer_types": ["chunked_attention"]})",
       "unsupported: config.json: 'layer_types': 'chunked_attention' is not known here "
       "(full_attention and sliding_attention are)"},
      {qwen25(), R"({"layer_types": ["full_attention"]})",
       "corrupt_file: config.json: 'layer_types' is not a list of 28 names, one for each layer"},
      {qwen25(), R"({"num_hidden_layers": 1, "layer_types": [7]})",
       "'layer_types': no name is not known"},
      {qwen25(), R"({"num_hidden_layers": 1, "layer_types": ["sliding_attention"]})",
       "corrupt_file: config.json: 'sliding_window' is missing, but layers slide"},
      {qwen3_moe(), R"({"mlp_only_layers": ["a"]})",
       "corrupt_file: config.json: 'mlp_only_layers' is not a list of integers"},
      {qwen3_moe(), R"({"decoder_sparse_step": 0})", "'decoder_sparse_step' is 0, not between"},
      {falcon40(), R"({"parallel_attn": false})",
       "unsupported: config.json: 'parallel_attn': the new decoder is known in parallel only"},
      {falcon7(), R"({"num_ln_in_parallel_attn": 2})",
       "unsupported: config.json: 'num_ln_in_parallel_attn': 2 norms are known of the new decoder"},
      {opt(), R"({"do_layer_norm_before": false})",
       "unsupported: config.json: 'do_layer_norm_before': norms behind attention and MLP are not"},
      {opt(), R"({"word_embed_proj_dim": 512})",
       "unsupported: config.json: 'word_embed_proj_dim': embeddings of another size than "
       "hidden_size 768 are not known here"},
      {opt(), R"({"_remove_final_layer_norm": true})", "a model without a final norm is not known"},
      {opt(), R"({"activation_function": "quick_gelu"})",
       "unsupported: config.json: 'activation_function': 'quick_gelu' is not known here (silu, "},
      {gemma2(), R"({"query_pre_attn_scalar": 0})", "'query_pre_attn_scalar' is 0, not a finite"},
      {gemma2(), R"({"attn_logit_softcapping": -1})",
       "'attn_logit_softcapping' is -1, not a finite"},
      {gemma3_1b(), R"({"use_bidirectional_attention": true})",
       "unsupported: config.json: 'use_bidirectional_attention': only causal attention is known"},
      {gemma3_1b(), R"({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})",
       "unsupported: config.json: 'rope_parameters': one rope for both kinds of layer is not "
       "known"},
      {gemma3_1b(), R"({"sliding_window_pattern": 0})",
       "'sliding_window_pattern' is 0, not between"},
      {gemma3_4b(), R"({"text_config": {"quantization_config": {"bits": 4}}})",
       "unsupported: config.json: 'text_config.quantization_config': weights quantized in a "
       "Hugging"},
      {gemma3_4b(), R"({"text_config": 3})", "'text_config' is number, not an object"},
      {phi4_mini(), R"({"rope_scaling": {"short_factor": [1.0]}})",
       "corrupt_file: config.json: 'rope_scaling.short_factor' is not a list of 48 numbers"},
      {phi4_mini(), R"({"rope_scaling": {"long_factor": null}})",
       "corrupt_file: config.json: 'rope_scaling.long_factor' is missing"},
      {phi4_mini(), R"({"partial_rotary_factor": 0.1})",
       "'rope_scaling.short_factor' is not a list of 6 numbers"},
      {smollm3(), R"({"no_rope_layers": [1, 0]})",
       "corrupt_file: config.json: 'no_rope_layers' is shorter than 36 layers"},
      {qwen25(), R"({"rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 0.5}})",
       "config.json: rope beta_fast 0.5 is not above beta_slow 1"},
      {qwen25(), R"({"rope_scaling": {"type": "mrope"}})",
       "unsupported: config.json: 'rope_scaling.rope_type': 'mrope' is not known here (default, "
       "linear, llama3, yarn and longrope are)"},
      {llama31(), R"({"architectures": ["GptOssForCausalLM"]})",
       "unsupported: config.json: architecture 'GptOssForCausalLM' is not known here "
       "(LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM, Qwen2ForCausalLM, "
       "Qwen3ForCausalLM, Qwen3MoeForCausalLM, FalconForCausalLM, OPTForCausalLM, "
       "GemmaForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM, Phi3ForCausalLM and "
       "SmolLM3ForCausalLM are)"},
  };
  for (const Case& c : cases) {
    ASSERT_EQ(refusal(c.config), "") << c.patch;
    json config = c.config;
    config.merge_patch(json::parse(c.patch));
    const std::string said = refusal(config);
    EXPECT_THAT(said, HasSubstr(c.message)) << c.patch;
    EXPECT_EQ(said.find('\n'), std::string::npos) << "one line";
  }
}

TEST(FamilyConfig, EveryFamilyIsFoundByItsNames) {
  for (const char* name : {"llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "falcon",
                           "opt", "gemma", "gemma2", "gemma3", "phi3", "smollm3"}) {
    const Family* family = find_family(name);
    ASSERT_NE(family, nullptr) << name;
    for (std::string_view known : family->hugging_face) {
      if (known.empty()) continue;
      EXPECT_EQ(find_hugging_face_family(known), family) << known;
    }
    if (family->gguf.empty()) continue;
    EXPECT_EQ(find_gguf_family(family->gguf), family) << name;
  }
  EXPECT_EQ(find_family("gpt2"), nullptr);
  EXPECT_EQ(find_hugging_face_family(""), nullptr);
  EXPECT_EQ(find_gguf_family(""), nullptr) << "families that GGUF does not have";
}

// What no reader lets through, for those to come.
TEST(ValidateConfig, ChecksThatFieldsFitEachOther) {
  const ModelConfig good = config_of(gemma3_1b());
  EXPECT_NO_THROW(validate_config(good, "x"));
  struct Case {
    const char* name;
    void (*damage)(ModelConfig&);
    const char* message;
  };
  const Case cases[] = {
      {"layers", [](ModelConfig& c) { c.layers.pop_back(); }, "x: 25 layers are described, not 26"},
      {"window", [](ModelConfig& c) { c.layers[3].window = -1; }, "layer 3 sees -1 tokens"},
      {"long window", [](ModelConfig& c) { c.layers[3].window = 32768; },
       "layer 3 sees 32768 tokens: not below the context of 32768"},
      {"softcap", [](ModelConfig& c) { c.attention_softcap = -1.0; }, "attention_softcap is -1"},
      {"endless softcap", [](ModelConfig& c) { c.logit_softcap = INFINITY; },
       "logit_softcap is inf"},
      {"scale", [](ModelConfig& c) { c.attention_scale = NAN; }, "attention_scale is nan"},
      {"embedding", [](ModelConfig& c) { c.embedding_scale = 0.0; }, "embedding_scale is 0"},
      {"local rope", [](ModelConfig& c) { c.local_rope.dim = 0; }, "0 rotated channels"},
      {"attention_factor", [](ModelConfig& c) { c.rope.attention_factor = 0.0; },
       "rope attention_factor is 0"},
      {"divisors", [](ModelConfig& c) { c.rope.freq_divisors = {1.0f}; },
       "1 rope divisors for 256 rotated channels"},
      {"divisor", [](ModelConfig& c) { c.rope.freq_divisors.assign(128, -1.0f); },
       "a rope divisor is -1"},
      {"alibi", [](ModelConfig& c) { c.alibi = true; }, "layer 0 has both ALiBi and rope"},
      {"shared norm", [](ModelConfig& c) { c.shared_norm = true; }, "which are not parallel"},
      {"parallel", [](ModelConfig& c) { c.parallel = true; }, "which are parallel"},
      {"offset", [](ModelConfig& c) { c.position_offset = -1; }, "from row -1 on: out of range"},
      {"experts", [](ModelConfig& c) { c.layers[0].experts = true; }, "0 experts: not between"},
      {"used experts",
       [](ModelConfig& c) {
         c.layers[0].experts = true, c.num_experts = 4, c.experts_per_token = 5;
       },
       "5 experts for each token, of 4"},
      {"experts' size",
       [](ModelConfig& c) {
         c.layers[0].experts = true, c.num_experts = 4, c.experts_per_token = 2;
       },
       "the experts' intermediate size is 0"},
      {"yarn",
       [](ModelConfig& c) { c.rope.scaling = RopeScaling::kYarn, c.rope.original_context = 0; },
       "rope's original context is 0"},
  };
  for (const Case& c : cases) {
    ModelConfig config = good;
    c.damage(config);
    try {
      validate_config(config, "x");
      ADD_FAILURE() << c.name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptFile) << c.name;
      EXPECT_THAT(error.what(), HasSubstr(c.message)) << c.name;
    }
  }
}

}  // namespace
}  // namespace lowkey
