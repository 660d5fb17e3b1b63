#pragma once
// The normalised Hadamard transform in Sylvester's order (QuaRot, arXiv 2404.00456): x <- H x /
// sqrt(n) with H[i][j] = (-1)^popcount(i & j). Symmetric and orthogonal, so its own inverse.
// Torch-free; thread-safe.
#include <bit>
#include <cmath>
#include <cstddef>
#include <span>

#include "core/error.h"

namespace lowkey {

// In place, in n log2(n) additions. n = x.size() is a power of two: anything else is a bug of the
// caller, who refuses such models.
inline void hadamard(std::span<float> x) {
  const size_t n = x.size();
  LOWKEY_CHECK(std::has_single_bit(n), "a Hadamard transform of {} numbers", n);
  for (size_t half = 1; half < n; half *= 2) {
    for (size_t block = 0; block < n; block += 2 * half) {
      for (size_t i = block; i < block + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  for (float& value : x) value *= scale;
}

}  // namespace lowkey
