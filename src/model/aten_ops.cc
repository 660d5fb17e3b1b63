#include "model/aten_ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "core/checked.h"
#include "core/cpu.h"
#include "core/error.h"
#include "model/simulation.h"

namespace lowkey {

static_assert(TurningOps<AtenOps>);

namespace {

// ATen wants pointers it could write to; nothing here does.
at::Tensor view_of(const float* data, at::IntArrayRef shape) {
  return at::from_blob(const_cast<float*>(data), shape, at::kFloat);
}

at::Tensor view_of(const std::vector<float>& values) {
  return view_of(values.data(), {static_cast<int64_t>(values.size())});
}

// Copies: autograd remembers what it was given.
at::Tensor index_of(std::span<const int64_t> rows) {
  return at::from_blob(const_cast<int64_t*>(rows.data()), {std::ssize(rows)}, at::kLong).clone();
}

at::Tensor rms_norm(const at::Tensor& x, const std::vector<float>& weight, double eps) {
  return x * at::rsqrt(x.square().mean(-1, /*keepdim=*/true) + eps) * view_of(weight);
}

// What a matrix kept in blocks is unpacked to: bf16 products are twice as fast where the processor
// has them, and several times slower where it has not. Simulations stay in floats: bf16 would round
// the rounded activations again.
at::ScalarType unpacked_type(bool simulated) {
  return cpu_features().avx512_bf16 && !simulated ? at::kBFloat16 : at::kFloat;
}

// Fewer rows than this are not worth a share: each share reads the whole weight matrix.
constexpr int64_t kRowsPerShare = 32;

// Calls work(first, count) for ranges that cover [0, rows), on the pool's threads.
template <typename Work>
void share_rows(ThreadPool& pool, int64_t rows, const Work& work) {
  const int64_t shares = std::clamp<int64_t>(rows / kRowsPerShare, 1, 2 * pool.num_threads());
  const int64_t per_share = ceil_div(rows, shares);
  pool.run(shares, [&](int64_t share, int) {
    const c10::InferenceMode inference;  // per thread
    at::init_num_threads();              // this thread's OpenMP is to use one: Model::load
    const int64_t first = share * per_share;
    const int64_t count = std::min(per_share, rows - first);
    if (count > 0) work(first, count);
  });
}

at::Tensor product(const at::Tensor& x, const at::Tensor& weight) {
  return at::linear(x.to(weight.scalar_type()), weight).to(at::kFloat);
}

}  // namespace

at::Tensor float_tensor_of(const WeightMatrix& matrix) {
  const std::array<int64_t, 2> shape{matrix.rows(), matrix.cols()};
  auto* data = const_cast<std::byte*>(matrix.data());
  if (matrix.dtype() == DType::kF32) return at::from_blob(data, shape, at::kFloat);
  if (matrix.dtype() == DType::kBF16) return at::from_blob(data, shape, at::kBFloat16);
  return {};
}

at::Tensor turned_heads(const at::Tensor& heads, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = cos.size(-1);
  const at::Tensor low = heads.narrow(-1, 0, half);
  const at::Tensor high = heads.narrow(-1, half, half);
  const at::Tensor rest = heads.narrow(-1, 2 * half, heads.size(-1) - 2 * half);
  return at::cat({low * cos - high * sin, high * cos + low * sin, rest}, -1);
}

AtenOps::AtenOps(const ModelConfig& config, ThreadPool& pool, CacheAttention& attention)
    : config_(config),
      norm_(config.norm),
      activation_(config.activation),
      norm_eps_(config.norm_eps),
      head_dim_(config.head_dim),
      pool_(pool),
      attention_(attention),
      router_(config, pool),
      rotations_(config) {}

void AtenOps::begin(const StepRows& step) {
  step_ = &step;
}

at::Tensor AtenOps::tensor_of(const WeightMatrix& matrix) {
  const bool simulated = is_simulated(config_);
  if (at::Tensor floats = float_tensor_of(matrix); floats.defined()) {
    return simulated ? floats.to(at::kFloat) : floats;
  }
  const int64_t rows = matrix.rows(), cols = matrix.cols();
  if (!unpacked_.defined() || unpacked_.numel() < rows * cols) {
    unpacked_ = at::empty({rows * cols}, unpacked_type(simulated));
  }
  if (unpacked_.scalar_type() == at::kBFloat16) {
    unpack_matrix(matrix, reinterpret_cast<BFloat16*>(unpacked_.data_ptr()), pool_);
  } else {
    unpack_matrix(matrix, unpacked_.data_ptr<float>(), pool_);
  }
  return unpacked_.narrow(0, 0, rows * cols).view({rows, cols});
}

template <typename Work>
AtenOps::Value AtenOps::by_rows(int64_t rows, int64_t cols, const Work& work) {
  if (c10::GradMode::is_enabled()) return work(0, rows);
  Value out = at::empty({rows, cols}, at::kFloat);
  share_rows(pool_, rows, [&](int64_t first, int64_t count) {
    out.narrow(0, first, count).copy_(work(first, count));
  });
  return out;
}

AtenOps::Value AtenOps::rows_of(const float* x, int64_t rows, int64_t cols) {
  return view_of(x, {rows, cols}).clone();
}

AtenOps::Value AtenOps::zeros(int64_t rows, int64_t cols) {
  return at::zeros({rows, cols}, at::kFloat);
}

int64_t AtenOps::rows(const Value& x) const {
  return x.size(0);
}

const float* AtenOps::floats(const Value& x) const {
  LOWKEY_CHECK(x.is_contiguous());
  return x.const_data_ptr<float>();
}

AtenOps::Value AtenOps::embed(const WeightMatrix& table, std::span<const int32_t> tokens) {
  Value x = at::empty({std::ssize(tokens), table.cols()}, at::kFloat);
  auto* out = x.data_ptr<float>();
  for (int32_t token : tokens) {
    table.dequantize_rows(token, 1, out);
    out += table.cols();
  }
  return x;
}

AtenOps::Value AtenOps::linear(const Value& x, const Linear& linear) {
  const int64_t cols = linear.weight.rows();
  if (x.size(0) == 0) return x.new_zeros({0, cols});  // nothing to unpack for
  const at::Tensor weight = tensor_of(linear.weight);
  return by_rows(x.size(0), cols, [&](int64_t first, int64_t count) {
    const at::Tensor input = rounded_activations(config_, x.narrow(0, first, count));
    const at::Tensor y = product(input, weight);
    return linear.bias.empty() ? y : y + view_of(linear.bias);
  });
}

AtenOps::Value AtenOps::norm(const Value& x, const Norm& norm) {
  return by_rows(x.size(0), x.size(1), [&](int64_t first, int64_t count) {
    const at::Tensor rows = x.narrow(0, first, count);
    if (norm_ == NormKind::kRms) return rms_norm(rows, norm.weight, norm_eps_);
    const at::Tensor bias = norm.bias.empty() ? at::Tensor() : view_of(norm.bias);
    return at::layer_norm(rows, {x.size(1)}, view_of(norm.weight), bias, norm_eps_);
  });
}

AtenOps::Value AtenOps::norm_heads(const Value& x, const std::vector<float>& weight,
                                   int32_t num_heads) {
  return by_rows(x.size(0), x.size(1), [&](int64_t first, int64_t count) {
    const at::Tensor heads = x.narrow(0, first, count).reshape({count, num_heads, head_dim_});
    return rms_norm(heads, weight, norm_eps_).view({count, x.size(1)});
  });
}

AtenOps::Value AtenOps::rope(const Value& x, int32_t num_heads, RopeUse use) {
  const StepRows::Angles& angles = step_->angles(use);
  const int64_t half = angles.half_dim;
  return by_rows(x.size(0), x.size(1), [&](int64_t first, int64_t count) {
    const at::Tensor heads = x.narrow(0, first, count).view({count, num_heads, head_dim_});
    const at::Tensor cos = view_of(angles.cos_of(first), {count, 1, half});
    const at::Tensor sin = view_of(angles.sin_of(first), {count, 1, half});
    return turned_heads(heads, cos, sin).view({count, x.size(1)});
  });
}

AtenOps::Value AtenOps::turn(const Value& x, int32_t parts) {
  return by_rows(x.size(0), x.size(1), [&](int64_t first, int64_t count) {
    return rotations_.turned(x.narrow(0, first, count), parts);
  });
}

AtenOps::Value AtenOps::attend(int32_t layer, const Value& q, const Value& k, const Value& v) {
  const at::Tensor queries = q.contiguous(), keys = k.contiguous(), values = v.contiguous();
  Value out = at::empty_like(queries);
  attention_.run(layer, step_->items(), queries.const_data_ptr<float>(),
                 keys.const_data_ptr<float>(), values.const_data_ptr<float>(),
                 out.mutable_data_ptr<float>());
  return out;
}

void AtenOps::store(int32_t layer, const Value& k, const Value& v) {
  const at::Tensor keys = k.contiguous(), values = v.contiguous();
  attention_.store(layer, step_->items(), keys.const_data_ptr<float>(),
                   values.const_data_ptr<float>());
}

at::Tensor AtenOps::activated(const at::Tensor& x) const {
  switch (activation_) {
    case Activation::kSilu: return at::silu(x);
    case Activation::kGelu: return at::gelu(x);
    case Activation::kGeluTanh: return at::gelu(x, "tanh");
    case Activation::kRelu: return at::relu(x);
  }
  return at::silu(x);
}

AtenOps::Value AtenOps::activate(const Value& x) {
  return by_rows(x.size(0), x.size(1), [&](int64_t first, int64_t count) {
    return activated(x.narrow(0, first, count));
  });
}

AtenOps::Value AtenOps::gate(const Value& x, const Value& y) {
  return by_rows(x.size(0), x.size(1), [&](int64_t first, int64_t count) {
    return activated(x.narrow(0, first, count)) * y.narrow(0, first, count);
  });
}

AtenOps::Value AtenOps::add(const Value& x, const Value& y) {
  return x + y;
}

AtenOps::Value AtenOps::scale(const Value& x, float factor) {
  return x * factor;
}

AtenOps::Value AtenOps::select_rows(const Value& x, std::span<const int64_t> rows) {
  return x.index_select(0, index_of(rows));
}

AtenOps::Value AtenOps::add_to_rows(const Value& x, const Value& y, std::span<const int64_t> rows,
                                    std::span<const float> factors) {
  const at::Tensor by_row = view_of(factors.data(), {std::ssize(factors), 1}).clone();
  return x.index_add(0, index_of(rows), y * by_row);
}

const Routing& AtenOps::route(const Value& x, const Linear& router) {
  const at::Tensor rows = x.contiguous();
  return router_.route(rows.const_data_ptr<float>(), rows.size(0), router);
}

void AtenOps::logits(const WeightMatrix& head, const float* hidden, int64_t rows, float* out) {
  const at::Tensor x = view_of(hidden, {rows, head.cols()});
  at::Tensor result = at::from_blob(out, {rows, head.rows()}, at::kFloat);
  const at::Tensor weight = tensor_of(head);
  share_rows(pool_, rows, [&](int64_t first, int64_t count) {
    at::Tensor part = result.narrow(0, first, count);
    if (weight.scalar_type() == at::kFloat) {
      at::mm_out(part, x.narrow(0, first, count), weight.t());
    } else {
      part.copy_(at::linear(x.narrow(0, first, count).to(weight.scalar_type()), weight));
    }
  });
}

}  // namespace lowkey
