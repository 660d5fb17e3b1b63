#pragma once
// A weight matrix as it stays in memory: 32- or 16-bit floats, or the blocks of its file, in rows
// or in strips. Torch-free; immutable after construction, thread-safe.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "core/half.h"
#include "core/threads.h"
#include "load/tensor.h"

namespace lowkey {

// What weights are turned into when a model is loaded.
enum class WeightStorage : uint8_t {
  kF32,
  kBF16,
  kFile,    // as they lie in the file, blocks included, without a copy where possible
  kPacked,  // the same, but blocks in strips: what matmul() reads at the speed of memory
};

std::string_view weight_storage_name(WeightStorage storage);  // "f32", "bf16", "file", "packed"
// Throws Error kInvalidArgument for any other name.
WeightStorage parse_weight_storage(std::string_view name);

enum class WeightLayout : uint8_t {
  kRows,    // row after row
  kStrips,  // sixteen rows of blocks, interleaved: strip_layout.h
};

// Where matrices that own their bytes keep them: large pieces, in huge pages where the system gives
// them (a decode step reads all weights once, and a fifth slower through small pages). Matrices
// share the pieces; each is freed with the last of its matrices. Belongs to one thread.
class WeightArena {
 public:
  // 64-byte aligned. Throws Error kResourceExhausted.
  std::shared_ptr<std::byte> allocate(int64_t bytes);

 private:
  std::shared_ptr<std::byte> chunk_;
  int64_t used_ = 0;
  int64_t size_ = 0;
};

// [rows = output features, cols = input features], row-major, rows in lowkey's order (RowOrder
// undone).
class WeightMatrix {
 public:
  WeightMatrix() = default;

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }
  WeightLayout layout() const { return layout_; }
  int64_t row_bytes() const { return row_bytes_; }
  // Aligned to 64 bytes when owned, to the element when borrowed (blocks: to nothing).
  const std::byte* data() const { return data_; }
  const std::byte* row(int64_t index) const;    // of a matrix in rows
  const std::byte* strip(int64_t index) const;  // of a matrix in strips: rows [16 index, ...)
  int64_t strip_bytes() const;
  // 0 where the matrix borrows its file's map.
  int64_t owned_bytes() const { return owned_ ? stored_bytes() : 0; }

  // Blocks [first, first + count) of a row as the file has them (for types without blocks:
  // elements), whatever the layout.
  void copy_blocks(int64_t row, int64_t first, int64_t count, std::byte* out) const;

  // Rows [first, first + count) as floats, [count, cols]: an embedding look-up. Allocates nothing.
  void dequantize_rows(int64_t first, int64_t count, float* out) const;

 private:
  friend WeightMatrix make_weight(const TensorView&, WeightStorage, ThreadPool&, WeightArena&);
  int64_t stored_bytes() const;

  std::shared_ptr<std::byte> owned_;
  const std::byte* data_ = nullptr;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t row_bytes_ = 0;
  DType dtype_ = DType::kF32;
  WeightLayout layout_ = WeightLayout::kRows;
};

// Converts on all threads of `pool`. Where the file already holds what is wanted, in lowkey's row
// order, the matrix borrows its bytes and the file must outlive it. Throws Error kUnsupported for a
// tensor that is not a matrix.
WeightMatrix make_weight(const TensorView& tensor, WeightStorage storage, ThreadPool& pool,
                         WeightArena& arena);
// With memory of its own.
WeightMatrix make_weight(const TensorView& tensor, WeightStorage storage, ThreadPool& pool);

// Norm weights and biases: a vector of floats, in lowkey's order.
std::vector<float> make_vector(const TensorView& tensor);

// The whole matrix as 32- or 16-bit floats, [rows, cols], on all threads: for matmuls that cannot
// read blocks.
void unpack_matrix(const WeightMatrix& matrix, float* out, ThreadPool& pool);
void unpack_matrix(const WeightMatrix& matrix, BFloat16* out, ThreadPool& pool);

}  // namespace lowkey
