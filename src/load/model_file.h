#pragma once
// A model on disk, GGUF or Hugging Face folder, behind one face: configuration, weights under one
// set of names, tokenizer and template. Torch-free; the views live as long as the object.
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/mapped_file.h"
#include "load/tensor.h"
#include "load/tokenizer_spec.h"

namespace lowkey {

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3 };

struct RopeConfig {
  double base = 10000.0;
  int32_t dim = 0;  // rotated channels of each head (head_dim unless partial)
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;            // linear, llama3
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  int64_t original_context = 0;   // llama3
  // GGUF's rope_freqs.weight: divisors per frequency, [dim / 2]. Empty if absent. Overrides
  // `scaling`.
  std::vector<float> freq_divisors;
};

// Names as Hugging Face's, converted once here.
struct ModelConfig {
  std::string architecture;  // "llama"
  std::string name;          // for people
  int32_t num_layers = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t num_qo_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t vocab_size = 0;
  int64_t max_context = 0;
  double norm_eps = 1e-5;
  RopeConfig rope;
  bool tied_embeddings = false;
  bool qkv_bias = false;
  bool attn_out_bias = false;
  bool mlp_bias = false;
};

// Sampling the file's author recommends (generation_config.json); absent where it says nothing.
struct GenerationDefaults {
  std::optional<double> temperature, top_p, min_p;
  std::optional<int32_t> top_k;
};

enum class ModelFormat : uint8_t { kGguf, kHuggingFace };

class ModelFile {
 public:
  // `path`: a .gguf file, or a folder with config.json and model.safetensors (whole, or in shards
  // with an index). Reads no weights. Throws Error: kNotFound, kCorruptFile (byte offset, file),
  // kUnsupported (architecture, tensor type, feature by name).
  static ModelFile open(const std::filesystem::path& path);

  ModelFormat format() const;
  const std::filesystem::path& path() const;
  const ModelConfig& config() const;
  const TokenizerSpec& tokenizer() const;
  const std::string& chat_template() const;  // empty if the file has none
  const GenerationDefaults& generation() const;
  uint64_t weight_bytes() const;  // as stored

  // Weights under canonical names; shapes are checked against the configuration when opened:
  //   embed.weight [vocab, hidden]   final_norm.weight [hidden]   head.weight [vocab, hidden]
  //   (absent when tied) layers.N.attn_norm.weight   layers.N.{q,k,v,o}.weight (+ .bias)
  //   layers.N.mlp_norm.weight layers.N.{gate,up,down}.weight (+ .bias)
  // Throws Error kNotFound naming the model and the name if absent.
  const TensorView& tensor(std::string_view canonical) const;
  const TensorView* find_tensor(std::string_view canonical) const;
  const std::vector<std::string>& tensor_names() const;  // embed, the layers, final_norm, head

  // Identifies the model in recipes, calibration files and snapshots: SHA-256 over the
  // configuration, tensor names, types, shapes and a fixed sample of each tensor's bytes (not all
  // of them: opening a model must stay instant).
  std::string fingerprint() const;

  ModelFile(ModelFile&&) noexcept;
  ModelFile& operator=(ModelFile&&) noexcept;
  ~ModelFile();

  struct Impl;  // load/model_file_impl.h

 private:
  explicit ModelFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lowkey
