#pragma once
// Well-known models by their public configurations, for planning without a file. Only those whose
// keys and values one layout describes: every layer attends to everything (no sliding windows), and
// stores one K and one V per KV head (no latent attention). Experts are left out too: their
// parameters follow another formula. Torch-free.
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "load/model_file.h"

namespace lowkey {

struct Architecture {
  std::string_view name;
  int32_t num_layers;
  int32_t hidden_size;
  int32_t intermediate_size;
  int32_t num_qo_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t vocab_size;
  int64_t max_context;
  bool tied_embeddings = false;
  bool qkv_bias = false;
  bool qk_norm = false;  // a norm over each query and key head

  ModelConfig config() const;
  int64_t parameters() const;  // of embeddings, layers, norms and head: what the files hold
};

// By family, then size.
std::span<const Architecture> architectures();

// By name, whatever its case.
std::optional<Architecture> find_architecture(std::string_view name);

}  // namespace lowkey
