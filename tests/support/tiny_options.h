#pragma once
// TinyModelOptions as goldens write them down: a JSON object of the options that are not default.
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>

#include "support/tiny_model.h"

namespace lowkey::test {

inline TinyModelOptions tiny_options(const nlohmann::json& json) {
  TinyModelOptions o;
  const auto set = [&](const char* name, auto& field) {
    if (json.contains(name)) field = json[name].get<std::remove_reference_t<decltype(field)>>();
  };
  set("seed", o.seed);
  set("layers", o.layers);
  set("hidden", o.hidden);
  set("heads", o.heads);
  set("kv_heads", o.kv_heads);
  set("head_dim", o.head_dim);
  set("ffn", o.ffn);
  set("vocab", o.vocab);
  set("max_context", o.max_context);
  set("tied", o.tied);
  set("attention_bias", o.attention_bias);
  set("mlp_bias", o.mlp_bias);
  set("norm_eps", o.norm_eps);
  set("rope_base", o.rope_base);
  set("shards", o.shards);
  const std::string scaling = json.value("rope_scaling", "none");
  if (scaling == "linear") o.rope_scaling = RopeScaling::kLinear;
  if (scaling == "llama3") o.rope_scaling = RopeScaling::kLlama3;
  const std::string dtype = json.value("dtype", "F32");
  if (dtype == "F16") o.dtype = DType::kF16;
  if (dtype == "BF16") o.dtype = DType::kBF16;
  return o;
}

}  // namespace lowkey::test
