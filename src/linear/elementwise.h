#pragma once
// The small operations between the matrices of a decode step, on rows of floats. Torch-free; no
// allocation; thread-safe for different outputs.
#include <cstdint>

#include "core/cpu.h"

namespace lowkey {

// out = x / sqrt(mean(x^2) + eps) * weight, row by row. x, out: [rows, cols], and may be the same.
void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t cols,
              float* out, Isa isa = active_isa());

// out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, row by row. bias: [cols], or null.
// x, out: [rows, cols], and may be the same.
void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t rows,
                int64_t cols, float* out, Isa isa = active_isa());

// Activations in place, and times y. kGelu is the exact one, by erf; kGeluTanh its approximation
// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
enum class Curve : uint8_t { kSilu, kGelu, kGeluTanh, kRelu };
void activate(Curve curve, float* x, int64_t count, Isa isa = active_isa());
void gate(Curve curve, float* x, const float* y, int64_t count, Isa isa = active_isa());

// x = cap * tanh(x / cap). cap > 0.
void softcap(float* x, int64_t count, float cap, Isa isa = active_isa());

// x += y.
void add(float* x, const float* y, int64_t count, Isa isa = active_isa());

// x *= factor.
void scale(float* x, float factor, int64_t count, Isa isa = active_isa());

// x += factor * y.
void add_scaled(float* x, const float* y, float factor, int64_t count, Isa isa = active_isa());

// Rotary position embedding of one token's heads in half-split order: for c < half_dim,
//   (x[c], x[c + half_dim]) <- (x[c] cos[c] - x[c + half_dim] sin[c],
//                               x[c + half_dim] cos[c] + x[c] sin[c])
// x: [num_heads, head_dim]; channels from 2 * half_dim on stay as they are.
void rotate_heads(float* x, int64_t num_heads, int64_t head_dim, const float* cos, const float* sin,
                  int64_t half_dim, Isa isa = active_isa());

}  // namespace lowkey
