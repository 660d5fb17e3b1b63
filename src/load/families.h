#pragma once
// The table of model families: what each family's files call things and how they fill ModelConfig.
// A new family is an entry of the table and rows of names (docs/adding-a-model.md). Internal to
// load/. Torch-free, thread-safe.
#include <array>
#include <span>
#include <string>
#include <string_view>

#include "load/model_file.h"

namespace lowkey {

class HfConfig;    // load/hf_config.h
class GgufConfig;  // load/gguf_config.h

// What the files call a weight. '#' is the layer, '@' the expert, and ".weight" or ".bias" follows.
// Canonical names that share one name in the file are parts of one matrix, in the order of the
// canonical names: its rows, or, of experts, its outermost dimension.
struct NameRow {
  std::string_view canonical;
  std::string_view gguf;
  std::string_view hugging_face;
  bool (*when)(const ModelConfig&) = nullptr;  // the row holds for these; null: for all
};

// What a larger model puts before the names of its language model.
struct RenamedPrefix {
  std::string_view in_file;
  std::string_view meant;  // as NameRow::hugging_face
};

struct Family {
  std::string_view name;  // ModelConfig::architecture
  // "architectures" and "model_type" of config.json, the usual class first.
  std::array<std::string_view, 4> hugging_face;
  std::string_view gguf = {};  // general.architecture; empty: not in GGUF, or not as its own
  void (*from_hugging_face)(const HfConfig&, ModelConfig&) = nullptr;
  void (*from_gguf)(const GgufConfig&, ModelConfig&) = nullptr;
  std::span<const NameRow> names = {};  // where it differs from shared_names()
  // GGUF has the rows of Q and K interleaved (RowOrder::kInterleavedHeads).
  bool interleaved_in_gguf = false;
  // Hugging Face's fused matrix holds, for each key/value head, the rows of its query heads, of the
  // key and of the value (Falcon).
  bool qkv_by_kv_head = false;
  std::span<const RenamedPrefix> renamed = {};
  std::span<const std::string_view> ignored_prefixes = {};  // parts that are no language model
};

// Null if there is none of this name.
const Family* find_family(std::string_view name);
const Family* find_hugging_face_family(std::string_view architecture_or_model_type);
const Family* find_gguf_family(std::string_view architecture);

// "LlamaForCausalLM, MistralForCausalLM and ...", for messages.
std::string hugging_face_families_text();
std::string gguf_families_text();

// What most families call the weights: Llama's names.
std::span<const NameRow> shared_names();

}  // namespace lowkey
