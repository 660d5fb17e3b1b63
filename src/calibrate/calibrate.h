#pragma once
// Calibrated IntactKV (arXiv 2403.01241 §3.3) and longer learned prefixes: the keys and values of a
// prefix, trained so that a quantized model with it does as the 16-bit model does. Torch-free
// header.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "cache/intact_prefix.h"
#include "calibrate/samples.h"
#include "calibrate/train_options.h"
#include "core/progress.h"
#include "core/threads.h"
#include "model/weights.h"

namespace lowkey::calibrate {

// Rounds each row of each head to `bits` bits between its least and its greatest number, as a cache
// of that recipe would (§4.3: the prefix of a W4A4 model); the numbers stay f16. 16: leaves them
// alone.
void round_prefix(IntactPrefix& prefix, int32_t bits);

struct PrefixTraining {
  // Stored as f32 or bf16: what products are computed in. Of one architecture.
  const ModelWeights& teacher;
  const ModelWeights& student;
  const IntactPrefix& prefix;  // where it starts, and what the teacher's tokens follow
  int32_t bits = 16;           // what the result is rounded to
  Samples samples;
  LossKind loss = LossKind::kLayers;
  TrainOptions options;
  int64_t target_bytes = 0;          // of the teacher's outputs that are kept in memory
  std::filesystem::path checkpoint;  // empty: none
  nlohmann::json settings;           // what a checkpoint must have been written under
};

struct CalibratedPrefix {
  IntactPrefix prefix;
  std::vector<CurvePoint> curve;
  int64_t best_step = 0;
  double first_heldout = 0, best_heldout = 0;
  bool stopped_early = false;
  int64_t resumed_at = 0;
};

// Throws Error as train() (trainer.h), and kUnsupported as libtorch does. Sets the number of ATen's
// own threads to one.
CalibratedPrefix calibrate_prefix(const PrefixTraining& training, ThreadPool& pool,
                                  const ProgressFn& progress);

}  // namespace lowkey::calibrate
