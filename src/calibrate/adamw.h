#pragma once
// AdamW (arXiv 1711.05101), step for step as torch.optim.AdamW computes it. Its state is plain
// tensors, so that a run can be put down and taken up again. Thread-compatible.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "calibrate/train_options.h"

namespace lowkey::calibrate {

struct AdamWState {
  int64_t steps = 0;
  std::vector<at::Tensor> mean, square;  // of the gradients, per tensor

  static AdamWState zeros(std::span<const at::Tensor> tensors);
};

// One step, in place. As many gradients as tensors, float32, none of them followed by autograd.
void adamw_step(const AdamWOptions& options, AdamWState& state, std::span<at::Tensor> tensors,
                std::span<const at::Tensor> gradients);

// Scales the gradients in place so that all numbers together have a norm of at most `most`; 0:
// leaves them alone. Returns the norm they had.
double clip_norm(std::span<at::Tensor> gradients, double most);

}  // namespace lowkey::calibrate
