#include "load/weight_names.h"

#include <array>

#include "core/error.h"

namespace lowkey {
namespace {

enum class Dim : uint8_t { kNone, kHidden, kFfn, kVocab, kQ, kKv };
enum class When : uint8_t { kAlways, kUntied, kQkvBias, kOutBias, kMlpBias };

struct NameRow {
  const char* canonical;
  const char* gguf;
  const char* hugging_face;
  Dim rows, cols;  // a vector has kNone rows
  When when = When::kAlways;
  bool rotated = false;
};

constexpr std::array kBefore{
    NameRow{"embed.weight", "token_embd.weight", "model.embed_tokens.weight", Dim::kVocab,
            Dim::kHidden},
};

// After "layers.N.", "blk.N." and "model.layers.N.".
constexpr std::array kLayer{
    NameRow{"attn_norm.weight", "attn_norm.weight", "input_layernorm.weight", Dim::kNone,
            Dim::kHidden},
    NameRow{"q.weight", "attn_q.weight", "self_attn.q_proj.weight", Dim::kQ, Dim::kHidden,
            When::kAlways, true},
    NameRow{"q.bias", "attn_q.bias", "self_attn.q_proj.bias", Dim::kNone, Dim::kQ, When::kQkvBias,
            true},
    NameRow{"k.weight", "attn_k.weight", "self_attn.k_proj.weight", Dim::kKv, Dim::kHidden,
            When::kAlways, true},
    NameRow{"k.bias", "attn_k.bias", "self_attn.k_proj.bias", Dim::kNone, Dim::kKv, When::kQkvBias,
            true},
    NameRow{"v.weight", "attn_v.weight", "self_attn.v_proj.weight", Dim::kKv, Dim::kHidden},
    NameRow{"v.bias", "attn_v.bias", "self_attn.v_proj.bias", Dim::kNone, Dim::kKv, When::kQkvBias},
    NameRow{"o.weight", "attn_output.weight", "self_attn.o_proj.weight", Dim::kHidden, Dim::kQ},
    NameRow{"o.bias", "attn_output.bias", "self_attn.o_proj.bias", Dim::kNone, Dim::kHidden,
            When::kOutBias},
    NameRow{"mlp_norm.weight", "ffn_norm.weight", "post_attention_layernorm.weight", Dim::kNone,
            Dim::kHidden},
    NameRow{"gate.weight", "ffn_gate.weight", "mlp.gate_proj.weight", Dim::kFfn, Dim::kHidden},
    NameRow{"gate.bias", "ffn_gate.bias", "mlp.gate_proj.bias", Dim::kNone, Dim::kFfn,
            When::kMlpBias},
    NameRow{"up.weight", "ffn_up.weight", "mlp.up_proj.weight", Dim::kFfn, Dim::kHidden},
    NameRow{"up.bias", "ffn_up.bias", "mlp.up_proj.bias", Dim::kNone, Dim::kFfn, When::kMlpBias},
    NameRow{"down.weight", "ffn_down.weight", "mlp.down_proj.weight", Dim::kHidden, Dim::kFfn},
    NameRow{"down.bias", "ffn_down.bias", "mlp.down_proj.bias", Dim::kNone, Dim::kHidden,
            When::kMlpBias},
};

constexpr std::array kAfter{
    NameRow{"final_norm.weight", "output_norm.weight", "model.norm.weight", Dim::kNone,
            Dim::kHidden},
    NameRow{"head.weight", "output.weight", "lm_head.weight", Dim::kVocab, Dim::kHidden,
            When::kUntied},
};

int64_t size_of(Dim dim, const ModelConfig& config) {
  switch (dim) {
    case Dim::kNone: break;
    case Dim::kHidden: return config.hidden_size;
    case Dim::kFfn: return config.intermediate_size;
    case Dim::kVocab: return config.vocab_size;
    case Dim::kQ: return int64_t{config.num_qo_heads} * config.head_dim;
    case Dim::kKv: return int64_t{config.num_kv_heads} * config.head_dim;
  }
  LOWKEY_CHECK(false, "dim {}", static_cast<int>(dim));
  return 0;
}

bool present(When when, const ModelConfig& config) {
  switch (when) {
    case When::kAlways: return true;
    case When::kUntied: return !config.tied_embeddings;
    case When::kQkvBias: return config.qkv_bias;
    case When::kOutBias: return config.attn_out_bias;
    case When::kMlpBias: return config.mlp_bias;
  }
  return true;
}

template <size_t n>
void append(const std::array<NameRow, n>& rows, const std::string& canonical_prefix,
            const std::string& file_prefix, const ModelConfig& config, ModelFormat format,
            std::vector<WeightSpec>& specs) {
  for (const NameRow& row : rows) {
    if (!present(row.when, config)) continue;
    WeightSpec spec;
    spec.canonical = canonical_prefix + row.canonical;
    spec.in_file = file_prefix + (format == ModelFormat::kGguf ? row.gguf : row.hugging_face);
    if (row.rows != Dim::kNone) spec.shape.push_back(size_of(row.rows, config));
    spec.shape.push_back(size_of(row.cols, config));
    spec.rotated = row.rotated;
    specs.push_back(std::move(spec));
  }
}

}  // namespace

std::vector<WeightSpec> weight_specs(const ModelConfig& config, ModelFormat format) {
  std::vector<WeightSpec> specs;
  append(kBefore, "", "", config, format, specs);
  const char* layer_prefix = format == ModelFormat::kGguf ? "blk" : "model.layers";
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    append(kLayer, fmt::format("layers.{}.", layer), fmt::format("{}.{}.", layer_prefix, layer),
           config, format, specs);
  }
  append(kAfter, "", "", config, format, specs);
  return specs;
}

}  // namespace lowkey
