#pragma once
// Weight tensors with random contents, in any type of file.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/half.h"
#include "core/rng.h"
#include "load/tensor.h"

namespace lowkey::test {

inline float uniform(SplitMix64& rng, float low, float high) {
  return low + static_cast<float>(rng.uniform()) * (high - low);
}

inline std::vector<float> random_floats(SplitMix64& rng, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = uniform(rng, -1.0f, 1.0f);
  return values;
}

inline const std::vector<DType>& all_dtypes() {
  static const std::vector<DType> types = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0,
                                           DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                           DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kQ2_1,
                                           DType::kQ3_1};
  return types;
}

// Owns the bytes of its view.
struct RandomTensor {
  std::vector<std::byte> bytes;
  TensorView view;

  // Random codes and small finite scales: every code occurs, nothing overflows. `misalign` shifts
  // the data off its natural alignment.
  RandomTensor(DType dtype, int64_t rows, int64_t cols, uint64_t seed, bool misalign = false) {
    SplitMix64 rng(seed);
    view.name = "random";
    view.dtype = dtype;
    view.shape = {rows, cols};
    const auto size = static_cast<size_t>(rows * view.row_bytes());
    bytes.resize(size + 1);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng.next());
    std::byte* data = bytes.data() + (misalign ? 1 : 0);
    view.data = {data, size};

    const auto put_half = [&](std::byte* at) {
      const Half h = float_to_half(uniform(rng, -0.01f, 0.01f));
      std::memcpy(at, &h, sizeof(h));
    };
    const auto block_bytes = static_cast<size_t>(dtype_block_bytes(dtype));
    for (std::byte* block = data; block < data + size; block += block_bytes) {
      switch (dtype) {
        case DType::kF32: {
          const float value = uniform(rng, -1.0f, 1.0f);
          std::memcpy(block, &value, sizeof(value));
          break;
        }
        case DType::kBF16: {
          const BFloat16 value = float_to_bfloat16(uniform(rng, -1.0f, 1.0f));
          std::memcpy(block, &value, sizeof(value));
          break;
        }
        case DType::kF16: put_half(block); break;
        case DType::kQ4_0:
        case DType::kQ5_0:
        case DType::kQ8_0: put_half(block); break;
        case DType::kQ4_1:
        case DType::kQ5_1:
        case DType::kQ2_1:
        case DType::kQ3_1:
        case DType::kQ4_K:
        case DType::kQ5_K:
          put_half(block);
          put_half(block + 2);
          break;
        case DType::kQ6_K: put_half(block + 208); break;
      }
    }
  }

  // The specification of what row `row` (lowkey's order) holds.
  std::vector<float> row(int64_t index) const {
    std::vector<float> values(static_cast<size_t>(view.cols()));
    dequantize_rows(view, index, 1, values.data());
    return values;
  }
};

}  // namespace lowkey::test
