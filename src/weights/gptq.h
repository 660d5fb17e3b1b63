#pragma once
// GPTQ (Frantar et al., arXiv 2210.17323): columns are rounded one after another, and what each
// loses is made up for by those still to come, as the inputs' second moments say.
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "core/threads.h"
#include "weights/grid.h"
#include "weights/method.h"

namespace lowkey {

struct GptqOptions {
  double damping = 0.01;  // of the mean of gram's diagonal, added to it; the authors'
  // Columns in the order of their inputs' magnitude. Groups then keep the ranges of the weights as
  // they were (static groups), so that they stay together in memory.
  bool act_order = true;
};

// weight: float32 [rows, cols]; gram: float32 [cols, cols], the sum of x^T x. Inputs that are
// always 0 keep their columns' nearest codes. Throws Error kNumeric where gram is not finite.
BlockMatrix gptq(const WeightGrid& grid, const at::Tensor& weight, const at::Tensor& gram,
                 const GptqOptions& options, ThreadPool& pool);

// The method: layer by layer, each layer's inputs computed with those before it already rounded.
// Leaves the rounded values in the model's floats.
void gptq_weights(Quantization& quantization);

}  // namespace lowkey
