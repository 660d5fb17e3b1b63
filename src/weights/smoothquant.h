#pragma once
// SmoothQuant (arXiv 2211.10438): channels of activations that stand out are divided down, and the
// matrices that read them multiplied up, before both are rounded. Torch-free; belongs to one
// thread.
#include <span>
#include <vector>

#include "weights/method.h"

namespace lowkey {

// s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), at least 1e-5; 1 where either is 0. input_maxima:
// [inputs], the largest magnitude of each input channel; weight_maxima likewise, over all matrices
// that read them.
std::vector<float> smoothing_scales(std::span<const float> input_maxima,
                                    std::span<const float> weight_maxima, double alpha);

// Folds the scales of QuantizeOptions::alpha into the norms and q, k, v, gate, up: the model's
// outputs stay the same, but for rounding in floats.
void smooth_model(Quantization& quantization);

// Smooths, then rounds each row of the matrices with a scale of its own, and at run time each
// token's activations (symmetric, activation_bits).
void quantize_smoothquant(Quantization& quantization);

}  // namespace lowkey
