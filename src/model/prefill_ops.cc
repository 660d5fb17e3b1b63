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

// Products over one input at most: q, k and v.
constexpr size_t kMostOutputs = 3;

template <typename T>
void grow(std::vector<T>& v, int64_t size) {
  if (std::ssize(v) < size) v.resize(static_cast<size_t>(size));
}

}  // namespace

bool PrefillOps::suits(const ModelWeights& weights) {
  bool floats = false;
  for (const LayerWeights& layer : weights.layers) {
    for_each_linear(layer, [&](const Linear& l) { floats |= l.weight.dtype() == DType::kF32; });
  }
  return gemm_available() && !floats;
}

PrefillOps::PrefillOps(const ModelWeights& weights, ThreadPool& pool, CacheAttention& attention)
    : row_ops_(weights.config),
      streams_(weights.storage == WeightStorage::kFile),
      pool_(pool),
      attention_(attention),
      router_(weights.config, pool),
      normed_(static_cast<size_t>(pool.num_threads())) {
  LOWKEY_CHECK(suits(weights), "no bf16 here, or f32 weights");
  for (const LayerWeights& layer : weights.layers) {
    if (streams_) break;
    for_each_linear(layer, [&](const Linear& linear) {
      packed_.emplace(&linear, PackedMatrix(linear.weight, pool));
    });
  }
  for (std::vector<float>& row : normed_) row.resize(static_cast<size_t>(row_ops_.widest()));
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
  buffers_.emplace(max_rows_ * row_ops_.widest());
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

void PrefillOps::round_norm(const Value& x, const Norm& norm) {
  size_input(x.rows(), x.cols());
  by_rows(x.rows(), [&](int64_t first, int64_t count, int thread) {
    float* normed = normed_[static_cast<size_t>(thread)].data();
    for (int64_t row = first; row < first + count; ++row) {
      row_ops_.norm(x.row(row), norm, 1, x.cols(), normed);
      round_to_bf16(normed, 1, x.cols(), input_data_.data() + row * input_.stride, input_.stride);
    }
  });
}

void PrefillOps::multiply(const Bf16Rows& x, std::span<const StreamedOutput> outputs,
                          std::span<const Linear* const> linears, GemmStore store) {
  if (streams_) return gemm_streamed(x, outputs, store, gemm_scratch_, pool_);
  LOWKEY_CHECK(outputs.size() <= kMostOutputs, "{} products at once", outputs.size());
  std::array<GemmOutput, kMostOutputs> with_copies;
  for (size_t i = 0; i < outputs.size(); ++i) {
    with_copies[i] = {&packed(*linears[i]), outputs[i].bias, outputs[i].y};
  }
  gemm(x, std::span(with_copies).first(outputs.size()), store, pool_);
}

PrefillOps::Value PrefillOps::rows_of(const float* x, int64_t rows, int64_t cols) {
  Value copy = buffers_->lend(rows, cols);
  std::copy_n(x, rows * cols, copy.data());
  return copy;
}

PrefillOps::Value PrefillOps::zeros(int64_t rows, int64_t cols) {
  Value x = buffers_->lend(rows, cols);
  std::fill_n(x.data(), x.count(), 0.0f);
  return x;
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

PrefillOps::Value PrefillOps::norm(const Value& x, const Norm& norm) {
  Value y = buffers_->lend(x.rows(), x.cols());
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    row_ops_.norm(x.row(first), norm, count, x.cols(), y.row(first));
  });
  return y;
}

PrefillOps::Value PrefillOps::norm_heads(Value x, const std::vector<float>& weight,
                                         int32_t num_heads) {
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    row_ops_.norm_heads(x.row(first), weight, count, num_heads);
  });
  return x;
}

PrefillOps::Value PrefillOps::rope(Value x, int32_t num_heads, RopeUse use) {
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    row_ops_.rope(x.row(first), num_heads, step_->angles(use), first, count);
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

PrefillOps::Value PrefillOps::activate(Value x) {
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    row_ops_.activate(x.row(first), count * x.cols());
  });
  return x;
}

PrefillOps::Value PrefillOps::gate(Value x, const Value& y) {
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    row_ops_.gate(x.row(first), y.row(first), count * x.cols());
  });
  return x;
}

PrefillOps::Value PrefillOps::add(Value x, const Value& y) {
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    lowkey::add(x.row(first), y.row(first), count * x.cols());
  });
  return x;
}

PrefillOps::Value PrefillOps::scale(Value x, float factor) {
  by_rows(x.rows(), [&](int64_t first, int64_t count, int) {
    lowkey::scale(x.row(first), factor, count * x.cols());
  });
  return x;
}

PrefillOps::Value PrefillOps::select_rows(const Value& x, std::span<const int64_t> rows) {
  Value y = buffers_->lend(std::ssize(rows), x.cols());
  by_rows(y.rows(), [&](int64_t first, int64_t count, int) {
    for (int64_t row = first; row < first + count; ++row) {
      std::copy_n(x.row(rows[static_cast<size_t>(row)]), x.cols(), y.row(row));
    }
  });
  return y;
}

PrefillOps::Value PrefillOps::add_to_rows(Value x, const Value& y, std::span<const int64_t> rows,
                                          std::span<const float> factors) {
  by_rows(y.rows(), [&](int64_t first, int64_t count, int) {
    for (int64_t i = first; i < first + count; ++i) {
      const auto at = static_cast<size_t>(i);
      add_scaled(x.row(rows[at]), y.row(i), factors[at], x.cols());
    }
  });
  return x;
}

PrefillOps::Value PrefillOps::add_linear(Value x, const Value& y, const Linear& linear) {
  round(y);
  const StreamedOutput output{&linear.weight, linear.bias_data(), x.data()};
  multiply(input_, {&output, 1}, std::array{&linear}, GemmStore::kAdd);
  return x;
}

PrefillOps::Value PrefillOps::add_silu_mlp(Value x, const Norm& norm, const Mlp& mlp) {
  if (streams_) {  // gated_gemm() wants two packed panels side by side
    auto [gate, up] = linears_of_norm(x, norm, mlp.gate, mlp.up);
    return add_linear(std::move(x), this->gate(std::move(gate), up), mlp.down);
  }
  round_norm(x, norm);
  const int64_t inner = mlp.gate.weight.rows();
  const int64_t stride = round_up<int64_t>(inner, 2);
  grow(gated_data_, x.rows() * stride);
  for (int64_t row = 0; inner < stride && row < x.rows(); ++row) {
    gated_data_[static_cast<size_t>((row + 1) * stride - 1)] = {};
  }
  gated_gemm(input_,
             {&packed(mlp.gate), &packed(mlp.up), mlp.gate.bias_data(), mlp.up.bias_data(),
              gated_data_.data(), stride},
             pool_);
  const GemmOutput output{&packed(mlp.down), mlp.down.bias_data(), x.data()};
  gemm({gated_data_.data(), x.rows(), stride}, {&output, 1}, GemmStore::kAdd, pool_);
  return x;
}

}  // namespace lowkey
