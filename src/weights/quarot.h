#pragma once
// QuaRot (arXiv 2404.00456): a model rotated so that no channel of its activations stands out, then
// rounded. What it computes stays the same, but for rounding in floats:
//
//   norms     their weights go into the matrices that read them, so that they turn with anything
//   R1        the residual stream by a randomised Hadamard matrix of hidden_size
//   R2        values per head: the outputs of v and the inputs of o
//   R3        queries and keys per head after RoPE, at run time (ModelConfig::hadamard_qk)
//   R4        the inputs of down, at run time (hadamard_down)
//
// Torch-free; belongs to one thread.
#include <cstdint>

#include "core/threads.h"
#include "weights/float_model.h"
#include "weights/method.h"

namespace lowkey {

// Folds all of it into the model's weights, in f32 with f64 sums, and says so in its config; the
// head is untied. The same seed gives the same bits. Throws Error kUnsupported naming what a family
// does that cannot be rotated (LayerNorm, norms after the blocks, parallel blocks, sizes), with the
// model untouched.
void rotate_model(FloatModel& model, uint64_t seed, ThreadPool& pool);

// Rotates, then rounds the weights as QuantizeOptions::rounding says; the inputs of matrices are
// rounded at run time, symmetric per token (activation_bits, activation_clip). At 16 bits the
// rotated model is all.
void quantize_quarot(Quantization& quantization);

}  // namespace lowkey
