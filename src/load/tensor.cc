#include "load/tensor.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/half.h"

namespace lowkey {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read as they lie in memory");

struct DTypeInfo {
  std::string_view name;
  int64_t block_elements;
  int64_t block_bytes;
};

// In the order of enum DType.
constexpr std::array<DTypeInfo, kNumDTypes> kDTypes{{
    {"F32", 1, 4},
    {"F16", 1, 2},
    {"BF16", 1, 2},
    {"Q4_0", 32, 18},
    {"Q4_1", 32, 20},
    {"Q5_0", 32, 22},
    {"Q5_1", 32, 24},
    {"Q8_0", 32, 34},
    {"Q4_K", 256, 144},
    {"Q5_K", 256, 176},
    {"Q6_K", 256, 210},
    {"Q2_1", 32, 12},
    {"Q3_1", 32, 16},
}};

const DTypeInfo& info(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  LOWKEY_CHECK(index < kDTypes.size(), "dtype {}", index);
  return kDTypes[index];
}

template <typename T>
T load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

float load_half(const uint8_t* p) {
  return half_to_float(load<Half>(p));
}

// One function per block type: `block` as it lies in the file, out of the type's element count.
// The inner loops are plain so that the compiler vectorizes them for whatever it builds for.

void decode_q4_0(const uint8_t* block, float* out) {
  const float scale = load_half(block);
  const uint8_t* codes = block + 2;
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>((codes[i] & 15) - 8);
    out[i + 16] = scale * static_cast<float>((codes[i] >> 4) - 8);
  }
}

void decode_q4_1(const uint8_t* block, float* out) {
  const float scale = load_half(block);
  const float minimum = load_half(block + 2);
  const uint8_t* codes = block + 4;
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(codes[i] & 15) + minimum;
    out[i + 16] = scale * static_cast<float>(codes[i] >> 4) + minimum;
  }
}

// Bit i of `high` is the fifth bit of element i.
void decode_q5_0(const uint8_t* block, float* out) {
  const float scale = load_half(block);
  const auto high = load<uint32_t>(block + 2);
  const uint8_t* codes = block + 6;
  for (int i = 0; i < 16; ++i) {
    const int low_half = (codes[i] & 15) | static_cast<int>((high >> i) & 1u) << 4;
    const int high_half = (codes[i] >> 4) | static_cast<int>((high >> (i + 16)) & 1u) << 4;
    out[i] = scale * static_cast<float>(low_half - 16);
    out[i + 16] = scale * static_cast<float>(high_half - 16);
  }
}

void decode_q5_1(const uint8_t* block, float* out) {
  const float scale = load_half(block);
  const float minimum = load_half(block + 2);
  const auto high = load<uint32_t>(block + 4);
  const uint8_t* codes = block + 8;
  for (int i = 0; i < 16; ++i) {
    const int low_half = (codes[i] & 15) | static_cast<int>((high >> i) & 1u) << 4;
    const int high_half = (codes[i] >> 4) | static_cast<int>((high >> (i + 16)) & 1u) << 4;
    out[i] = scale * static_cast<float>(low_half) + minimum;
    out[i + 16] = scale * static_cast<float>(high_half) + minimum;
  }
}

void decode_q8_0(const uint8_t* block, float* out) {
  const float scale = load_half(block);
  const uint8_t* codes = block + 2;
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(static_cast<int8_t>(codes[i]));
}

// Q4_K and Q5_K: 8 pairs of 6-bit (scale, minimum) in 12 bytes. Pairs 0-3 are the low 6 bits of
// bytes 0-3 and 4-7; pairs 4-7 have their low 4 bits in bytes 8-11 and their high 2 bits on top of
// bytes 0-3 and 4-7.
struct ScaleMin {
  float scale, minimum;
};

ScaleMin k_scale_min(const uint8_t* packed, int pair, float scale, float minimum) {
  int s, m;
  if (pair < 4) {
    s = packed[pair] & 63;
    m = packed[pair + 4] & 63;
  } else {
    s = (packed[pair + 4] & 15) | (packed[pair - 4] >> 6) << 4;
    m = (packed[pair + 4] >> 4) | (packed[pair] >> 6) << 4;
  }
  return {scale * static_cast<float>(s), minimum * static_cast<float>(m)};
}

void decode_q4_k(const uint8_t* block, float* out) {
  const float scale = load_half(block);
  const float minimum = load_half(block + 2);
  const uint8_t* packed = block + 4;
  const uint8_t* codes = block + 16;
  for (int pair = 0; pair < 8; pair += 2, codes += 32, out += 64) {
    const ScaleMin low = k_scale_min(packed, pair, scale, minimum);
    const ScaleMin high = k_scale_min(packed, pair + 1, scale, minimum);
    for (int i = 0; i < 32; ++i) {
      out[i] = low.scale * static_cast<float>(codes[i] & 15) - low.minimum;
      out[i + 32] = high.scale * static_cast<float>(codes[i] >> 4) - high.minimum;
    }
  }
}

// Bit `pair` of high_bits[i] is the fifth bit of element i of that pair's 32.
void decode_q5_k(const uint8_t* block, float* out) {
  const float scale = load_half(block);
  const float minimum = load_half(block + 2);
  const uint8_t* packed = block + 4;
  const uint8_t* high_bits = block + 16;
  const uint8_t* codes = block + 48;
  for (int pair = 0; pair < 8; pair += 2, codes += 32, out += 64) {
    const ScaleMin low = k_scale_min(packed, pair, scale, minimum);
    const ScaleMin high = k_scale_min(packed, pair + 1, scale, minimum);
    for (int i = 0; i < 32; ++i) {
      const int low_code = (codes[i] & 15) | ((high_bits[i] >> pair) & 1) << 4;
      const int high_code = (codes[i] >> 4) | ((high_bits[i] >> (pair + 1)) & 1) << 4;
      out[i] = low.scale * static_cast<float>(low_code) - low.minimum;
      out[i + 32] = high.scale * static_cast<float>(high_code) - high.minimum;
    }
  }
}

// 16 groups of 16 elements, one signed byte of scale each. Of every 128 elements, runs of 32 take
// the low nibbles of codes 0-31, of 32-63, then the high nibbles of both; high_bits[i] holds the
// upper 2 bits of element i of each run.
void decode_q6_k(const uint8_t* block, float* out) {
  const uint8_t* codes = block;
  const uint8_t* high_bits = block + 128;
  const uint8_t* scales = block + 192;
  const float scale = load_half(block + 208);
  for (int half = 0; half < 2; ++half, codes += 64, high_bits += 32, scales += 8, out += 128) {
    for (int group = 0; group < 2; ++group) {
      float s[4];
      for (int run = 0; run < 4; ++run)
        s[run] = scale * static_cast<float>(static_cast<int8_t>(scales[2 * run + group]));
      for (int i = 16 * group; i < 16 * group + 16; ++i) {
        const int high = high_bits[i];
        out[i] = s[0] * static_cast<float>(((codes[i] & 15) | (high & 3) << 4) - 32);
        out[i + 32] =
            s[1] * static_cast<float>(((codes[i + 32] & 15) | ((high >> 2) & 3) << 4) - 32);
        out[i + 64] = s[2] * static_cast<float>(((codes[i] >> 4) | ((high >> 4) & 3) << 4) - 32);
        out[i + 96] = s[3] * static_cast<float>(((codes[i + 32] >> 4) | (high >> 6) << 4) - 32);
      }
    }
  }
}

void decode_q2_1(const uint8_t* block, float* out) {
  const float scale = load_half(block);
  const float minimum = load_half(block + 2);
  const auto codes = load<uint64_t>(block + 4);
  for (int i = 0; i < 32; ++i)
    out[i] = scale * static_cast<float>((codes >> (2 * i)) & 3u) + minimum;
}

void decode_q3_1(const uint8_t* block, float* out) {
  const float scale = load_half(block);
  const float minimum = load_half(block + 2);
  const auto codes = load<uint64_t>(block + 4);
  const auto high = load<uint32_t>(block + 12);
  for (int i = 0; i < 32; ++i) {
    const uint64_t code = ((codes >> (2 * i)) & 3u) | ((high >> i) & 1u) << 2;
    out[i] = scale * static_cast<float>(code) + minimum;
  }
}

template <void (*decode)(const uint8_t*, float*)>
void decode_blocks(DType dtype, const uint8_t* data, int64_t count, float* out) {
  const int64_t bytes = dtype_block_bytes(dtype);
  const int64_t elements = dtype_block_elements(dtype);
  for (; count > 0; count -= elements, data += bytes, out += elements) decode(data, out);
}

void decode_f16(const uint8_t* data, int64_t count, float* out) {
  Half chunk[512];  // the file promises no alignment
  for (int64_t done = 0; done < count; done += 512) {
    const int64_t n = std::min<int64_t>(512, count - done);
    std::memcpy(chunk, data + 2 * done, static_cast<size_t>(n) * sizeof(Half));
    half_to_float(chunk, out + done, n);
  }
}

void decode_bf16(const uint8_t* data, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = bfloat16_to_float(load<BFloat16>(data + 2 * i));
}

// Where element `index` of rows laid out head by head lies in the file.
int64_t interleaved(int64_t index, int64_t head_rows) {
  const int64_t half = head_rows / 2;
  const int64_t in_head = index % head_rows;
  return index - in_head + 2 * (in_head % half) + in_head / half;
}

}  // namespace

std::string_view dtype_name(DType dtype) {
  return info(dtype).name;
}

int64_t dtype_block_elements(DType dtype) {
  return info(dtype).block_elements;
}

int64_t dtype_block_bytes(DType dtype) {
  return info(dtype).block_bytes;
}

std::string shape_text(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

int64_t TensorView::rows() const {
  int64_t product = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) product *= shape[i];
  return product;
}

int64_t TensorView::cols() const {
  return shape.empty() ? 1 : shape.back();
}

int64_t TensorView::row_bytes() const {
  return cols() / dtype_block_elements(dtype) * dtype_block_bytes(dtype);
}

int64_t TensorView::stored_row(int64_t row) const {
  switch (row_order) {
    case RowOrder::kAsStored: return row;
    case RowOrder::kInterleavedHeads: return interleaved(row, head_rows);
    case RowOrder::kStrided: return row / group_rows * group_stride + row % group_rows;
  }
  LOWKEY_CHECK(false, "row order {}", static_cast<int>(row_order));
  return row;
}

void dequantize(DType dtype, const std::byte* data, int64_t count, float* out) {
  LOWKEY_CHECK(count >= 0 && count % dtype_block_elements(dtype) == 0, "{} elements of {}", count,
               dtype_name(dtype));
  const auto* bytes = reinterpret_cast<const uint8_t*>(data);
  switch (dtype) {
    case DType::kF32:
      if (count > 0) std::memcpy(out, bytes, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kF16: return decode_f16(bytes, count, out);
    case DType::kBF16: return decode_bf16(bytes, count, out);
    case DType::kQ4_0: return decode_blocks<decode_q4_0>(dtype, bytes, count, out);
    case DType::kQ4_1: return decode_blocks<decode_q4_1>(dtype, bytes, count, out);
    case DType::kQ5_0: return decode_blocks<decode_q5_0>(dtype, bytes, count, out);
    case DType::kQ5_1: return decode_blocks<decode_q5_1>(dtype, bytes, count, out);
    case DType::kQ8_0: return decode_blocks<decode_q8_0>(dtype, bytes, count, out);
    case DType::kQ4_K: return decode_blocks<decode_q4_k>(dtype, bytes, count, out);
    case DType::kQ5_K: return decode_blocks<decode_q5_k>(dtype, bytes, count, out);
    case DType::kQ6_K: return decode_blocks<decode_q6_k>(dtype, bytes, count, out);
    case DType::kQ2_1: return decode_blocks<decode_q2_1>(dtype, bytes, count, out);
    case DType::kQ3_1: return decode_blocks<decode_q3_1>(dtype, bytes, count, out);
  }
}

void dequantize_rows(const TensorView& tensor, int64_t first, int64_t count, float* out) {
  LOWKEY_CHECK(first >= 0 && count >= 0 && count <= tensor.rows() && first <= tensor.rows() - count,
               "rows [{}, {} + {}) of {}", first, first, count, tensor.rows());
  const int64_t cols = tensor.cols();
  const auto row_at = [&](int64_t row) { return tensor.data.data() + row * tensor.row_bytes(); };
  if (tensor.row_order == RowOrder::kAsStored) {
    dequantize(tensor.dtype, row_at(first), count * cols, out);
    return;
  }
  if (tensor.shape.size() > 1) {
    for (int64_t i = 0; i < count; ++i)
      dequantize(tensor.dtype, row_at(tensor.stored_row(first + i)), cols, out + i * cols);
    return;
  }
  if (count == 0 || cols == 0) return;
  // Of a strided vector the file holds other parts' elements between the groups.
  const int64_t spread =
      tensor.row_order == RowOrder::kStrided ? tensor.stored_row(cols - 1) + 1 : cols;
  std::vector<float> stored(static_cast<size_t>(spread));
  dequantize(tensor.dtype, row_at(0), spread, stored.data());
  for (int64_t i = 0; i < cols; ++i) out[i] = stored[static_cast<size_t>(tensor.stored_row(i))];
}

}  // namespace lowkey
