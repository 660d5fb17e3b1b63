#include "linear/weight_matrix.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "linear/row_kernels.h"
#include "linear/strip_layout.h"

namespace lowkey {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePageBytes = int64_t{2} << 20;

// What an arena takes at a time: address space; memory is used as it is written to.
constexpr int64_t kChunkBytes = int64_t{64} << 20;

// Rows converted by one task: enough that claiming it is free, few enough that all threads finish
// together.
constexpr int64_t kTaskElements = int64_t{1} << 16;

// Calls convert(first, count) for runs of rows, on all threads.
template <typename Convert>
void for_row_runs(int64_t rows, int64_t cols, ThreadPool& pool, const Convert& convert) {
  const int64_t run = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, cols));
  pool.run(ceil_div(rows, run), [&](int64_t task, int) {
    const int64_t first = task * run;
    convert(first, std::min(run, rows - first));
  });
}

bool aligned_for(DType dtype, const std::byte* data) {
  const int64_t element = dtype_block_elements(dtype) == 1 ? dtype_block_bytes(dtype) : 1;
  return std::bit_cast<uintptr_t>(data) % static_cast<uintptr_t>(element) == 0;
}

DType wanted_dtype(DType stored, WeightStorage storage) {
  switch (storage) {
    case WeightStorage::kF32: return DType::kF32;
    case WeightStorage::kBF16: return DType::kBF16;
    case WeightStorage::kFile:
    case WeightStorage::kPacked: return stored;
  }
  return stored;
}

}  // namespace

std::string_view weight_storage_name(WeightStorage storage) {
  switch (storage) {
    case WeightStorage::kF32: return "f32";
    case WeightStorage::kBF16: return "bf16";
    case WeightStorage::kFile: return "file";
    case WeightStorage::kPacked: return "packed";
  }
  return "unknown";
}

WeightStorage parse_weight_storage(std::string_view name) {
  for (auto storage :
       {WeightStorage::kF32, WeightStorage::kBF16, WeightStorage::kFile, WeightStorage::kPacked}) {
    if (name == weight_storage_name(storage)) return storage;
  }
  fail(ErrorCode::kInvalidArgument, "weights '{}': not one of f32, bf16, file, packed", name);
}

std::shared_ptr<std::byte> WeightArena::allocate(int64_t bytes) {
  const int64_t wanted = round_up(bytes, kAlignment);
  if (wanted > size_ - used_) {
    const int64_t size = std::max(round_up(wanted, kHugePageBytes), kChunkBytes);
    void* address = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) {
      fail(ErrorCode::kResourceExhausted, "weights: the system has no {} bytes more", size);
    }
    ::madvise(address, static_cast<size_t>(size), MADV_HUGEPAGE);  // advice: may be refused
    chunk_ = std::shared_ptr<std::byte>(static_cast<std::byte*>(address), [size](std::byte* start) {
      ::munmap(start, static_cast<size_t>(size));
    });
    size_ = size;
    used_ = 0;
  }
  std::shared_ptr<std::byte> result(chunk_, chunk_.get() + used_);
  used_ += wanted;
  return result;
}

const std::byte* WeightMatrix::row(int64_t index) const {
  LOWKEY_CHECK(layout_ == WeightLayout::kRows, "row {} of a matrix in strips", index);
  return data_ + index * row_bytes_;
}

const std::byte* WeightMatrix::strip(int64_t index) const {
  LOWKEY_CHECK(layout_ == WeightLayout::kStrips, "strip {} of a matrix in rows", index);
  return data_ + index * strip_bytes();
}

int64_t WeightMatrix::strip_bytes() const {
  return row_bytes_ * kStripRows;
}

int64_t WeightMatrix::stored_bytes() const {
  return layout_ == WeightLayout::kRows ? rows_ * row_bytes_
                                        : ceil_div(rows_, kStripRows) * strip_bytes();
}

void WeightMatrix::copy_blocks(int64_t row_index, int64_t first, int64_t count,
                               std::byte* out) const {
  const int64_t bytes = dtype_block_bytes(dtype_);
  if (layout_ == WeightLayout::kRows) {
    std::memcpy(out, row(row_index) + first * bytes, static_cast<size_t>(count * bytes));
  } else {
    unpack_strip_row(dtype_, strip(row_index / kStripRows) + first * bytes * kStripRows,
                     row_index % kStripRows, count, out);
  }
}

void WeightMatrix::dequantize_rows(int64_t first, int64_t count, float* out) const {
  LOWKEY_CHECK(first >= 0 && count >= 0 && count <= rows_ && first <= rows_ - count,
               "rows [{}, {} + {}) of {}", first, first, count, rows_);
  const auto& to_f32 = row_kernels(active_isa()).format(dtype_).to_f32;
  if (layout_ == WeightLayout::kRows) {
    for (int64_t i = 0; i < count; ++i) to_f32(row(first + i), cols_, out + i * cols_);
    return;
  }
  // A row is put together again piece by piece, on the stack.
  std::array<std::byte, 4096> piece;
  const int64_t elements = dtype_block_elements(dtype_);
  const int64_t num_blocks = cols_ / elements;
  const int64_t at_once = std::ssize(piece) / dtype_block_bytes(dtype_);
  for (int64_t row = first; row < first + count; ++row) {
    for (int64_t block = 0; block < num_blocks; block += at_once) {
      const int64_t blocks = std::min(at_once, num_blocks - block);
      copy_blocks(row, block, blocks, piece.data());
      to_f32(piece.data(), blocks * elements, out);
      out += blocks * elements;
    }
  }
}

WeightMatrix make_weight(const TensorView& tensor, WeightStorage storage, ThreadPool& pool) {
  WeightArena arena;
  return make_weight(tensor, storage, pool, arena);
}

WeightMatrix make_weight(const TensorView& tensor, WeightStorage storage, ThreadPool& pool,
                         WeightArena& arena) {
  if (tensor.shape.size() != 2) {
    fail(ErrorCode::kUnsupported, "tensor '{}': shape {} is not a matrix", tensor.name,
         shape_text(tensor.shape));
  }
  WeightMatrix matrix;
  matrix.rows_ = tensor.rows();
  matrix.cols_ = tensor.cols();
  matrix.dtype_ = wanted_dtype(tensor.dtype, storage);
  const int64_t num_blocks = matrix.cols_ / dtype_block_elements(matrix.dtype_);
  matrix.row_bytes_ = num_blocks * dtype_block_bytes(matrix.dtype_);
  if (storage == WeightStorage::kPacked && has_strips(matrix.dtype_)) {
    matrix.layout_ = WeightLayout::kStrips;
  }

  const bool converts = matrix.dtype_ != tensor.dtype;
  if (!converts && matrix.layout_ == WeightLayout::kRows &&
      tensor.row_order == RowOrder::kAsStored && aligned_for(tensor.dtype, tensor.data.data())) {
    matrix.data_ = tensor.data.data();
    return matrix;
  }

  matrix.owned_ = arena.allocate(matrix.stored_bytes());
  matrix.data_ = matrix.owned_.get();
  const auto stored_row = [&](int64_t row) {
    return tensor.data.data() + tensor.stored_row(row) * tensor.row_bytes();
  };
  if (matrix.layout_ == WeightLayout::kStrips) {
    const int64_t strips = ceil_div(matrix.rows_, kStripRows);
    for_row_runs(strips, matrix.cols_ * kStripRows, pool, [&](int64_t first, int64_t count) {
      for (int64_t strip = first; strip < first + count; ++strip) {
        const std::byte* rows[kStripRows] = {};
        for (int64_t r = 0; r < kStripRows; ++r) {
          const int64_t row = strip * kStripRows + r;
          if (row < matrix.rows_) rows[r] = stored_row(row);
        }
        pack_strip(matrix.dtype_, rows, num_blocks,
                   matrix.owned_.get() + strip * matrix.strip_bytes());
      }
    });
    return matrix;
  }
  const RowKernels& kernels = row_kernels(active_isa());
  for_row_runs(matrix.rows_, matrix.cols_, pool, [&](int64_t first, int64_t count) {
    std::vector<float> floats;
    if (matrix.dtype_ == DType::kBF16 && converts) floats.resize(static_cast<size_t>(matrix.cols_));
    for (int64_t row = first; row < first + count; ++row) {
      const std::byte* from = stored_row(row);
      std::byte* to = matrix.owned_.get() + row * matrix.row_bytes_;
      if (!converts) {
        std::memcpy(to, from, static_cast<size_t>(matrix.row_bytes_));
      } else if (matrix.dtype_ == DType::kF32) {
        kernels.format(tensor.dtype).to_f32(from, matrix.cols_, reinterpret_cast<float*>(to));
      } else {
        kernels.format(tensor.dtype).to_f32(from, matrix.cols_, floats.data());
        kernels.to_bf16(floats.data(), matrix.cols_, reinterpret_cast<BFloat16*>(to));
      }
    }
  });
  return matrix;
}

std::vector<float> make_vector(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.rows() * tensor.cols()));
  dequantize_rows(tensor, 0, tensor.rows(), values.data());
  return values;
}

void unpack_matrix(const WeightMatrix& matrix, float* out, ThreadPool& pool) {
  for_row_runs(matrix.rows(), matrix.cols(), pool, [&](int64_t first, int64_t count) {
    matrix.dequantize_rows(first, count, out + first * matrix.cols());
  });
}

void unpack_matrix(const WeightMatrix& matrix, BFloat16* out, ThreadPool& pool) {
  const RowKernels& kernels = row_kernels(active_isa());
  for_row_runs(matrix.rows(), matrix.cols(), pool, [&](int64_t first, int64_t count) {
    std::vector<float> floats(static_cast<size_t>(matrix.cols()));
    for (int64_t row = first; row < first + count; ++row) {
      matrix.dequantize_rows(row, 1, floats.data());
      kernels.to_bf16(floats.data(), matrix.cols(), out + row * matrix.cols());
    }
  });
}

}  // namespace lowkey
