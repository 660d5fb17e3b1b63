#include "model/prefill_ops.h"

#include <algorithm>
#include <functional>

#include "core/checked.h"
#include "core/error.h"
#include "linear/elementwise.h"

namespace lowkey {

static_assert(FusedOps<PrefillOps>);

namespace {

// Rows of elementwise work claimed at a time: tens of microseconds.
constexpr int64_t kRowsPerTask = 32;

int64_t widest(const ModelConfig& config) {
  return std::max({static_cast<int64_t>(config.hidden_size),
                   static_cast<int64_t>(config.intermediate_size),
                   static_cast<int64_t>(config.num_qo_heads) * config.head_dim,
                   static_cast<int64_t>(config.num_kv_heads) * config.head_dim});
}

std::array<const Linear*, 7> linears_in(const LayerWeights& layer) {
  return {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down};
}

template <typename T>
void grow(std::vector<T>& v, int64_t size) {
  if (std::ssize(v) < size) v.resize(static_cast<size_t>(size));
}

}  // namespace

bool PrefillOps::suits(const ModelWeights& weights) {
  if (!gemm_available()) return false;
  for (const LayerWeights& layer : weights.layers) {
    for (const Linear* linear : linears_in(layer)) {
      if (linear->weight.dtype() == DType::kF32) return false;
    }
  }
  return true;
}

PrefillOps::PrefillOps(const ModelWeights& weights, ThreadPool& pool, CacheAttention& attention)
    : norm_eps_(static_cast<float>(weights.config.norm_eps)),
      head_dim_(weights.config.head_dim),
      widest_(widest(weights.config)),
      pool_(pool),
      attention_(attention),
      normed_(static_cast<size_t>(pool.num_threads())) {
  LOWKEY_CHECK(suits(weights), "no bf16 here, or f32 weights");
  for (const LayerWeights& layer : weights.layers) {
    for (const Linear* linear : linears_in(layer)) {
      packed_.emplace(linear, PackedMatrix(linear->weight, pool));
    }
  }
  for (std::vector<float>& row : normed_) row.resize(static_cast<size_t>(widest_));
}

int64_t PrefillOps::packed_bytes() const {
  int64_t bytes = 0;
  for (const auto& [linear, matrix] : packed_) bytes += matrix.bytes();
  return bytes;
}

void PrefillOps::begin(const StepRows& step) {
  step_ = &step;
  if (step.num_rows() <= max_rows_) return;
  max_rows_ = step.num_rows();
  buffers_.emplace(max_rows_ * widest_);
}

template <typename Work>
void PrefillOps::by_rows(int64_t rows, const Work& work) {
  const auto job = [&](int64_t task, int thread) {
    const int64_t first = task * kRowsPerTask;
    work(first, std::min(kRowsPerTask, rows - first), thread);
  };
  pool_.run(ceil_div(rows, kRowsPerTask), std::ref(job));
}

void PrefillOps::size_input(int64_t rows, int64_t cols) {
  const int64_t stride = round_up<int64_t>(cols, 2);
  grow(input_data_, rows * stride);
  input_ = {input_data_.data(), rows, stride};
}

void PrefillOps::round(const Value& x) {
  size_input(x.rows(), x.cols());
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    round_to_bf16(x.row(first), count, x.cols(), input_data_.data() + first * input_.stride,
                  input_.stride);
  });
}

void PrefillOps::round_norm(const Value& x, const std::vector<float>& norm) {
  size_input(x.rows(), x.cols());
  by_rows(x.rows(), [&](int64_t first, int64_t count, int thread) {
    float* normed = normed_[static_cast<size_t>(thread)].data();
    for (int64_t row = first; row < first + count; ++row) {
      lowkey::rms_norm(x.row(row), norm.data(), norm_eps_, 1, x.cols(), normed);
      round_to_bf16(normed, 1, x.cols(), input_data_.data() + row * input_.stride, input_.stride);
    }
  });
}

PrefillOps::Value PrefillOps::rows_of(const float* x, int64_t rows, int64_t cols) {
  Value copy = buffers_->lend(rows, cols);
  std::copy_n(x, rows * cols, copy.data());
  return copy;
}

PrefillOps::Value PrefillOps::embed(const WeightMatrix& table, std::span<const int32_t> tokens) {
  Value x = buffers_->lend(std::ssize(tokens), table.cols());
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    for (int64_t row = first; row < first + count; ++row) {
      table.dequantize_rows(tokens[static_cast<size_t>(row)], 1, x.row(row));
    }
  });
  return x;
}

PrefillOps::Value PrefillOps::rms_norm(const Value& x, const std::vector<float>& weight) {
  Value y = buffers_->lend(x.rows(), x.cols());
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    lowkey::rms_norm(x.row(first), weight.data(), norm_eps_, count, x.cols(), y.row(first));
  });
  return y;
}

PrefillOps::Value PrefillOps::rope(Value x, int32_t num_heads) {
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    for (int64_t row = first; row < first + count; ++row) {
      rotate_heads(x.row(row), num_heads, head_dim_, step_->cos(row), step_->sin(row),
                   step_->half_dim());
    }
  });
  return x;
}

PrefillOps::Value PrefillOps::attend(int32_t layer, const Value& q, const Value& k,
                                     const Value& v) {
  Value out = buffers_->lend(q.rows(), q.cols());
  attention_.run(layer, step_->items(), q.data(), k.data(), v.data(), out.data(),
                 AttendPrecision::kBF16);
  return out;
}

void PrefillOps::store(int32_t layer, const Value& k, const Value& v) {
  attention_.store(layer, step_->items(), k.data(), v.data());
}

PrefillOps::Value PrefillOps::silu_mul(Value gate, const Value& up) {
  by_rows(gate.rows(), [&](int64_t first, int64_t count, int) {
    lowkey::silu_mul(gate.row(first), up.row(first), count * gate.cols());
  });
  return gate;
}

PrefillOps::Value PrefillOps::add(Value x, const Value& y) {
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    lowkey::add(x.row(first), y.row(first), count * x.cols());
  });
  return x;
}

PrefillOps::Value PrefillOps::select_rows(Value x, std::span<const int64_t> rows) {
  int64_t kept = 0;
  for (int64_t row : rows) {  // ascending, so nothing is overwritten before it is read
    if (row != kept) std::copy_n(x.row(row), x.cols(), x.row(kept));
    ++kept;
  }
  x.truncate(kept);
  return x;
}

PrefillOps::Value PrefillOps::add_linear(Value x, const Value& y, const Linear& linear) {
  round(y);
  const GemmOutput output = output_for(linear, x);
  gemm(input_, {&output, 1}, GemmStore::kAdd, pool_);
  return x;
}

PrefillOps::Value PrefillOps::add_gated_mlp(Value x, const std::vector<float>& norm,
                                            const Linear& gate, const Linear& up,
                                            const Linear& down) {
  round_norm(x, norm);
  const int64_t stride = round_up<int64_t>(gate.weight.rows(), 2);
  grow(gated_data_, x.rows() * stride);
  for (int64_t row = 0; gate.weight.rows() < stride && row < x.rows(); ++row) {
    gated_data_[static_cast<size_t>((row + 1) * stride - 1)] = {};
  }
  gated_gemm(
      input_,
      {&packed(gate), &packed(up), gate.bias_data(), up.bias_data(), gated_data_.data(), stride},
      pool_);
  const GemmOutput output = output_for(down, x);
  gemm({gated_data_.data(), x.rows(), stride}, {&output, 1}, GemmStore::kAdd, pool_);
  return x;
}

}  // namespace lowkey
