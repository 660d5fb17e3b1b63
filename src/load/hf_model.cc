// A Hugging Face folder as a model: config.json, safetensors whole or in shards,
// generation_config.json, the tokenizer's files.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "load/json.h"
#include "load/model_config.h"
#include "load/model_file_impl.h"
#include "load/printable.h"
#include "load/tokenizer_from_file.h"
#include "load/weight_names.h"

namespace lowkey {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = uint64_t{4} << 20;
constexpr uint64_t kMaxIndexBytes = uint64_t{64} << 20;
constexpr uint64_t kMaxTemplateBytes = uint64_t{1} << 20;

class HfConfigReader {
 public:
  explicit HfConfigReader(const JsonFields& json) : json_(json) {}

  ModelConfig read() const {
    ModelConfig config;
    config.architecture = "llama";
    const bool mistral = check_architecture();
    refuse_what_changes_the_model(mistral);
    config.num_layers = count("num_hidden_layers", kMaxLayers);
    config.hidden_size = count("hidden_size", kMaxHidden);
    config.intermediate_size = count("intermediate_size", kMaxHidden);
    config.num_qo_heads = count("num_attention_heads", kMaxHeads);
    config.num_kv_heads = json_.has("num_key_value_heads") ? count("num_key_value_heads", kMaxHeads)
                                                           : config.num_qo_heads;
    config.head_dim = head_dim(config);
    config.vocab_size = count("vocab_size", kMaxVocab);
    config.max_context = count("max_position_embeddings", kMaxContext);
    config.norm_eps = checked_positive(json_.describe("rms_norm_eps"),
                                       json_.get_float("rms_norm_eps").value_or(1e-6));
    config.tied_embeddings = json_.get_bool("tie_word_embeddings").value_or(false);
    // Llama's attention_bias is one switch for all four projections.
    config.qkv_bias = !mistral && json_.get_bool("attention_bias").value_or(false);
    config.attn_out_bias = config.qkv_bias;
    config.mlp_bias = !mistral && json_.get_bool("mlp_bias").value_or(false);
    config.rope = rope(config.head_dim);
    config.layers.resize(static_cast<size_t>(config.num_layers));
    config.attention_scale = 1.0 / std::sqrt(config.head_dim);
    validate_config(config, json_.source_name());
    return config;
  }

 private:
  [[noreturn]] void unsupported(std::string_view name, const std::string& why) const {
    fail(ErrorCode::kUnsupported, "{}: {}", json_.describe(name), why);
  }

  int32_t count(std::string_view name, int32_t max) const {
    return checked_count(json_.describe(name), json_.need(json_.get_int(name), name), max);
  }

  // True for Mistral, whose layer is Llama's as long as no window slides.
  bool check_architecture() const {
    std::string name = json_.get_string("model_type").value_or("");
    if (const nlohmann::json* list = json_.find("architectures")) {
      if (!list->is_array() || list->size() != 1 || !list->front().is_string())
        fail(ErrorCode::kCorruptFile, "{} is not one name", json_.describe("architectures"));
      name = list->front().get<std::string>();
    }
    if (name == "LlamaForCausalLM" || name == "llama") return false;
    if (name == "MistralForCausalLM" || name == "mistral") return true;
    fail(ErrorCode::kUnsupported,
         "{}: architecture '{}' is not known here (LlamaForCausalLM and MistralForCausalLM are)",
         json_.source_name(), is_printable(name) ? name : "(unprintable)");
  }

  void refuse_what_changes_the_model(bool mistral) const {
    const std::string activation = json_.get_string("hidden_act").value_or("silu");
    if (activation != "silu") unsupported("hidden_act", "only 'silu' is known here");
    if (json_.has("quantization_config")) {
      unsupported(
          "quantization_config",
          "weights quantized in a Hugging Face folder are not read; use the original or a GGUF");
    }
    if (!mistral) return;
    const std::optional<int64_t> window = json_.get_int("sliding_window");
    if (window && *window < json_.get_int("max_position_embeddings").value_or(0))
      unsupported("sliding_window", fmt::format("a window of {} is not known here", *window));
  }

  int32_t head_dim(const ModelConfig& config) const {
    if (json_.has("head_dim")) return count("head_dim", kMaxHeadDim);
    if (config.hidden_size % config.num_qo_heads != 0) {
      fail(ErrorCode::kCorruptFile, "{}: hidden_size {} does not divide into {} heads",
           json_.source_name(), config.hidden_size, config.num_qo_heads);
    }
    return checked_count(json_.describe("hidden_size / num_attention_heads"),
                         config.hidden_size / config.num_qo_heads, kMaxHeadDim);
  }

  // transformers 5 writes everything into rope_parameters; before, rope_theta stood alone and
  // rope_scaling held the rest, its kind called rope_type or, earlier, type.
  RopeConfig rope(int32_t head_dim) const {
    RopeConfig rope;
    const auto parameters = json_.get_object("rope_parameters");
    const auto scaling = parameters ? parameters : json_.get_object("rope_scaling");
    read_base_and_dim(parameters ? *parameters : json_, head_dim, rope);
    if (!scaling) return rope;
    const std::string kind =
        scaling->get_string("rope_type").value_or(scaling->get_string("type").value_or("default"));
    if (kind == "default") return rope;
    if (kind != "linear" && kind != "llama3") {
      fail(ErrorCode::kUnsupported, "{}: '{}' is not known here (default, linear and llama3 are)",
           scaling->describe("rope_type"), is_printable(kind) ? kind : "(unprintable)");
    }
    const auto positive = [&](std::string_view name) {
      return checked_positive(scaling->describe(name),
                              scaling->need(scaling->get_float(name), name));
    };
    rope.factor = positive("factor");
    if (kind == "linear") {
      rope.scaling = RopeScaling::kLinear;
      return rope;
    }
    rope.scaling = RopeScaling::kLlama3;
    rope.low_freq_factor = positive("low_freq_factor");
    rope.high_freq_factor = positive("high_freq_factor");
    const std::string_view original = "original_max_position_embeddings";
    rope.original_context =
        checked_count(scaling->describe(original),
                      scaling->need(scaling->get_int(original), original), kMaxContext);
    return rope;
  }

  void read_base_and_dim(const JsonFields& from, int32_t head_dim, RopeConfig& rope) const {
    for (const char* name : {"full_attention", "sliding_attention"}) {
      if (from.find(name) && from.find(name)->is_object())
        fail(ErrorCode::kUnsupported, "{}: rope per kind of layer is not known here",
             from.describe(name));
    }
    rope.base =
        checked_positive(from.describe("rope_theta"), from.get_float("rope_theta").value_or(1e4));
    const JsonFields& holder = from.has("partial_rotary_factor") ? from : json_;
    const double part = checked_positive(holder.describe("partial_rotary_factor"),
                                         holder.get_float("partial_rotary_factor").value_or(1.0));
    if (part > 1.0) {
      fail(ErrorCode::kCorruptFile, "{} is {}, more than 1",
           holder.describe("partial_rotary_factor"), part);
    }
    rope.dim = static_cast<int32_t>(head_dim * part);
  }

  const JsonFields& json_;
};

// Each shard once, and which of them holds which tensor. A single file is one shard.
class Shards {
 public:
  Shards(const fs::path& folder, ModelFile::Impl& impl) : impl_(impl) {
    const fs::path whole = folder / "model.safetensors";
    const fs::path index = folder / "model.safetensors.index.json";
    if (fs::exists(whole)) {
      impl_.shards.push_back(SafetensorsFile::open(whole));
    } else if (fs::exists(index)) {
      open_indexed(folder, index);
    } else {
      fail(ErrorCode::kNotFound, "{}: no model.safetensors and no model.safetensors.index.json{}",
           folder.string(),
           fs::exists(folder / "pytorch_model.bin")
               ? " (pytorch_model.bin is not read: save the model as safetensors)"
               : "");
    }
    collect();
  }

  const std::map<std::string, const TensorView*>& tensors() const { return tensors_; }

  // The element type of a tensor that is there but cannot be read; empty if there is none.
  std::string unreadable(const std::string& name) const {
    for (const SafetensorsFile& shard : impl_.shards) {
      const auto at = shard.other_types().find(name);
      if (at != shard.other_types().end()) return at->second;
    }
    return "";
  }

 private:
  void open_indexed(const fs::path& folder, const fs::path& index) {
    const nlohmann::json json = read_json_file(index, kMaxIndexBytes);
    const JsonFields top(json, index.string());
    const nlohmann::json* map = top.find("weight_map");
    if (!map || !map->is_object())
      fail(ErrorCode::kCorruptFile, "{} is not an object", top.describe("weight_map"));
    for (const auto& [name, file] : map->items()) {
      // A plain name: an index must not reach outside its folder.
      if (!file.is_string() || !is_printable(file.get<std::string>()) ||
          file.get<std::string>().empty() ||
          fs::path(file.get<std::string>()).filename() != file.get<std::string>() || file == ".." ||
          file == ".") {
        fail(ErrorCode::kCorruptFile, "{}: the file of tensor '{}' is not a file name",
             index.string(), is_printable(name) ? name : "(unprintable)");
      }
      shard_of_[name] = file.get<std::string>();
    }
    std::map<std::string, bool> opened;
    for (const auto& [name, file] : shard_of_) {
      if (!opened.emplace(file, true).second) continue;
      impl_.shards.push_back(SafetensorsFile::open(folder / file));
    }
    index_ = index.string();
  }

  void collect() {
    for (const SafetensorsFile& shard : impl_.shards) {
      const std::string file = fs::path(shard.source_name()).filename().string();
      for (const TensorView& tensor : shard.tensors()) {
        if (!index_.empty()) {
          const auto at = shard_of_.find(tensor.name);
          if (at == shard_of_.end() || at->second != file) {
            fail(ErrorCode::kCorruptFile,
                 "{}: tensor '{}' lies in {}, which the index does not say", index_, tensor.name,
                 file);
          }
        }
        tensors_.emplace(tensor.name, &tensor);
      }
    }
    for (const auto& [name, file] : shard_of_) {
      if (!tensors_.contains(name) && unreadable(name).empty())
        fail(ErrorCode::kCorruptFile, "{}: tensor '{}' is not in {}", index_, name, file);
    }
  }

  ModelFile::Impl& impl_;
  std::string index_;  // empty without one
  std::map<std::string, std::string> shard_of_;
  std::map<std::string, const TensorView*> tensors_;
};

bool is_ignored(const ModelConfig& config, std::string_view name) {
  // Old checkpoints hold RoPE's frequencies, some hold the tied head a second time.
  return name.ends_with(".rotary_emb.inv_freq") ||
         (config.tied_embeddings && name == "lm_head.weight");
}

GenerationDefaults read_generation(const fs::path& folder) {
  GenerationDefaults defaults;
  const fs::path path = folder / "generation_config.json";
  if (!fs::exists(path)) return defaults;
  const nlohmann::json json = read_json_file(path, kMaxConfigBytes);
  const JsonFields fields(json, path.string());
  defaults.temperature = fields.get_float("temperature");
  defaults.top_p = fields.get_float("top_p");
  defaults.min_p = fields.get_float("min_p");
  if (const auto top_k = fields.get_int("top_k"))
    defaults.top_k = static_cast<int32_t>(std::clamp<int64_t>(*top_k, 0, INT32_MAX));
  return defaults;
}

// A file of its own since transformers 4.52; before, a string in tokenizer_config.json, or a list
// of named ones of which "default" is for chat.
std::string read_chat_template(const fs::path& folder) {
  if (fs::exists(folder / "chat_template.jinja"))
    return read_file(folder / "chat_template.jinja", kMaxTemplateBytes);
  const fs::path path = folder / "tokenizer_config.json";
  if (!fs::exists(path)) return "";
  const nlohmann::json json = read_json_file(path, kMaxConfigBytes);
  const JsonFields fields(json, path.string());
  const nlohmann::json* value = fields.find("chat_template");
  if (!value || !value->is_array()) return fields.get_string("chat_template").value_or("");
  for (const nlohmann::json& entry : *value) {
    const JsonFields named(entry, path.string(), "chat_template[].");
    if (named.get_string("name") == "default")
      return named.need(named.get_string("template"), "template");
  }
  return "";
}

// config.json's ids count where the tokenizer's own files say nothing.
void add_special_ids(const JsonFields& json, TokenizerSpec& spec) {
  const auto ids = [&](std::string_view name) {
    std::vector<int32_t> found;
    const nlohmann::json* value = json.find(name);
    if (!value) return found;
    for (const nlohmann::json& id : value->is_array() ? *value : nlohmann::json::array({*value})) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX)
        fail(ErrorCode::kCorruptFile, "{} is not a token id", json.describe(name));
      found.push_back(id.get<int32_t>());
    }
    return found;
  };
  const std::vector<int32_t> bos = ids("bos_token_id");
  if (spec.bos < 0 && !bos.empty()) spec.bos = bos.front();
  for (int32_t id : ids("eos_token_id")) {
    if (spec.eos < 0) spec.eos = id;
    if (std::find(spec.end_of_generation.begin(), spec.end_of_generation.end(), id) ==
        spec.end_of_generation.end()) {
      spec.end_of_generation.push_back(id);
    }
  }
}

}  // namespace

std::unique_ptr<ModelFile::Impl> open_hf_model(const fs::path& folder) {
  auto impl = std::make_unique<ModelFile::Impl>();
  impl->format = ModelFormat::kHuggingFace;
  impl->path = folder;
  const nlohmann::json config = read_json_file(folder / "config.json", kMaxConfigBytes);
  const JsonFields fields(config, (folder / "config.json").string());
  impl->config = HfConfigReader(fields).read();
  impl->config.name = fs::canonical(folder).filename().string();
  const Shards shards(folder, *impl);
  for (const WeightSpec& spec : weight_specs(impl->config, impl->format)) {
    const std::string type = shards.unreadable(spec.in_file);
    if (!type.empty()) {
      fail(ErrorCode::kUnsupported,
           "{}: tensor '{}' has type {}, which is not read (F32 F16 BF16 are)", folder.string(),
           spec.in_file, type);
    }
  }
  bind_weights(*impl, shards.tensors(), is_ignored);
  impl->tokenizer = tokenizer_spec_from_hf(folder);
  add_special_ids(fields, impl->tokenizer);
  impl->generation = read_generation(folder);
  impl->chat_template = read_chat_template(folder);
  validate_tokenizer(*impl);
  return impl;
}

}  // namespace lowkey
