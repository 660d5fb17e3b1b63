#pragma once
// Trains a few tensors by gradients, whatever they are tensors of: batches, AdamW, held-out loss,
// early stopping, checkpoints. What is learned is an Objective's business (distillation.h).
//
// The same samples, settings and machine give the same bits, whatever the number of threads and
// however often a run was put down and taken up again.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "calibrate/train_options.h"
#include "core/progress.h"
#include "core/threads.h"

namespace lowkey::calibrate {

enum class SampleSet : uint8_t { kTrain, kHeldout };

class Objective {
 public:
  virtual ~Objective() = default;
  // Where training starts: float32, not followed by autograd.
  virtual std::vector<at::Tensor> initial() const = 0;
  // What becomes of the tensors when they are stored (rounding). Held-out losses are of that.
  virtual std::vector<at::Tensor> stored(std::span<const at::Tensor> tensors) const = 0;
  virtual int64_t num_samples(SampleSet set) const = 0;
  // Of one sample: a float32 scalar, differentiable by `tensors`. Called on several threads at
  // once, never with the same tensors where they need gradients.
  virtual at::Tensor loss(std::span<const at::Tensor> tensors, SampleSet set,
                          int64_t sample) const = 0;
};

struct TrainResult {
  std::vector<at::Tensor> tensors;  // of the best held-out loss, as Objective::stored made them
  std::vector<CurvePoint> curve;    // step after step
  int64_t best_step = 0;
  double first_heldout = 0, best_heldout = 0;
  bool stopped_early = false;
  int64_t resumed_at = 0;  // 0: it began anew
};

// `checkpoint`: a file that is written as training goes and read when it is there; empty: none.
// `settings`: an object, all that the result depends on but the number of steps; a checkpoint of
// other settings is refused. Where `progress` throws kCancelled the checkpoint is written and the
// error passed on. Throws Error: as read_checkpoint; kIo; kInvalidArgument for no samples in either
// set, and where a loss is not finite.
TrainResult train(const Objective& objective, const TrainOptions& options,
                  const std::filesystem::path& checkpoint, const nlohmann::json& settings,
                  ThreadPool& pool, const ProgressFn& progress);

}  // namespace lowkey::calibrate
