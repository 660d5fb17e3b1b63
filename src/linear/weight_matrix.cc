#include "linear/weight_matrix.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include "core/checked.h"
#include "core/error.h"
#include "linear/row_kernels.h"

namespace lowkey {
namespace {

constexpr std::align_val_t kAlignment{64};

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
    case WeightStorage::kFile: return stored;
  }
  return stored;
}

}  // namespace

std::string_view weight_storage_name(WeightStorage storage) {
  switch (storage) {
    case WeightStorage::kF32: return "f32";
    case WeightStorage::kBF16: return "bf16";
    case WeightStorage::kFile: return "file";
  }
  return "unknown";
}

WeightStorage parse_weight_storage(std::string_view name) {
  for (auto storage : {WeightStorage::kF32, WeightStorage::kBF16, WeightStorage::kFile}) {
    if (name == weight_storage_name(storage)) return storage;
  }
  fail(ErrorCode::kInvalidArgument, "weights '{}': not one of f32, bf16, file", name);
}

void WeightMatrix::Free::operator()(std::byte* data) const {
  ::operator delete[](data, kAlignment);
}

void WeightMatrix::dequantize_rows(int64_t first, int64_t count, float* out) const {
  LOWKEY_CHECK(first >= 0 && count >= 0 && count <= rows_ && first <= rows_ - count,
               "rows [{}, {} + {}) of {}", first, first, count, rows_);
  const auto& to_f32 = row_kernels(active_isa()).format(dtype_).to_f32;
  for (int64_t i = 0; i < count; ++i) to_f32(row(first + i), cols_, out + i * cols_);
}

WeightMatrix make_weight(const TensorView& tensor, WeightStorage storage, ThreadPool& pool) {
  if (tensor.shape.size() != 2) {
    fail(ErrorCode::kUnsupported, "tensor '{}': shape {} is not a matrix", tensor.name,
         shape_text(tensor.shape));
  }
  WeightMatrix matrix;
  matrix.rows_ = tensor.rows();
  matrix.cols_ = tensor.cols();
  matrix.dtype_ = wanted_dtype(tensor.dtype, storage);
  matrix.row_bytes_ =
      matrix.cols_ / dtype_block_elements(matrix.dtype_) * dtype_block_bytes(matrix.dtype_);

  const bool converts = matrix.dtype_ != tensor.dtype;
  if (!converts && tensor.row_order == RowOrder::kAsStored &&
      aligned_for(tensor.dtype, tensor.data.data())) {
    matrix.data_ = tensor.data.data();
    return matrix;
  }

  const auto bytes = static_cast<size_t>(matrix.rows_ * matrix.row_bytes_);
  matrix.owned_.reset(new (kAlignment) std::byte[bytes]);
  matrix.data_ = matrix.owned_.get();
  const RowKernels& kernels = row_kernels(active_isa());
  for_row_runs(matrix.rows_, matrix.cols_, pool, [&](int64_t first, int64_t count) {
    std::vector<float> floats;
    if (matrix.dtype_ == DType::kBF16 && converts) floats.resize(static_cast<size_t>(matrix.cols_));
    for (int64_t row = first; row < first + count; ++row) {
      const std::byte* from = tensor.data.data() + tensor.stored_row(row) * tensor.row_bytes();
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
