#pragma once
// What stands behind ModelFile, and the two ways to fill it. Internal to load/.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "load/gguf.h"
#include "load/model_file.h"
#include "load/safetensors.h"

namespace lowkey {

struct ModelFile::Impl {
  ModelFormat format = ModelFormat::kGguf;
  std::filesystem::path path;
  ModelConfig config;
  TokenizerSpec tokenizer;
  std::string chat_template;
  GenerationDefaults generation;
  std::vector<std::string> names;  // canonical, in canonical order
  std::map<std::string, TensorView, std::less<>> tensors;
  uint64_t weight_bytes = 0;
  std::string source_fingerprint;  // of a quantized model; empty: it is its own
  std::optional<QuantizationInfo> quantization;

  // Own the bytes that the views borrow.
  std::unique_ptr<GgufFile> gguf;
  std::vector<SafetensorsFile> shards;
};

std::unique_ptr<ModelFile::Impl> open_gguf_model(const std::filesystem::path& path);
std::unique_ptr<ModelFile::Impl> open_hf_model(const std::filesystem::path& folder);
std::unique_ptr<ModelFile::Impl> open_quantized_model(const std::filesystem::path& folder);

// All but the weights, and before them the configuration: of a GGUF and of a Hugging Face folder.
void read_gguf_front(const GgufFile& file, ModelFile::Impl& impl);
void read_hf_config(const std::filesystem::path& folder, ModelFile::Impl& impl);
void read_hf_text(const std::filesystem::path& folder, ModelFile::Impl& impl);

// Finds every weight of impl.config among `in_file`, checks its shape and takes it over. Throws
// Error kCorruptFile naming what is missing or misshapen, kUnsupported naming a tensor that is left
// over: an architecture with more weights than these would otherwise run and answer nonsense.
// `is_ignored` says which left-over names are harmless.
void bind_weights(ModelFile::Impl& impl, const std::map<std::string, const TensorView*>& in_file,
                  bool (*is_ignored)(const ModelConfig& config, std::string_view name));

// Special ids lie in the vocabulary, and the vocabulary in the embedding.
void validate_tokenizer(const ModelFile::Impl& impl);

}  // namespace lowkey
