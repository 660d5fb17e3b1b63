#include "load/gguf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "load/model_config.h"

namespace lowkey {
namespace {

constexpr const char* kWindow = "attention.sliding_window";

}  // namespace

GgufConfig::GgufConfig(const GgufFile& file)
    : file_(file),
      source_(file.source_name()),
      architecture_(file.get_string("general.architecture")) {
  family_ = find_gguf_family(architecture_);
  if (!family_) {
    fail(ErrorCode::kUnsupported, "{}: architecture '{}' is not known here ({} are)", source_,
         architecture_, gguf_families_text());
  }
  refuse_what_nothing_reads();
}

ModelConfig read_gguf_config(const GgufFile& file) {
  const GgufConfig gguf(file);
  ModelConfig config;
  config.architecture = gguf.family().name;
  gguf.family().from_gguf(gguf, config);
  validate_config(config, file.source_name());
  return config;
}

std::string GgufConfig::key(const char* name) const {
  return architecture_ + "." + name;
}

std::string GgufConfig::field(const char* name) const {
  return fmt::format("{}: {}.{}", source_, architecture_, name);
}

bool GgufConfig::has(const char* name) const {
  return file_.find(key(name)) != nullptr;
}

void GgufConfig::unsupported(const char* name, const std::string& why) const {
  fail(ErrorCode::kUnsupported, "{}: {}", field(name), why);
}

// Metadata that means other arithmetic than any family's here.
void GgufConfig::refuse_what_nothing_reads() const {
  if (file_.get_int("split.count", 1) > 1) {
    fail(ErrorCode::kUnsupported,
         "{}: one part of a model split into {}; join them first (llama-gguf-split --merge)",
         source_, file_.get_int("split.count"));
  }
  if (!file_.get_bool(key("attention.causal"), true))
    unsupported("attention.causal", "only causal attention is known here");
  for (const char* name : {"attention.clamp_kqv", "attention.max_alibi_bias", "logit_scale",
                           "residual_scale", "embedding_scale"}) {
    if (file_.get_float(key(name), 0.0) != 0.0)
      unsupported(name, "is not known of this architecture");
  }
  for (const char* name : {"expert_shared_count", "leading_dense_block_count"}) {
    if (file_.get_int(key(name), 0) != 0) unsupported(name, "is not known of this architecture");
  }
}

int32_t GgufConfig::count(const char* name, int32_t max) const {
  const GgufValue* value = file_.find(key(name));
  const auto of_array = [&](const auto& values) {
    if (values.empty() ||
        std::any_of(values.begin(), values.end(), [&](auto v) { return v != values.front(); })) {
      unsupported(name, "differs from layer to layer");
    }
    return checked_count(
        field(name),
        std::in_range<int64_t>(values.front()) ? static_cast<int64_t>(values.front()) : -1, max);
  };
  if (value) {
    if (const auto* v = std::get_if<std::vector<uint64_t>>(value)) return of_array(*v);
    if (const auto* v = std::get_if<std::vector<int64_t>>(value)) return of_array(*v);
  }
  return checked_count(field(name), file_.get_int(key(name)), max);
}

double GgufConfig::number(const char* name, double fallback) const {
  return checked_positive(field(name), file_.get_float(key(name), fallback));
}

double GgufConfig::cap(const char* name, double fallback) const {
  const double value = file_.get_float(key(name), fallback);
  return value == 0.0 ? 0.0 : checked_positive(field(name), value);
}

int32_t GgufConfig::head_dim(const ModelConfig& config) const {
  if (!has("attention.key_length")) {
    if (config.hidden_size % config.num_qo_heads != 0) {
      fail(ErrorCode::kCorruptFile, "{}: embedding_length {} does not divide into {} heads",
           source_, config.hidden_size, config.num_qo_heads);
    }
    return checked_count(field("embedding_length / head_count"),
                         config.hidden_size / config.num_qo_heads, kMaxHeadDim);
  }
  const int32_t size = count("attention.key_length", kMaxHeadDim);
  if (file_.get_int(key("attention.value_length"), size) != size) {
    unsupported("attention.value_length", fmt::format("must equal attention.key_length, {}", size));
  }
  return size;
}

int32_t GgufConfig::vocab_size() const {
  const auto num_tokens = static_cast<int64_t>(file_.get_strings("tokenizer.ggml.tokens").size());
  if (has("vocab_size") && file_.get_int(key("vocab_size")) != num_tokens) {
    fail(ErrorCode::kCorruptFile, "{} is {}, but the tokenizer has {} tokens", field("vocab_size"),
         file_.get_int(key("vocab_size")), num_tokens);
  }
  return checked_count(fmt::format("{}: the number of tokens", source_), num_tokens, kMaxVocab);
}

void GgufConfig::read_decoder(const GgufDecoder& from, ModelConfig& config) const {
  if (!from.experts && has_experts())
    unsupported("expert_count", "mixtures of experts are not known of this architecture");
  config.name = file_.get_string("general.name", file_.get_string("general.basename", ""));
  config.num_layers = count("block_count", kMaxLayers);
  config.hidden_size = count("embedding_length", kMaxHidden);
  config.intermediate_size = count("feed_forward_length", kMaxHidden);
  config.num_qo_heads = count("attention.head_count", kMaxHeads);
  config.num_kv_heads = has("attention.head_count_kv") ? count("attention.head_count_kv", kMaxHeads)
                                                       : config.num_qo_heads;
  config.max_context = count("context_length", kMaxContext);
  config.norm_eps = checked_positive(field(from.norm_eps), file_.get_float(key(from.norm_eps)));
  config.head_dim = head_dim(config);
  config.vocab_size = vocab_size();
  config.tied_embeddings = !has_tensor("output.weight");
  config.qkv_bias = has_tensor("blk.0.attn_q.bias") || has_tensor("blk.0.attn_qkv.bias");
  config.attn_out_bias = has_tensor("blk.0.attn_output.bias");
  config.mlp_bias = has_tensor("blk.0.ffn_up.bias");
  config.layers.assign(static_cast<size_t>(config.num_layers), LayerConfig{});
  config.attention_scale =
      has("attention.scale") ? number("attention.scale", 0.0) : 1.0 / std::sqrt(config.head_dim);
  config.rope = read_rope(config);
  const std::vector<bool> sliding = sliding_layers(from, config);
  for (size_t layer = 0; layer < sliding.size(); ++layer) {
    if (sliding[layer] && window(from) < config.max_context)
      config.layers[layer].window = static_cast<int32_t>(window(from));
  }
}

void GgufConfig::read_experts(const char* intermediate, ModelConfig& config) const {
  config.num_experts = count("expert_count", kMaxExperts);
  config.experts_per_token = count("expert_used_count", kMaxExperts);
  config.expert_intermediate_size = count(intermediate, kMaxHidden);
  config.normalize_expert_weights = file_.get_bool(key("expert_weights_norm"), true);
  // 1: softmax over all experts.
  if (const int64_t function = file_.get_int(key("expert_gating_func"), 1); function != 1) {
    unsupported("expert_gating_func",
                fmt::format("{} is not known here (1, softmax, is)", function));
  }
  const double scale = file_.get_float(key("expert_weights_scale"), 0.0);
  if (scale != 0.0 && scale != 1.0)
    unsupported("expert_weights_scale", fmt::format("{} is not known here", scale));
  for (LayerConfig& layer : config.layers) layer.experts = true;
}

RopeConfig GgufConfig::read_rope(ModelConfig& config) const {
  RopeConfig rope;
  rope.base = number("rope.freq_base", 1e4);
  rope.dim =
      has("rope.dimension_count") ? count("rope.dimension_count", kMaxHeadDim) : config.head_dim;
  const std::string scaling = file_.get_string(key("rope.scaling.type"), "linear");
  const char* factor = has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  rope.freq_divisors = divisors("rope_freqs.weight", rope);
  if (scaling == "linear") {
    rope.factor = number(factor, 1.0);
    if (rope.factor != 1.0) rope.scaling = RopeScaling::kLinear;
  } else if (scaling == "yarn") {
    rope.factor = number(factor, 1.0);
    read_yarn(rope, config);
  } else if (scaling != "none" && scaling != "longrope") {
    unsupported("rope.scaling.type", fmt::format("'{}' is not known here (none, linear, yarn and "
                                                 "longrope are)",
                                                 scaling));
  }
  // longrope. A cached key cannot change its factor when a text grows beyond the original context,
  // so the context ends where the short factors do.
  const std::vector<float> short_factors = divisors("rope_factors_short.weight", rope);
  if (short_factors.empty() && has_tensor("rope_factors_long.weight")) {
    fail(ErrorCode::kCorruptFile, "{}: tensor 'rope_factors_short.weight' is missing", source_);
  }
  if (!short_factors.empty()) {
    rope.freq_divisors = short_factors;
    rope.original_context = count("rope.scaling.original_context_length", kMaxContext);
    rope.attention_factor = number("rope.scaling.attn_factor", 1.0);
    config.max_context = std::min(config.max_context, rope.original_context);
  } else if (scaling == "longrope") {
    fail(ErrorCode::kCorruptFile, "{} is 'longrope', but there is no rope_factors_short.weight",
         field("rope.scaling.type"));
  }
  return rope;
}

void GgufConfig::read_yarn(RopeConfig& rope, const ModelConfig& config) const {
  rope.scaling = RopeScaling::kYarn;
  rope.original_context = has("rope.scaling.original_context_length")
                              ? count("rope.scaling.original_context_length", kMaxContext)
                              : config.max_context;
  rope.beta_fast = number("rope.scaling.yarn_beta_fast", rope.beta_fast);
  rope.beta_slow = number("rope.scaling.yarn_beta_slow", rope.beta_slow);
  if (const double mix = file_.get_float(key("rope.scaling.yarn_ext_factor"), 1.0); mix != 1.0)
    unsupported("rope.scaling.yarn_ext_factor", fmt::format("{} is not known here (1 is)", mix));
  if (file_.get_float(key("rope.scaling.yarn_log_multiplier"), 0.0) != 0.0)
    unsupported("rope.scaling.yarn_log_multiplier", "is not known of this architecture");
  // llama.cpp's product.
  rope.attention_factor = number("rope.scaling.attn_factor", 1.0) *
                          number("rope.scaling.yarn_attn_factor", 1.0) *
                          (rope.factor > 1.0 ? 1.0 + 0.1 * std::log(rope.factor) : 1.0);
}

std::vector<float> GgufConfig::divisors(const char* name, const RopeConfig& rope) const {
  const TensorView* tensor = file_.find_tensor(name);
  if (!tensor) return {};
  if (tensor->dtype != DType::kF32 || tensor->shape != std::vector<int64_t>{rope.dim / 2}) {
    fail(ErrorCode::kCorruptFile, "{}: tensor '{}' is {} {}, not F32 [{}]", source_, name,
         dtype_name(tensor->dtype), shape_text(tensor->shape), rope.dim / 2);
  }
  if (tensor->data.empty())
    fail(ErrorCode::kCorruptFile, "{}: tensor '{}' has no data", source_, name);
  std::vector<float> values(static_cast<size_t>(rope.dim / 2));
  dequantize_rows(*tensor, 0, 1, values.data());
  for (float value : values)
    checked_positive(fmt::format("{}: a value of {}", source_, name), value);
  return values;
}

int64_t GgufConfig::window(const GgufDecoder& from) const {
  const int64_t window = has(kWindow) ? file_.get_int(key(kWindow)) : from.default_window;
  return window == 0 ? 0 : checked_count(field(kWindow), window, kMaxContext);
}

std::vector<bool> GgufConfig::sliding_layers(const GgufDecoder& from,
                                             const ModelConfig& config) const {
  constexpr const char* kPattern = "attention.sliding_window_pattern";
  std::vector<bool> sliding(config.layers.size(), false);
  if (window(from) == 0) return sliding;
  const GgufValue* pattern = file_.find(key(kPattern));
  // One flag for each layer: it slides.
  const auto by_layer = [&](const auto& flags) {
    if (flags.size() != sliding.size()) {
      fail(ErrorCode::kCorruptFile, "{} has {} entries for {} layers", field(kPattern),
           flags.size(), sliding.size());
    }
    std::transform(flags.begin(), flags.end(), sliding.begin(),
                   [](auto flag) { return flag != 0; });
    return sliding;
  };
  if (pattern) {
    if (const auto* flags = std::get_if<std::vector<bool>>(pattern)) return by_layer(*flags);
    if (const auto* flags = std::get_if<std::vector<uint64_t>>(pattern)) return by_layer(*flags);
    if (const auto* flags = std::get_if<std::vector<int64_t>>(pattern)) return by_layer(*flags);
  } else if (from.windows == GgufWindows::kRefused) {
    if (window(from) < config.max_context)
      unsupported(kWindow, "is not known of this architecture without sliding_window_pattern");
    return sliding;
  }
  // A number: all but the last of each so many.
  const int64_t period =
      pattern ? checked_count(field(kPattern), file_.get_int(key(kPattern)), kMaxLayers)
              : from.period;
  const bool all = !pattern && from.windows == GgufWindows::kAll;
  for (size_t layer = 0; layer < sliding.size(); ++layer)
    sliding[layer] = all || static_cast<int64_t>(layer) % period < period - 1;
  return sliding;
}

}  // namespace lowkey
