// A Hugging Face folder as a model: config.json, safetensors whole or in shards,
// generation_config.json, the tokenizer's files.
#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "load/families.h"
#include "load/hf_config.h"
#include "load/json.h"
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

// As the family's rows have it: without what a larger model puts before it.
std::string plain_name(const Family& family, const std::string& name) {
  for (const RenamedPrefix& prefix : family.renamed) {
    if (name.starts_with(prefix.in_file))
      return std::string(prefix.meant) + name.substr(prefix.in_file.size());
  }
  return name;
}

// Each shard once, and which of them holds which tensor. A single file is one shard.
class Shards {
 public:
  Shards(const fs::path& folder, const Family& family, ModelFile::Impl& impl)
      : family_(family), impl_(impl) {
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
      for (const auto& [in_file, type] : shard.other_types()) {
        if (in_file == name || plain_name(family_, in_file) == name) return type;
      }
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
        found_.insert(tensor.name);
        tensors_.emplace(plain_name(family_, tensor.name), &tensor);
      }
    }
    for (const auto& [name, file] : shard_of_) {
      if (!found_.contains(name) && unreadable(name).empty())
        fail(ErrorCode::kCorruptFile, "{}: tensor '{}' is not in {}", index_, name, file);
    }
  }

  const Family& family_;
  ModelFile::Impl& impl_;
  std::set<std::string> found_;
  std::string index_;  // empty without one
  std::map<std::string, std::string> shard_of_;
  std::map<std::string, const TensorView*> tensors_;
};

bool is_ignored(const ModelConfig& config, std::string_view name) {
  // Old checkpoints hold RoPE's frequencies, some hold the tied head a second time.
  if (name.ends_with(".rotary_emb.inv_freq") ||
      (config.tied_embeddings && name == "lm_head.weight")) {
    return true;
  }
  const auto& ignored = find_family(config.architecture)->ignored_prefixes;
  return std::any_of(ignored.begin(), ignored.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); });
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

void read_hf_config(const fs::path& folder, ModelFile::Impl& impl) {
  impl.format = ModelFormat::kHuggingFace;
  const nlohmann::json config = read_json_file(folder / "config.json", kMaxConfigBytes);
  impl.config = read_hf_config(JsonFields(config, (folder / "config.json").string()));
  impl.config.name = fs::canonical(folder).filename().string();
}

void read_hf_text(const fs::path& folder, ModelFile::Impl& impl) {
  const nlohmann::json config = read_json_file(folder / "config.json", kMaxConfigBytes);
  impl.tokenizer = tokenizer_spec_from_hf(folder);
  add_special_ids(JsonFields(config, (folder / "config.json").string()), impl.tokenizer);
  impl.generation = read_generation(folder);
  impl.chat_template = read_chat_template(folder);
}

std::unique_ptr<ModelFile::Impl> open_hf_model(const fs::path& folder) {
  auto impl = std::make_unique<ModelFile::Impl>();
  impl->path = folder;
  read_hf_config(folder, *impl);
  const Shards shards(folder, *find_family(impl->config.architecture), *impl);
  for (const WeightSpec& spec : weight_specs(impl->config, impl->format)) {
    const std::string type = shards.unreadable(spec.in_file);
    if (!type.empty()) {
      fail(ErrorCode::kUnsupported,
           "{}: tensor '{}' has type {}, which is not read (F32 F16 BF16 are)", folder.string(),
           spec.in_file, type);
    }
  }
  bind_weights(*impl, shards.tensors(), is_ignored);
  read_hf_text(folder, *impl);
  validate_tokenizer(*impl);
  return impl;
}

}  // namespace lowkey
