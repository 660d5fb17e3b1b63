#include "model/native_ops.h"

#include <algorithm>

#include "core/error.h"
#include "linear/elementwise.h"

namespace lowkey {

static_assert(LayerOps<NativeOps>);

RowBuffers::Rows& RowBuffers::Rows::operator=(Rows&& other) noexcept {
  if (this == &other) return *this;
  give_back();
  owner_ = std::exchange(other.owner_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  rows_ = std::exchange(other.rows_, 0);
  cols_ = std::exchange(other.cols_, 0);
  return *this;
}

void RowBuffers::Rows::give_back() {
  if (owner_) owner_->free_.push_back(data_);  // capacity was reserved in lend()
  owner_ = nullptr;
}

RowBuffers::Rows RowBuffers::lend(int64_t rows, int64_t cols) {
  LOWKEY_CHECK(rows * cols <= floats_, "{} rows of {} floats in a buffer of {}", rows, cols,
               floats_);
  if (free_.empty()) {
    buffers_.emplace_back(static_cast<size_t>(floats_));
    free_.reserve(buffers_.size());
    free_.push_back(buffers_.back().data());
  }
  Rows loan;
  loan.owner_ = this;
  loan.data_ = free_.back();
  loan.rows_ = rows;
  loan.cols_ = cols;
  free_.pop_back();
  return loan;
}

NativeOps::NativeOps(const ModelConfig& config, int64_t max_rows, ThreadPool& pool,
                     CacheAttention& attention)
    : row_ops_(config),
      max_rows_(max_rows),
      pool_(pool),
      attention_(attention),
      router_(config, pool),
      buffers_(max_rows * row_ops_.widest()) {}

NativeOps::Value NativeOps::rows_of(const float* x, int64_t rows, int64_t cols) {
  Value copy = buffers_.lend(rows, cols);
  std::copy_n(x, rows * cols, copy.data());
  return copy;
}

NativeOps::Value NativeOps::zeros(int64_t rows, int64_t cols) {
  Value x = buffers_.lend(rows, cols);
  std::fill_n(x.data(), x.count(), 0.0f);
  return x;
}

NativeOps::Value NativeOps::embed(const WeightMatrix& table, std::span<const int32_t> tokens) {
  const auto rows = std::ssize(tokens);
  LOWKEY_CHECK(rows <= max_rows_, "{} rows in a step of at most {}", rows, max_rows_);
  Value x = buffers_.lend(rows, table.cols());
  for (int64_t i = 0; i < rows; ++i) {
    table.dequantize_rows(tokens[static_cast<size_t>(i)], 1, x.row(i));
  }
  return x;
}

void NativeOps::multiply(const Value& x, std::span<const MatmulOutput> outputs) {
  matmul({x.data(), x.rows(), outputs}, pool_, matmul_scratch_);
}

NativeOps::Value NativeOps::norm(const Value& x, const Norm& norm) {
  Value y = buffers_.lend(x.rows(), x.cols());
  row_ops_.norm(x.data(), norm, x.rows(), x.cols(), y.data());
  return y;
}

NativeOps::Value NativeOps::norm_heads(Value x, const std::vector<float>& weight,
                                       int32_t num_heads) {
  row_ops_.norm_heads(x.data(), weight, x.rows(), num_heads);
  return x;
}

NativeOps::Value NativeOps::rope(Value x, int32_t num_heads, RopeUse use) {
  row_ops_.rope(x.data(), num_heads, step_->angles(use), 0, x.rows());
  return x;
}

NativeOps::Value NativeOps::attend(int32_t layer, const Value& q, const Value& k, const Value& v) {
  Value out = buffers_.lend(q.rows(), q.cols());
  attention_.run(layer, step_->items(), q.data(), k.data(), v.data(), out.data());
  return out;
}

void NativeOps::store(int32_t layer, const Value& k, const Value& v) {
  attention_.store(layer, step_->items(), k.data(), v.data());
}

NativeOps::Value NativeOps::activate(Value x) {
  row_ops_.activate(x.data(), x.count());
  return x;
}

NativeOps::Value NativeOps::gate(Value x, const Value& y) {
  row_ops_.gate(x.data(), y.data(), x.count());
  return x;
}

NativeOps::Value NativeOps::add(Value x, const Value& y) {
  lowkey::add(x.data(), y.data(), x.count());
  return x;
}

NativeOps::Value NativeOps::scale(Value x, float factor) {
  lowkey::scale(x.data(), factor, x.count());
  return x;
}

NativeOps::Value NativeOps::select_rows(const Value& x, std::span<const int64_t> rows) {
  Value y = buffers_.lend(std::ssize(rows), x.cols());
  for (int64_t i = 0; i < y.rows(); ++i) {
    std::copy_n(x.row(rows[static_cast<size_t>(i)]), x.cols(), y.row(i));
  }
  return y;
}

NativeOps::Value NativeOps::add_to_rows(Value x, const Value& y, std::span<const int64_t> rows,
                                        std::span<const float> factors) {
  for (size_t i = 0; i < rows.size(); ++i) {
    add_scaled(x.row(rows[i]), y.row(static_cast<int64_t>(i)), factors[i], x.cols());
  }
  return x;
}

void NativeOps::logits(const WeightMatrix& head, const float* hidden, int64_t rows, float* out) {
  const MatmulOutput output{&head, nullptr, out};
  matmul({hidden, rows, {&output, 1}}, pool_, matmul_scratch_);
}

}  // namespace lowkey
