#pragma once
// A GGUF's metadata as families read it, under llama.cpp's keys. Internal to load/. Torch-free;
// immutable.
#include <cstdint>
#include <string>
#include <vector>

#include "load/families.h"
#include "load/gguf.h"
#include "load/model_file.h"

namespace lowkey {

// Which layers slide where the file does not say it layer by layer.
enum class GgufWindows : uint8_t {
  kRefused,  // llama.cpp would not slide either
  kAll,
  kPeriodic  // all but the last of each `period`
};

struct GgufDecoder {
  const char* norm_eps = "attention.layer_norm_rms_epsilon";
  bool experts = false;  // false: refused
  GgufWindows windows = GgufWindows::kRefused;
  int64_t period = 0;
  int64_t default_window = 0;  // where the file has none
};

class GgufConfig {
 public:
  // Borrows `file`. Throws Error kUnsupported naming the known architectures.
  explicit GgufConfig(const GgufFile& file);

  const Family& family() const { return *family_; }

  // --- for Family::from_gguf
  // Sizes, norm_eps, biases, embeddings, rope, windows and attention_scale. The vocabulary is the
  // tokenizer's.
  void read_decoder(const GgufDecoder& from, ModelConfig& config) const;
  // Which layers slide; none without a window.
  std::vector<bool> sliding_layers(const GgufDecoder& from, const ModelConfig& config) const;
  bool has_experts() const { return file_.get_int(key("expert_count"), 0) > 0; }
  // Experts in every layer.
  void read_experts(const char* intermediate, ModelConfig& config) const;

  bool has(const char* name) const;  // "expert_count": without the architecture before it
  bool has_tensor(const char* name) const { return file_.find_tensor(name) != nullptr; }
  // A count, or one for each layer as long as they are all the same.
  int32_t count(const char* name, int32_t max) const;
  double number(const char* name, double fallback) const;  // finite, > 0
  double cap(const char* name, double fallback) const;     // finite, >= 0

  [[noreturn]] void unsupported(const char* name, const std::string& why) const;

 private:
  std::string key(const char* name) const;
  std::string field(const char* name) const;
  void refuse_what_nothing_reads() const;
  int32_t head_dim(const ModelConfig& config) const;
  int32_t vocab_size() const;
  RopeConfig read_rope(ModelConfig& config) const;
  void read_yarn(RopeConfig& rope, const ModelConfig& config) const;
  // A tensor of what each frequency is divided by; empty if there is none.
  std::vector<float> divisors(const char* tensor, const RopeConfig& rope) const;
  int64_t window(const GgufDecoder& from) const;  // 0: there is none

  const GgufFile& file_;
  const std::string& source_;
  const Family* family_ = nullptr;
  std::string architecture_;
};

// The file's model, checked. Throws Error kCorruptFile, kUnsupported.
ModelConfig read_gguf_config(const GgufFile& file);

}  // namespace lowkey
