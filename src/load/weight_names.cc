#include "load/weight_names.h"

#include <fmt/format.h>

#include <array>

#include "core/error.h"
#include "load/families.h"

namespace lowkey {
namespace {

enum class Dim : uint8_t {
  kNone,
  kHidden,
  kFfn,
  kVocab,
  kQ,
  kKv,
  kHead,
  kPositions,
  kExperts,
  kExpertFfn
};

struct Present {
  const ModelConfig& config;
  bool experts;  // of this layer
};
using When = bool (*)(const Present&);

constexpr When kAlways = [](const Present&) { return true; };
constexpr When kNever = [](const Present&) { return false; };
constexpr When kNormBias = [](const Present& p) { return p.config.norm_bias; };
constexpr When kQkvBias = [](const Present& p) { return p.config.qkv_bias; };
constexpr When kMlpBias = [](const Present& p) { return p.config.mlp_bias; };
constexpr When kPostNorms = [](const Present& p) { return p.config.post_norms; };
constexpr When kQkNorm = [](const Present& p) { return p.config.qk_norm; };
constexpr When kExperts = [](const Present& p) { return p.experts; };
constexpr When kMlp = [](const Present& p) { return !p.experts; };
constexpr When kGatedMlp = [](const Present& p) { return !p.experts && p.config.gated_mlp; };

// A weight of every model, of every layer or of every expert, and its bias.
struct WeightRow {
  std::string_view canonical;  // as NameRow::canonical
  Dim rows, cols;              // a vector has kNone rows
  When when = kAlways;
  When bias = kNever;
  bool rotated = false;
};

constexpr std::array kBefore{
    WeightRow{"embed", Dim::kVocab, Dim::kHidden},
    WeightRow{"positions", Dim::kPositions, Dim::kHidden,
              [](const Present& p) { return p.config.learned_positions; }},
};

constexpr std::array kLayer{
    WeightRow{"layers.#.attn_norm", Dim::kNone, Dim::kHidden, kAlways, kNormBias},
    WeightRow{"layers.#.q", Dim::kQ, Dim::kHidden, kAlways, kQkvBias, true},
    WeightRow{"layers.#.k", Dim::kKv, Dim::kHidden, kAlways, kQkvBias, true},
    WeightRow{"layers.#.v", Dim::kKv, Dim::kHidden, kAlways, kQkvBias},
    WeightRow{"layers.#.q_norm", Dim::kNone, Dim::kHead, kQkNorm},
    WeightRow{"layers.#.k_norm", Dim::kNone, Dim::kHead, kQkNorm},
    WeightRow{"layers.#.o", Dim::kHidden, Dim::kQ, kAlways,
              [](const Present& p) { return p.config.attn_out_bias; }},
    WeightRow{"layers.#.post_attn_norm", Dim::kNone, Dim::kHidden, kPostNorms, kNormBias},
    WeightRow{"layers.#.mlp_norm", Dim::kNone, Dim::kHidden,
              [](const Present& p) { return !p.config.shared_norm; }, kNormBias},
    WeightRow{"layers.#.gate", Dim::kFfn, Dim::kHidden, kGatedMlp, kMlpBias},
    WeightRow{"layers.#.up", Dim::kFfn, Dim::kHidden, kMlp, kMlpBias},
    WeightRow{"layers.#.down", Dim::kHidden, Dim::kFfn, kMlp, kMlpBias},
    WeightRow{"layers.#.router", Dim::kExperts, Dim::kHidden, kExperts},
};

constexpr std::array kExpert{
    WeightRow{"layers.#.experts.@.gate", Dim::kExpertFfn, Dim::kHidden},
    WeightRow{"layers.#.experts.@.up", Dim::kExpertFfn, Dim::kHidden},
    WeightRow{"layers.#.experts.@.down", Dim::kHidden, Dim::kExpertFfn},
};

constexpr std::array kAfterMlp{
    WeightRow{"layers.#.post_mlp_norm", Dim::kNone, Dim::kHidden, kPostNorms, kNormBias},
};

constexpr std::array kAfter{
    WeightRow{"final_norm", Dim::kNone, Dim::kHidden, kAlways, kNormBias},
    WeightRow{"head", Dim::kVocab, Dim::kHidden,
              [](const Present& p) { return !p.config.tied_embeddings; }},
};

int64_t size_of(Dim dim, const ModelConfig& config) {
  switch (dim) {
    case Dim::kNone: break;
    case Dim::kHidden: return config.hidden_size;
    case Dim::kFfn: return config.intermediate_size;
    case Dim::kVocab: return config.vocab_size;
    case Dim::kQ: return int64_t{config.num_qo_heads} * config.head_dim;
    case Dim::kKv: return int64_t{config.num_kv_heads} * config.head_dim;
    case Dim::kHead: return config.head_dim;
    case Dim::kPositions: return config.max_context + config.position_offset;
    case Dim::kExperts: return config.num_experts;
    case Dim::kExpertFfn: return config.expert_intermediate_size;
  }
  LOWKEY_CHECK(false, "dim {}", static_cast<int>(dim));
  return 0;
}

std::string numbered(std::string_view pattern, int32_t layer, int32_t expert) {
  std::string name;
  for (char c : pattern) {
    if (c == '#') {
      name += std::to_string(layer);
    } else if (c == '@') {
      name += std::to_string(expert);
    } else {
      name += c;
    }
  }
  return name;
}

class SpecList {
 public:
  SpecList(const ModelConfig& config, ModelFormat format)
      : config_(config), format_(format), family_(find_family(config.architecture)) {
    LOWKEY_CHECK(family_, "no family '{}'", config.architecture);
  }

  void add(std::span<const WeightRow> rows, int32_t layer = 0, int32_t expert = -1) {
    const bool experts = !config_.layers.empty() && layer < config_.num_layers &&
                         config_.layers[static_cast<size_t>(layer)].experts;
    const Present present{config_, experts};
    for (const WeightRow& row : rows) {
      if (!row.when(present)) continue;
      const std::string canonical = numbered(row.canonical, layer, expert);
      const std::string_view pattern = file_pattern(row.canonical);
      const std::string in_file = numbered(pattern, layer, expert);
      WeightSpec spec;
      spec.canonical = canonical + ".weight";
      spec.in_file = in_file + ".weight";
      if (row.rows != Dim::kNone) spec.shape.push_back(size_of(row.rows, config_));
      spec.shape.push_back(size_of(row.cols, config_));
      spec.rotated = row.rotated;
      spec.stacked = expert >= 0 && pattern.find('@') == std::string_view::npos;
      specs.push_back(spec);
      if (!row.bias(present)) continue;
      spec.canonical = canonical + ".bias";
      spec.in_file = in_file + ".bias";
      // One number for each row; a norm's weight is a vector already.
      if (row.rows != Dim::kNone) spec.shape.pop_back();
      specs.push_back(std::move(spec));
    }
  }

  std::vector<WeightSpec> specs;

 private:
  std::string_view file_pattern(std::string_view canonical) const {
    for (const std::span<const NameRow> rows : {family_->names, shared_names()}) {
      for (const NameRow& row : rows) {
        if (row.canonical != canonical || (row.when && !row.when(config_))) continue;
        return format_ == ModelFormat::kGguf ? row.gguf : row.hugging_face;
      }
    }
    LOWKEY_CHECK(false, "the {} family does not name '{}'", family_->name, canonical);
    return "";
  }

  const ModelConfig& config_;
  ModelFormat format_;
  const Family* family_;
};

}  // namespace

std::vector<WeightSpec> weight_specs(const ModelConfig& config, ModelFormat format) {
  SpecList list(config, format);
  list.add(kBefore);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    list.add(kLayer, layer);
    if (config.layers[static_cast<size_t>(layer)].experts) {
      for (int32_t expert = 0; expert < config.num_experts; ++expert)
        list.add(kExpert, layer, expert);
    }
    list.add(kAfterMlp, layer);
  }
  list.add(kAfter);
  return std::move(list.specs);
}

int64_t parameter_count(const ModelConfig& config) {
  int64_t count = 0;
  for (const WeightSpec& spec : weight_specs(config, ModelFormat::kHuggingFace)) {
    int64_t size = 1;
    for (int64_t extent : spec.shape) size *= extent;
    count += size;
  }
  return count;
}

}  // namespace lowkey
