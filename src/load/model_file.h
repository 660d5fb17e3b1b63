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

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn };

struct RopeConfig {
  double base = 10000.0;
  int32_t dim = 0;  // rotated channels of each head (head_dim unless partial)
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;            // linear, llama3, yarn
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  int64_t original_context = 0;   // llama3, yarn
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  // cos and sin are multiplied by it (yarn, longrope), so scores by its square.
  double attention_factor = 1.0;
  // GGUF's rope_freqs.weight: divisors per frequency, [dim / 2]. Empty if absent. Overrides
  // `scaling`.
  std::vector<float> freq_divisors;
};

enum class NormKind : uint8_t { kRms, kLayer };
enum class Activation : uint8_t { kSilu, kGelu, kGeluTanh, kRelu };
// Not at all (NoPE), as ModelConfig::rope says, or as local_rope does.
enum class RopeUse : uint8_t { kNone, kMain, kLocal };

// What one decoder layer does otherwise than its neighbours.
struct LayerConfig {
  int32_t window = 0;  // tokens it sees, the newest included; 0: all
  RopeUse rope = RopeUse::kMain;
  bool experts = false;  // its MLP is a mixture: ModelConfig::num_experts of them, routed
};

// A decoder-only transformer as one description: what families do differently are fields, and a
// family is how its files fill them. Names as Hugging Face's, converted once here.
//
// A sequential layer: x += post_attn_norm(attention(attn_norm(x))), then the same with the MLP and
// its norms. A parallel one: x += attention(attn_norm(x)) + mlp(mlp_norm(x)).
struct ModelConfig {
  std::string architecture;  // of the family: "llama", "gemma3" (load/families.h)
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

  std::vector<LayerConfig> layers;  // [num_layers]
  RopeConfig local_rope;            // of layers whose rope is kLocal

  NormKind norm = NormKind::kRms;
  bool norm_bias = false;      // LayerNorm's
  bool norm_plus_one = false;  // the file holds weights less 1 (Gemma's of Hugging Face)
  bool post_norms = false;     // what attention and MLP add is normed too (Gemma)
  bool qk_norm = false;        // RMS norm of each query and key head before RoPE
  bool parallel = false;       // attention and MLP see the same x (Falcon)
  bool shared_norm = false;    // of a parallel layer: its mlp_norm is its attn_norm
  bool gated_mlp = true;       // act(gate(n)) * up(n), else act(up(n))
  Activation activation = Activation::kSilu;
  double embedding_scale = 1.0;    // Gemma: sqrt(hidden_size)
  double attention_scale = 0.0;    // of scores; 1 / sqrt(head_dim) but for Gemma
  double attention_softcap = 0.0;  // scores become cap * tanh(score / cap); 0: they do not
  double logit_softcap = 0.0;      // likewise logits
  // Scores get slope(head) * attention_scale * (key position - query position): Falcon adds ALiBi
  // before it scales, with slopes rounded to bfloat16.
  bool alibi = false;
  bool learned_positions = false;  // OPT: a row per position is added to the embedding
  int32_t position_offset = 0;     // the table's first row for position 0 (OPT: 2)

  int32_t num_experts = 0;
  int32_t experts_per_token = 0;
  int32_t expert_intermediate_size = 0;
  bool normalize_expert_weights = true;  // the chosen experts' weights are made to sum to 1

  // Of folders that `lowkey quantize` wrote (docs/formats/weights.md); other models leave them so.
  // The inputs of the layers' matrices are rounded, row by row, to so many bits; 16: not at all.
  // Computed in floats, on ATen: a simulation.
  int32_t activation_bits = 16;
  bool activation_symmetric = true;  // codes of both signs around 0; else min to max
  double activation_clip = 1.0;      // of the row's largest magnitude (of its min and max)
  // Rotations by Sylvester's H / sqrt(n) of what the weights were made for (QuaRot, arXiv
  // 2404.00456): queries and keys per head after RoPE; values per head, where v's and o's weights
  // hold both sides and only a prefix from elsewhere must be turned; the inputs of down.
  bool hadamard_qk = false;
  bool hadamard_v = false;
  bool hadamard_down = false;
};

// What a Hugging Face folder's config.json says of its model. `source_name` is for messages. Throws
// Error kCorruptFile, kUnsupported.
ModelConfig config_from_hugging_face(std::string_view json, std::string_view source_name);

// Numbers in all weights of such a model: what files of it hold.
int64_t parameter_count(const ModelConfig& config);

// Sampling the file's author recommends (generation_config.json); absent where it says nothing.
struct GenerationDefaults {
  std::optional<double> temperature, top_p, min_p;
  std::optional<int32_t> top_k;
};

enum class ModelFormat : uint8_t { kGguf, kHuggingFace };

// What a folder that `lowkey quantize` wrote says of itself, besides what the configuration and the
// source's fingerprint hold.
struct QuantizationInfo {
  std::string method;  // "gptq"
  int32_t bits = 0;
  int32_t group = 0;   // inputs that share a scale; 0: whole rows
  std::string source;  // the source's name, for people
  std::string command;
  std::string text;  // what it was calibrated on; empty: nothing
  int64_t samples = 0;
  int64_t context = 0;  // tokens of each
  std::vector<std::string> notes;
};

class ModelFile {
 public:
  // `path`: a .gguf file, or a folder with config.json and model.safetensors (whole, or in shards
  // with an index), or one that `lowkey quantize` wrote (docs/formats/weights.md). Reads no
  // weights. Throws Error: kNotFound, kCorruptFile (byte offset, file), kUnsupported (architecture,
  // tensor type, feature by name).
  static ModelFile open(const std::filesystem::path& path);

  ModelFormat format() const;                    // of a quantized folder: its source's
  const QuantizationInfo* quantization() const;  // null: not from `lowkey quantize`
  const std::filesystem::path& path() const;
  const ModelConfig& config() const;
  const TokenizerSpec& tokenizer() const;
  const std::string& chat_template() const;  // empty if the file has none
  const GenerationDefaults& generation() const;
  uint64_t weight_bytes() const;  // as stored

  // Weights under canonical names; shapes are checked against the configuration when opened:
  //   embed.weight [vocab, hidden]   final_norm.weight [hidden]   head.weight [vocab, hidden]
  //   (absent when tied) layers.N.attn_norm.weight   layers.N.{q,k,v,o}.weight (+ .bias)
  //   layers.N.mlp_norm.weight layers.N.{gate,up,down}.weight (+ .bias; gate absent unless gated)
  // and where the configuration says so: positions.weight [max_context + offset, hidden], .bias of
  // all norms, layers.N.{q_norm,k_norm}.weight [head_dim], layers.N.{post_attn_norm,post_mlp_norm}
  // .weight, layers.N.router.weight [experts, hidden] and layers.N.experts.E.{gate,up,down}.weight
  // in place of the layer's MLP. Parts of a fused matrix are views of its rows.
  // Throws Error kNotFound naming the model and the name if absent.
  const TensorView& tensor(std::string_view canonical) const;
  const TensorView* find_tensor(std::string_view canonical) const;
  const std::vector<std::string>& tensor_names() const;  // embed, the layers, final_norm, head

  // Identifies the model in recipes, calibration files and snapshots: SHA-256 over the
  // configuration, tensor names, types, shapes and a fixed sample of each tensor's bytes (not all
  // of them: opening a model must stay instant).
  std::string fingerprint() const;
  // Of the 16-bit model whose weights `lowkey quantize` rounded; fingerprint() for all others. What
  // an intact prefix is made for: a quantized model takes its source's.
  std::string source_fingerprint() const;

  ModelFile(ModelFile&&) noexcept;
  ModelFile& operator=(ModelFile&&) noexcept;
  ~ModelFile();

  struct Impl;  // load/model_file_impl.h

 private:
  explicit ModelFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lowkey
