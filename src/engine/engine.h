#pragma once
// A loaded model with its tokenizer, ready to hold conversations on a quantized cache. One request
// at a time; the object belongs to one thread (its pool does the rest).
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "core/progress.h"
#include "core/threads.h"
#include "linear/weight_matrix.h"
#include "load/chat_template.h"
#include "load/model_file.h"
#include "load/tokenizer.h"
#include "model/model.h"
#include "recipe/recipe.h"

namespace lowkey {

struct EngineOptions {
  std::optional<WeightStorage> weights = {};  // none: best_weight_storage
  int threads = 0;                            // 0: every core the process may use
  int64_t max_context = 0;                    // 0: the model's own
};

// Bytes that this process may use: the machine's memory, or its control group's limit.
int64_t available_memory();

// What this machine decodes fastest without losing what matters. Weights quantized in the file stay
// quantized: their blocks are exact, and the fewest bytes to read. Others: bf16 where the processor
// has it, else f32. Simulated activations (model/simulation.h) are computed with in floats: f32,
// where it fits, rather than blocks that each step would unpack. A file larger than a quarter of
// `memory` is used in place (kFile) whatever its types: beside copies for decode and for prompts it
// would not fit, or leave no room for the cache.
WeightStorage best_weight_storage(const ModelFile& file, int64_t memory = available_memory());

// Prompts are computed in pieces of at most this many tokens: enough for full-speed matrix
// products, little enough that activations stay small and progress moves.
inline constexpr int64_t kPrefillChunk = 512;

class Engine {
 public:
  // Throws Error as ModelFile::open; kInvalidArgument if max_context is beyond the model's.
  Engine(const std::filesystem::path& model, const EngineOptions& options,
         const ProgressFn& progress);
  ~Engine();

  const ModelFile& file() const { return file_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Model& model() { return *model_; }
  ThreadPool& pool() { return pool_; }
  WeightStorage weight_storage() const { return weights_; }
  int64_t max_context() const { return max_context_; }
  KvShape kv_shape() const;

  bool has_chat_template() const { return template_ != nullptr; }
  // The conversation as the model's own template writes it, up to where the assistant speaks (or,
  // if it is not its turn, to the end). A model without a template is refused: Error kUnsupported,
  // with what to do. Templates that print today's date are told `now`, if there is one.
  std::vector<int32_t> encode_chat(
      const std::vector<ChatMessage>& messages, bool answer_next = true,
      std::optional<std::chrono::sys_seconds> now = std::nullopt) const;
  // Plain text to be continued.
  std::vector<int32_t> encode_text(std::string_view text) const;

 private:
  ModelFile file_;
  Tokenizer tokenizer_;
  WeightStorage weights_;
  ThreadPool pool_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<ChatTemplate> template_;
  int64_t max_context_ = 0;
};

// Runs tokens of one sequence through the model in chunks; the hidden states (after the final norm)
// of those wanted go to `hidden` [tokens, hidden_size], or [hidden_size] for the last alone.
// Reports `what` per chunk. `options` are those of every chunk, `residual` that of all tokens.
void prefill(Model& model, KvSequence& sequence, std::span<const int32_t> tokens, RowsWanted wanted,
             float* hidden, const ProgressFn& progress, std::string_view what,
             const ForwardOptions& options = {});

}  // namespace lowkey
