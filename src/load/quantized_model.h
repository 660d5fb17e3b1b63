#pragma once
// Names that the folder of a quantized model is made of, for its reader and its writer:
// docs/formats/weights.md. Torch-free.
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "load/model_file.h"

namespace lowkey {

inline constexpr std::string_view kQuantizationFile = "quantization.json";
inline constexpr std::string_view kQuantizedWeightsFile = "model.safetensors";
inline constexpr std::string_view kGgufHeaderFile = "source.gguf";
// What is taken over of a Hugging Face folder, as far as it is there.
inline constexpr std::array kHfFiles{"config.json",
                                     "generation_config.json",
                                     "tokenizer.json",
                                     "tokenizer_config.json",
                                     "vocab.json",
                                     "merges.txt",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "tokenizer.model",
                                     "chat_template.jinja"};
inline constexpr int64_t kQuantizationVersion = 1;
// Metadata of the safetensors: "dtype:layers.0.q.weight" -> "Q4_1".
inline constexpr std::string_view kDTypePrefix = "dtype:";
// Tensors that the source's configuration is read from: "gguf.rope_freqs.weight".
inline constexpr std::string_view kGgufTensorPrefix = "gguf.";

// The fields of ModelConfig in which a quantized model may differ from its source, by name; visit
// is called with a name and a reference to each.
template <typename Config, typename Visit>
void for_each_quantized_field(Config& config, const Visit& visit) {
  visit("tied_embeddings", config.tied_embeddings);
  visit("qkv_bias", config.qkv_bias);
  visit("attn_out_bias", config.attn_out_bias);
  visit("mlp_bias", config.mlp_bias);
  visit("norm_bias", config.norm_bias);
  visit("norm_plus_one", config.norm_plus_one);
  visit("activation_bits", config.activation_bits);
  visit("activation_symmetric", config.activation_symmetric);
  visit("activation_clip", config.activation_clip);
  visit("hadamard_qk", config.hadamard_qk);
  visit("hadamard_v", config.hadamard_v);
  visit("hadamard_down", config.hadamard_down);
}

}  // namespace lowkey
