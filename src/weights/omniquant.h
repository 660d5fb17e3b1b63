#pragma once
// OmniQuant (arXiv 2308.13137): the ranges of groups of weights and scales of channels, learned
// layer by layer so that the rounded layer puts out what the full one does. The rounded layer sees
// what the rounded layers before it made of the text, the full one what the full ones made.
//
//   clipping         a group lies between sigmoid(lower) * its least and sigmoid(upper) * its
//                    largest weight; the strengths begin at 4
//   transformation   norm / s, columns of its readers * s, for norms before q, k, v and gate, up.
//                    s begins at 1, or where activations are rounded as SmoothQuant's
//
// AdamW without decay, gradients straight through the rounding. Of every epoch's layer and the one
// rounded to nearest, the best on the samples is kept. Belongs to one thread.
#include <ATen/core/Tensor.h>

#include <vector>

#include "weights/grid.h"
#include "weights/method.h"

namespace lowkey {

// w ~ as `grid` writes it, with the groups' ranges between sigmoid(lower) * least and
// sigmoid(upper) * largest: float32 [rows, cols]. upper, lower: [rows, groups]. The values are
// decode_weight's; gradients pass straight through roundings and to the range where it clips.
at::Tensor learned_rounding(const WeightGrid& grid, const at::Tensor& weight,
                            const at::Tensor& upper, const at::Tensor& lower);

// Mean squared differences of a layer's output from the full layer's, over all samples.
struct LayerLoss {
  double nearest = 0;  // all matrices rounded to nearest
  double trained = 0;  // as they were left; never above
};

// Fills the quantization's blocks, folds the scales into the model. Throws Error kInvalidArgument
// without samples or with options that are out of range; what `progress` throws.
std::vector<LayerLoss> train_omniquant(Quantization& quantization);

// The same, with a note on what training gained.
void quantize_omniquant(Quantization& quantization);

}  // namespace lowkey
