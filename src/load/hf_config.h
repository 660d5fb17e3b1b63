#pragma once
// config.json as families read it: typed fields, transformers' defaults where one is missing, and
// rope in the spellings of transformers 4 and 5. Internal to load/. Torch-free; immutable.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "load/families.h"
#include "load/json.h"
#include "load/model_file.h"

namespace lowkey {

// The names under which a family's config.json holds what all have, and what transformers takes
// where it holds nothing. 0: the field must be there.
struct HfDecoder {
  const char* intermediate = "intermediate_size";
  const char* activation = "hidden_act";
  const char* default_activation = "silu";
  const char* norm_eps = "rms_norm_eps";  // null: not in the file
  const char* kv_heads = "num_key_value_heads";
  double default_norm_eps = 1e-6;
  double default_rope_base = 1e4;
  bool default_tied = false;
  bool experts = false;    // false: refused
  bool reads_rope = true;  // false: there is none, or the family reads it
  int32_t default_layers = 0;
  int32_t default_hidden = 0;
  int32_t default_intermediate = 0;
  int32_t default_heads = 0;
  int32_t default_kv_heads = 0;  // 0: as many as query heads
  int32_t default_head_dim = 0;  // 0: hidden / heads
  int32_t default_vocab = 0;
  int32_t default_context = 0;
  int32_t default_original_context = 0;  // Phi-3's; 0: that of the rope, or the context
};

class HfConfig {
 public:
  // Borrows `json`, config.json's top level, and takes the language model's part of it.
  explicit HfConfig(const JsonFields& json);

  // Throws Error kUnsupported naming what is known.
  const Family& family() const { return *family_; }

  // --- for Family::from_hugging_face
  // Sizes, norm_eps, activation, embeddings, rope and attention_scale; plain layers.
  void read_decoder(const HfDecoder& from, ModelConfig& config) const;
  // `parameters`: rope_parameters or what stands for it; `outer`: where transformers looks for what
  // it leaves out. May lower config.max_context (longrope).
  RopeConfig read_rope(const JsonFields& parameters, const JsonFields& outer, double default_base,
                       int32_t default_original_context, ModelConfig& config) const;

  bool mentions(std::string_view name) const;  // even if it is null
  bool has(std::string_view name) const { return fields_.has(name); }
  int32_t count(std::string_view name, int32_t max, int32_t fallback = 0) const;
  double number(std::string_view name, double fallback) const;  // finite, > 0
  // Finite, > 0, or 0 for null; `fallback` if not mentioned.
  double cap(std::string_view name, double fallback) const;
  bool flag(std::string_view name, bool fallback) const;
  // Tokens; 0 for null or none. `fallback` if not mentioned.
  int64_t window(std::string_view name, int64_t fallback) const;
  std::optional<std::vector<int64_t>> ints(std::string_view name) const;
  const JsonFields& fields() const { return fields_; }

  // Which layers slide: "layer_types", one of "full_attention" and "sliding_attention" for each
  // layer, or else as `otherwise(layer)` says.
  std::vector<bool> sliding_layers(const ModelConfig& config,
                                   const std::function<bool(int32_t)>& otherwise) const;
  // Gives them the window; 0 is an error if there are any.
  void set_windows(int64_t window, const std::vector<bool>& sliding, ModelConfig& config) const;

  [[noreturn]] void unsupported(std::string_view name, const std::string& why) const;
  [[noreturn]] void corrupt(std::string_view name, const std::string& why) const;
  // Another value than `expected` of a switch: what is known here.
  void require(std::string_view name, bool expected, const char* why) const;

 private:
  void find_family(const JsonFields& json);
  void refuse_what_nothing_reads() const;

  const JsonFields top_;
  JsonFields fields_;
  const Family* family_ = nullptr;
};

// config.json's model, checked. Throws Error kCorruptFile, kUnsupported.
ModelConfig read_hf_config(const JsonFields& json);

// A window as layers have it: 0 where it covers the whole context.
int32_t window_within(int64_t window, int64_t max_context);

}  // namespace lowkey
