#pragma once
// A named weight as it lies in a file. Torch-free; a view borrows the file's map.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lowkey {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  // lowkey's own, of folders that `lowkey quantize` wrote; no GGUF holds them. 32 weights, w =
  // scale
  // * code + minimum, both f16, as Q4_1: then 64 bits, code i at bits 2i, and of Q3_1 32 more, the
  // third bit of code i at bit i.
  kQ2_1,
  kQ3_1
};
inline constexpr int kNumDTypes = static_cast<int>(DType::kQ3_1) + 1;

std::string_view dtype_name(DType dtype);   // "F32", "Q4_1", ...
int64_t dtype_block_elements(DType dtype);  // 1, 32 or 256
int64_t dtype_block_bytes(DType dtype);

// GGUF stores the Q and K projections of Llama-family models with each head's rows interleaved (0,
// D/2, 1, D/2+1, ...); everything in lowkey uses Hugging Face's half-split order.
// kStrided: a part of a matrix whose rows lie in groups (Falcon's fused q, k, v): `group_rows` of
// every `group_stride` rows.
enum class RowOrder : uint8_t { kAsStored, kInterleavedHeads, kStrided };

struct TensorView {
  std::string name;  // as in the file
  DType dtype = DType::kF32;
  // Row-major, outermost first: [rows, cols] for a matrix. cols % block_elements == 0.
  std::vector<int64_t> shape;
  // No alignment promised. From the first row to the last; of a strided tensor with what lies
  // between, so that it is more than rows() * row_bytes().
  std::span<const std::byte> data;
  RowOrder row_order = RowOrder::kAsStored;
  int64_t head_rows = 0;  // rows per head, when row_order is kInterleavedHeads; even
  int64_t group_rows = 0, group_stride = 0;  // when row_order is kStrided

  int64_t rows() const;  // product of all but the last dimension: 1 for a vector
  int64_t cols() const;  // the last dimension; 1 for a scalar
  int64_t row_bytes() const;
  // Where in `data`, counted in rows, row `row` of the matrix as lowkey orders it lies; of a vector
  // (a bias), its element. dequantize_rows puts both in order.
  int64_t stored_row(int64_t row) const;
};

// "[576, 192]"
std::string shape_text(std::span<const int64_t> shape);

// Decodes `count` elements (a multiple of the block) into floats: the published block formulas of
// ggml (of Q2_1 and Q3_1: those above), exactly. This is the specification; faster decoders are
// compared with it. Thread-safe.
void dequantize(DType dtype, const std::byte* data, int64_t count, float* out);

// Decodes rows [first, first + count) of the matrix in lowkey's row order. out: [count, cols]. A
// vector is one row, and its elements come in lowkey's order too.
void dequantize_rows(const TensorView& tensor, int64_t first, int64_t count, float* out);

}  // namespace lowkey
