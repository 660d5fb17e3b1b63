#pragma once
// A decoder-only transformer (ModelConfig) that computes on packed caches. Decode steps of few rows
// and, where the machine multiplies bf16 and the weights are no f32, prompts run on our own
// kernels, the rest on libtorch; which one ran shows in the speed only, up to rounding. Torch-free
// header.
//
// A model whose activations are rounded or rotated (simulation.h) runs on libtorch alone, in
// floats.
//
// Belongs to one thread at a time, with the pool it was given: never two models at work on one pool
// at once.
#include <cstdint>
#include <memory>
#include <span>

#include "core/progress.h"
#include "core/threads.h"
#include "linear/weight_matrix.h"
#include "load/model_file.h"
#include "model/forward_options.h"
#include "model/step.h"
#include "model/weights.h"

namespace lowkey {

// Steps of up to this many rows run natively where weights are packed: our kernels read them from
// memory once per eight rows, and products with many rows are set up anew for each small matrix,
// which costs more than blocking gains. Above, compute bounds the step (SmolLM2 on 2 cores of Zen
// 4, ms per step, natively and as a prompt in bf16: 2.8 and 19 for 1 row, 15 and 21 for 8, 38 and
// 41 for 16, 53 and 51 for 24; busy machine).
inline constexpr int64_t kNativeRows = 16;
// The same with weights in floats, whose products cost more than twice as much.
inline constexpr int64_t kNativeFloatRows = 8;

class Model {
 public:
  // Converts the weights (WeightStorage) on all threads of `pool`; file and pool must outlive the
  // model. Sets the number of ATen's own threads to one: the pool is what computes. Throws Error
  // as load_weights.
  static Model load(const ModelFile& file, WeightStorage storage, ThreadPool& pool,
                    const ProgressFn& progress = {});

  // Of weights from elsewhere; what they borrow and the pool must outlive the model.
  Model(ModelWeights weights, ThreadPool& pool);

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  const ModelConfig& config() const;
  const ModelWeights& weights() const;
  // Copies of the weights in the form prompts are computed with: none with WeightStorage::kFile.
  int64_t prefill_bytes() const;

  // Runs the items' tokens through all layers and stores their K and V. The hidden states after the
  // final norm of the rows that were wanted go to `hidden` [wanted rows, hidden_size], items in
  // order (null if none are). Throws Error: as StepRows::assign, with the sequences untouched;
  // as KvSequence::append or kResourceExhausted (memory), after which the sequences of the step are
  // unusable.
  void forward(std::span<const StepItem> items, float* hidden, const ForwardOptions& options = {});
  void forward(std::span<const StepItem> items, float* hidden, Backend backend) {
    forward(items, hidden, ForwardOptions{.backend = backend});
  }

  // hidden: [rows, hidden_size] -> out: [rows, vocab_size]. Callers with many rows go in blocks:
  // logits are large.
  void logits(const float* hidden, int64_t rows, float* out, Backend backend = Backend::kAuto);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lowkey
