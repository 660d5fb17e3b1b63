#pragma once
// A tiny Llama-architecture model from a seed, written as a Hugging Face folder or as a GGUF.
// tools/tiny_model.py makes the same one, byte for byte (tests/golden/tiny_model.json), so goldens
// made with Python need no weights in the repository.
//
// How values come about, the contract with Python: one SplitMix64(seed) for the whole model.
// Tensors in the order of tensors(): embed.weight; for each layer attn_norm.weight, q.weight,
// q.bias, k.weight, k.bias, v.weight, v.bias, o.weight, o.bias, mlp_norm.weight, gate.weight,
// gate.bias, up.weight, up.bias, down.weight, down.bias; final_norm.weight, head.weight. Biases
// only where there are any, the head unless tied. Each tensor row by row in Hugging Face's order,
// each value one uniform():  x = uniform() * 2 - 1 (double), then
//   embed and head   float(x)
//   norm weights     float(1 + 0.1 * x)
//   biases           float(0.1 * x)
//   other matrices   float(sqrt(3 / columns) * x): outputs of unit variance
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "load/model_file.h"
#include "support/gguf_writer.h"

namespace lowkey::test {

struct TinyModelOptions {
  uint64_t seed = 1;
  int32_t layers = 2;
  int32_t hidden = 64;
  int32_t heads = 4;
  int32_t kv_heads = 2;
  int32_t head_dim = 16;
  int32_t ffn = 128;
  int32_t vocab = 320;  // at least 291: 256 bytes, 32 merges, 3 special tokens; the rest are unused
  int32_t max_context = 512;
  bool tied = true;
  bool attention_bias = false;  // q, k, v and o, as Hugging Face's one switch
  bool mlp_bias = false;        // gate, up and down
  double norm_eps = 1e-5;
  double rope_base = 10000.0;
  RopeScaling rope_scaling = RopeScaling::kNone;  // linear: factor 4; llama3: 8, 1, 4, 64
  DType dtype = DType::kF32;  // F32, F16 or BF16: values are rounded to it, whatever the format
  int32_t shards = 1;         // files of the Hugging Face folder
};

struct TinyTensor {
  std::string canonical, hugging_face, gguf;
  std::vector<int64_t> shape;
  std::vector<float> values;  // rounded to the dtype; rows in Hugging Face's order
  bool rotated = false;       // Q and K: interleaved in GGUF
};

class TinyModel {
 public:
  explicit TinyModel(TinyModelOptions options = {});

  const TinyModelOptions& options() const { return options_; }
  const std::vector<TinyTensor>& tensors() const { return tensors_; }
  const TinyTensor& tensor(const std::string& canonical) const;

  // config.json, generation_config.json, tokenizer.json (byte-level BPE, GPT-2's splitting),
  // tokenizer_config.json (with a ChatML template), model.safetensors or shards with an index.
  void write_hugging_face(const std::filesystem::path& folder) const;

  // The same model; vectors are F32 as GGUF has them, Q and K interleaved. Tests damage the writer.
  GgufWriter gguf() const;
  void write_gguf(const std::filesystem::path& path) const;

  static const char* chat_template();

  // All but the weights and config.json, for models of other shapes: the tokenizer, its template
  // and the sampling defaults, as files of a folder or as entries of a GGUF.
  static void write_tokenizer(const std::filesystem::path& folder, int32_t vocab,
                              int32_t max_context);
  static void add_tokenizer(GgufWriter& writer, int32_t vocab);

 private:
  TinyModelOptions options_;
  std::vector<TinyTensor> tensors_;
};

}  // namespace lowkey::test
