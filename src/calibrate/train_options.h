#pragma once
// How training goes, and how it went. Torch-free.
#include <cstdint>
#include <optional>

namespace lowkey::calibrate {

struct AdamWOptions {
  double learning_rate = 2e-4;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
};

struct TrainOptions {
  int64_t steps = 64;         // eight times through 128 samples; the paper: twenty times
  int64_t accumulation = 16;  // samples of a step; at most all there are
  AdamWOptions adamw;
  double clip = 0.3;           // of the gradients' norm; 0: none
  int64_t evaluate_every = 8;  // steps between looks at the held-out samples
  int64_t patience = 5;        // looks without a better loss before it stops; 0: never stops
  uint64_t seed = 1;           // of the samples' order
  double save_every = 10;      // seconds between checkpoints
};

// After `step` updates.
struct CurvePoint {
  int64_t step = 0;
  std::optional<double> train;    // mean of the batch that the next update was made of
  std::optional<double> heldout;  // mean of all held-out samples
};

}  // namespace lowkey::calibrate
