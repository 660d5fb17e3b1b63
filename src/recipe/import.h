#pragma once
// Other projects' per-layer precision files, read as recipes. Torch-free, pure; errors are Error
// kInvalidArgument with source_name, the place, and what is allowed.
#include <string_view>

#include "recipe/recipe.h"

namespace lowkey {

// Such files say bits and nothing else: the caller says how they are meant. KVTuner's two modes:
enum class ImportPreset : uint8_t {
  kPerToken,  // per-token-asym: one group per token and head, no window ("B/B" in the short form)
  kKivi,      // keys per channel, values per token, groups of 32, R = 32 ("kivi-B/B:r32")
};

// KVTuner's presets (arXiv 2502.04420): `layer: {nbits_key: B, nbits_value: B}` in YAML's block or
// flow form, optionally with a level of KV heads between. Nothing else of YAML is read.
KvRecipe recipe_from_kvtuner_yaml(std::string_view yaml, std::string_view source_name,
                                  ImportPreset preset);

// NVIDIA Model Optimizer's `kv_cache_quantized_layers`, in hf_quant_config.json or config.json: the
// bits of FP8, NVFP4 and FP8_K_NVFP4_V per layer, stored in our formats, not in theirs; layers it
// does not list stay 16-bit.
KvRecipe recipe_from_modelopt_json(std::string_view json, std::string_view source_name,
                                   ImportPreset preset);

}  // namespace lowkey
