#pragma once
// The small operations between the matrices of a decode step, on rows of floats. Torch-free; no
// allocation; thread-safe for different outputs.
#include <cstdint>

#include "core/cpu.h"

namespace lowkey {

// out = x / sqrt(mean(x^2) + eps) * weight, row by row. x, out: [rows, cols], and may be the same.
void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t cols,
              float* out, Isa isa = active_isa());

// gate = gate * sigmoid(gate) * up.
void silu_mul(float* gate, const float* up, int64_t count, Isa isa = active_isa());

// x += y.
void add(float* x, const float* y, int64_t count, Isa isa = active_isa());

// Rotary position embedding of one token's heads in half-split order: for c < half_dim,
//   (x[c], x[c + half_dim]) <- (x[c] cos[c] - x[c + half_dim] sin[c],
//                               x[c + half_dim] cos[c] + x[c] sin[c])
// x: [num_heads, head_dim]; channels from 2 * half_dim on stay as they are.
void rotate_heads(float* x, int64_t num_heads, int64_t head_dim, const float* cos, const float* sin,
                  int64_t half_dim, Isa isa = active_isa());

}  // namespace lowkey
