#include "architectures.h"

#include <algorithm>
#include <cctype>
#include <string>

namespace lowkey {
namespace {

constexpr bool kTied = true, kUntied = false, kBias = true, kNoBias = false, kQkNorm = true;

// config.json of each model's repository. tests/apps/plan_test.cc holds the parameter counts
// against those of the files that were published.
constexpr Architecture kArchitectures[] = {
    {"Llama-2-7B", 32, 4096, 11008, 32, 32, 128, 32000, 4096},
    {"Llama-2-13B", 40, 5120, 13824, 40, 40, 128, 32000, 4096},
    {"Llama-2-70B", 80, 8192, 28672, 64, 8, 128, 32000, 4096},
    {"Llama-3-8B", 32, 4096, 14336, 32, 8, 128, 128256, 8192},
    {"Llama-3-70B", 80, 8192, 28672, 64, 8, 128, 128256, 8192},
    {"Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128, 128256, 131072},
    {"Llama-3.1-70B", 80, 8192, 28672, 64, 8, 128, 128256, 131072},
    {"Llama-3.1-405B", 126, 16384, 53248, 128, 8, 128, 128256, 131072},
    {"Llama-3.2-1B", 16, 2048, 8192, 32, 8, 64, 128256, 131072, kTied},
    {"Llama-3.2-3B", 28, 3072, 8192, 24, 8, 128, 128256, 131072, kTied},
    {"Llama-3.3-70B", 80, 8192, 28672, 64, 8, 128, 128256, 131072},
    {"SmolLM2-135M", 30, 576, 1536, 9, 3, 64, 49152, 8192, kTied},
    {"SmolLM2-360M", 32, 960, 2560, 15, 5, 64, 49152, 8192, kTied},
    {"SmolLM2-1.7B", 24, 2048, 8192, 32, 32, 64, 49152, 8192, kTied},
    {"TinyLlama-1.1B", 22, 2048, 5632, 32, 4, 64, 32000, 2048},
    {"Mistral-7B-v0.3", 32, 4096, 14336, 32, 8, 128, 32768, 32768},
    {"Mistral-Nemo-12B", 40, 5120, 14336, 32, 8, 128, 131072, 131072},
    {"Qwen2.5-0.5B", 24, 896, 4864, 14, 2, 64, 151936, 32768, kTied, kBias},
    {"Qwen2.5-1.5B", 28, 1536, 8960, 12, 2, 128, 151936, 32768, kTied, kBias},
    {"Qwen2.5-3B", 36, 2048, 11008, 16, 2, 128, 151936, 32768, kTied, kBias},
    {"Qwen2.5-7B", 28, 3584, 18944, 28, 4, 128, 152064, 32768, kUntied, kBias},
    {"Qwen2.5-14B", 48, 5120, 13824, 40, 8, 128, 152064, 32768, kUntied, kBias},
    {"Qwen2.5-32B", 64, 5120, 27648, 40, 8, 128, 152064, 32768, kUntied, kBias},
    {"Qwen2.5-72B", 80, 8192, 29568, 64, 8, 128, 152064, 32768, kUntied, kBias},
    {"Qwen3-0.6B", 28, 1024, 3072, 16, 8, 128, 151936, 40960, kTied, kNoBias, kQkNorm},
    {"Qwen3-1.7B", 28, 2048, 6144, 16, 8, 128, 151936, 40960, kTied, kNoBias, kQkNorm},
    {"Qwen3-4B", 36, 2560, 9728, 32, 8, 128, 151936, 40960, kTied, kNoBias, kQkNorm},
    {"Qwen3-8B", 36, 4096, 12288, 32, 8, 128, 151936, 40960, kUntied, kNoBias, kQkNorm},
    {"Qwen3-14B", 40, 5120, 17408, 40, 8, 128, 151936, 40960, kUntied, kNoBias, kQkNorm},
    {"Qwen3-32B", 64, 5120, 25600, 64, 8, 128, 151936, 40960, kUntied, kNoBias, kQkNorm},
    {"Gemma-2B", 18, 2048, 16384, 8, 1, 256, 256000, 8192, kTied},
    {"Gemma-7B", 28, 3072, 24576, 16, 16, 256, 256000, 8192, kTied},
};

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

}  // namespace

ModelConfig Architecture::config() const {
  ModelConfig config;
  config.name = std::string(name);
  config.num_layers = num_layers;
  config.hidden_size = hidden_size;
  config.intermediate_size = intermediate_size;
  config.num_qo_heads = num_qo_heads;
  config.num_kv_heads = num_kv_heads;
  config.head_dim = head_dim;
  config.vocab_size = vocab_size;
  config.max_context = max_context;
  config.tied_embeddings = tied_embeddings;
  config.qkv_bias = qkv_bias;
  return config;
}

int64_t Architecture::parameters() const {
  const int64_t hidden = hidden_size;
  const int64_t q = int64_t{num_qo_heads} * head_dim;
  const int64_t kv = int64_t{num_kv_heads} * head_dim;
  const int64_t attention = 2 * hidden * q + 2 * hidden * kv + (qkv_bias ? q + 2 * kv : 0) +
                            (qk_norm ? 2 * int64_t{head_dim} : 0);
  const int64_t layer = attention + 3 * hidden * intermediate_size + 2 * hidden;
  const int64_t embeddings = int64_t{vocab_size} * hidden * (tied_embeddings ? 1 : 2);
  return embeddings + num_layers * layer + hidden;
}

std::span<const Architecture> architectures() {
  return kArchitectures;
}

std::optional<Architecture> find_architecture(std::string_view name) {
  for (const Architecture& each : kArchitectures) {
    if (lower(each.name) == lower(name)) return each;
  }
  return std::nullopt;
}

}  // namespace lowkey
