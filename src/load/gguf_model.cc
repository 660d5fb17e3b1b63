// A GGUF file as a model: metadata under llama.cpp's keys, tensors under its names.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "load/model_config.h"
#include "load/model_file_impl.h"
#include "load/tokenizer_from_file.h"

namespace lowkey {
namespace {

class GgufModelReader {
 public:
  explicit GgufModelReader(const GgufFile& file) : file_(file), source_(file.source_name()) {}

  ModelConfig config(int64_t num_tokens) {
    ModelConfig config;
    config.architecture = file_.get_string("general.architecture");
    if (config.architecture != "llama") {
      fail(ErrorCode::kUnsupported, "{}: architecture '{}' is not known here (llama is)", source_,
           config.architecture);
    }
    refuse_what_changes_the_model();
    config.name = file_.get_string("general.name", file_.get_string("general.basename", ""));
    config.num_layers = count("block_count", kMaxLayers);
    config.hidden_size = count("embedding_length", kMaxHidden);
    config.intermediate_size = count("feed_forward_length", kMaxHidden);
    config.num_qo_heads = count("attention.head_count", kMaxHeads);
    config.num_kv_heads = has("attention.head_count_kv")
                              ? count("attention.head_count_kv", kMaxHeads)
                              : config.num_qo_heads;
    config.max_context = count("context_length", kMaxContext);
    config.norm_eps = checked_positive(field("attention.layer_norm_rms_epsilon"),
                                       file_.get_float(key("attention.layer_norm_rms_epsilon")));
    config.head_dim = head_dim(config);
    config.vocab_size = vocab_size(num_tokens);
    config.tied_embeddings = !file_.find_tensor("output.weight");
    config.qkv_bias = file_.find_tensor("blk.0.attn_q.bias") != nullptr;
    config.attn_out_bias = file_.find_tensor("blk.0.attn_output.bias") != nullptr;
    config.mlp_bias = file_.find_tensor("blk.0.ffn_gate.bias") != nullptr;
    config.rope = rope(config.head_dim);
    config.layers.resize(static_cast<size_t>(config.num_layers));
    config.attention_scale = 1.0 / std::sqrt(config.head_dim);
    validate_config(config, source_);
    return config;
  }

  GenerationDefaults generation() const {
    GenerationDefaults defaults;
    const auto number = [&](const char* name, std::optional<double>& out) {
      if (file_.find(name)) out = file_.get_float(name);
    };
    number("general.sampling.temp", defaults.temperature);
    number("general.sampling.top_p", defaults.top_p);
    number("general.sampling.min_p", defaults.min_p);
    if (file_.find("general.sampling.top_k")) {
      defaults.top_k = static_cast<int32_t>(
          std::clamp<int64_t>(file_.get_int("general.sampling.top_k"), 0, INT32_MAX));
    }
    return defaults;
  }

 private:
  static std::string key(const char* name) { return std::string("llama.") + name; }
  std::string field(const char* name) const { return fmt::format("{}: llama.{}", source_, name); }
  bool has(const char* name) const { return file_.find(key(name)) != nullptr; }

  [[noreturn]] void unsupported(const char* name, const std::string& why) const {
    fail(ErrorCode::kUnsupported, "{}: llama.{}: {}", source_, name, why);
  }

  // Metadata that means other arithmetic than the plain Llama layer's.
  void refuse_what_changes_the_model() const {
    if (file_.get_int("split.count", 1) > 1) {
      fail(ErrorCode::kUnsupported,
           "{}: one part of a model split into {}; join them first (llama-gguf-split --merge)",
           source_, file_.get_int("split.count"));
    }
    if (file_.get_int(key("expert_count"), 0) > 0)
      unsupported("expert_count", "mixtures of experts are not known here");
    if (!file_.get_bool(key("attention.causal"), true))
      unsupported("attention.causal", "only causal attention is known here");
    const int64_t window = file_.get_int(key("attention.sliding_window"), 0);
    if (window > 0 && window < file_.get_int(key("context_length"), 0))
      unsupported("attention.sliding_window", "sliding windows are not known here");
  }

  // A count, or one for each layer as long as they are all the same.
  int32_t count(const char* name, int32_t max) const {
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

  int32_t head_dim(const ModelConfig& config) const {
    if (!has("attention.key_length")) {
      if (config.hidden_size % config.num_qo_heads != 0) {
        fail(ErrorCode::kCorruptFile, "{}: embedding_length {} does not divide into {} heads",
             source_, config.hidden_size, config.num_qo_heads);
      }
      return checked_count(field("embedding_length / head_count"),
                           config.hidden_size / config.num_qo_heads, kMaxHeadDim);
    }
    const int32_t size = count("attention.key_length", kMaxHeadDim);
    if (file_.get_int(key("attention.value_length"), size) != size)
      unsupported("attention.value_length",
                  fmt::format("must equal attention.key_length, {}", size));
    return size;
  }

  int32_t vocab_size(int64_t num_tokens) const {
    if (has("vocab_size") && file_.get_int(key("vocab_size")) != num_tokens) {
      fail(ErrorCode::kCorruptFile, "{} is {}, but the tokenizer has {} tokens",
           field("vocab_size"), file_.get_int(key("vocab_size")), num_tokens);
    }
    return checked_count(fmt::format("{}: the number of tokens", source_), num_tokens, kMaxVocab);
  }

  RopeConfig rope(int32_t head_dim) const {
    RopeConfig rope;
    rope.base =
        checked_positive(field("rope.freq_base"), file_.get_float(key("rope.freq_base"), 1e4));
    rope.dim = has("rope.dimension_count") ? count("rope.dimension_count", kMaxHeadDim) : head_dim;
    const std::string scaling = file_.get_string(key("rope.scaling.type"), "linear");
    const char* factor = has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
    if (scaling == "linear") {
      if (has(factor)) rope.factor = checked_positive(field(factor), file_.get_float(key(factor)));
      if (rope.factor != 1.0) rope.scaling = RopeScaling::kLinear;
    } else if (scaling != "none") {
      unsupported("rope.scaling.type", fmt::format("'{}' is not known here", scaling));
    }
    read_freq_divisors(rope);
    return rope;
  }

  // Llama 3's scaling arrives as a tensor: what each frequency is divided by.
  void read_freq_divisors(RopeConfig& rope) const {
    const TensorView* tensor = file_.find_tensor("rope_freqs.weight");
    if (!tensor) return;
    if (tensor->dtype != DType::kF32 || tensor->shape != std::vector<int64_t>{rope.dim / 2}) {
      fail(ErrorCode::kCorruptFile, "{}: tensor 'rope_freqs.weight' is {} {}, not F32 [{}]",
           source_, dtype_name(tensor->dtype), shape_text(tensor->shape), rope.dim / 2);
    }
    rope.freq_divisors.resize(static_cast<size_t>(rope.dim / 2));
    dequantize_rows(*tensor, 0, 1, rope.freq_divisors.data());
    for (float divisor : rope.freq_divisors)
      checked_positive(fmt::format("{}: a value of rope_freqs.weight", source_), divisor);
  }

  const GgufFile& file_;
  const std::string& source_;
};

bool is_ignored(const ModelConfig&, std::string_view name) {
  return name == "rope_freqs.weight";  // read above
}

}  // namespace

std::unique_ptr<ModelFile::Impl> open_gguf_model(const std::filesystem::path& path) {
  auto impl = std::make_unique<ModelFile::Impl>();
  impl->format = ModelFormat::kGguf;
  impl->path = path;
  impl->gguf = std::make_unique<GgufFile>(GgufFile::open(path));
  const GgufFile& file = *impl->gguf;
  impl->tokenizer = tokenizer_spec_from_gguf(file);
  GgufModelReader reader(file);
  impl->config = reader.config(static_cast<int64_t>(impl->tokenizer.tokens.size()));
  impl->generation = reader.generation();
  impl->chat_template = file.get_string("tokenizer.chat_template", "");
  std::map<std::string, const TensorView*> in_file;
  for (const TensorView& tensor : file.tensors()) in_file.emplace(tensor.name, &tensor);
  bind_weights(*impl, in_file, is_ignored);
  validate_tokenizer(*impl);
  return impl;
}

}  // namespace lowkey
