#include "model/aten_ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "core/checked.h"
#include "core/cpu.h"
#include "core/error.h"

namespace lowkey {

static_assert(LayerOps<AtenOps>);

namespace {

// ATen wants pointers it could write to; nothing here does.
at::Tensor view_of(const float* data, at::IntArrayRef shape) {
  return at::from_blob(const_cast<float*>(data), shape, at::kFloat);
}

at::Tensor view_of(const std::vector<float>& values) {
  return view_of(values.data(), {static_cast<int64_t>(values.size())});
}

// What a matrix kept in blocks is unpacked to: bf16 products are twice as fast where the processor
// has them, and several times slower where it has not.
at::ScalarType unpacked_type() {
  return cpu_features().avx512_bf16 ? at::kBFloat16 : at::kFloat;
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

AtenOps::AtenOps(const ModelConfig& config, ThreadPool& pool, CacheAttention& attention)
    : norm_eps_(config.norm_eps), head_dim_(config.head_dim), pool_(pool), attention_(attention) {}

void AtenOps::begin(const StepRows& step) {
  step_ = &step;
  cos_ = view_of(step.cos(), {step.num_rows(), 1, step.half_dim()});
  sin_ = view_of(step.sin(), {step.num_rows(), 1, step.half_dim()});
}

at::Tensor AtenOps::tensor_of(const WeightMatrix& matrix) {
  const int64_t rows = matrix.rows(), cols = matrix.cols();
  auto* data = const_cast<std::byte*>(matrix.data());
  if (matrix.dtype() == DType::kF32) return at::from_blob(data, {rows, cols}, at::kFloat);
  if (matrix.dtype() == DType::kBF16) return at::from_blob(data, {rows, cols}, at::kBFloat16);
  if (!unpacked_.defined() || unpacked_.numel() < rows * cols) {
    unpacked_ = at::empty({rows * cols}, unpacked_type());
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
    const at::Tensor y = product(x.narrow(0, first, count), weight);
    return linear.bias.empty() ? y : y + view_of(linear.bias);
  });
}

AtenOps::Value AtenOps::rms_norm(const Value& x, const std::vector<float>& weight) {
  return by_rows(x.size(0), x.size(1), [&](int64_t first, int64_t count) {
    const at::Tensor rows = x.narrow(0, first, count);
    return rows * at::rsqrt(rows.square().mean(-1, /*keepdim=*/true) + norm_eps_) * view_of(weight);
  });
}

AtenOps::Value AtenOps::rope(const Value& x, int32_t num_heads) {
  const int64_t half = step_->half_dim();
  return by_rows(x.size(0), x.size(1), [&](int64_t first, int64_t count) {
    const at::Tensor heads = x.narrow(0, first, count).view({count, num_heads, head_dim_});
    const at::Tensor cos = cos_.narrow(0, first, count), sin = sin_.narrow(0, first, count);
    const at::Tensor low = heads.narrow(-1, 0, half);
    const at::Tensor high = heads.narrow(-1, half, half);
    const at::Tensor rest = heads.narrow(-1, 2 * half, head_dim_ - 2 * half);
    return at::cat({low * cos - high * sin, high * cos + low * sin, rest}, -1)
        .view({count, x.size(1)});
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

AtenOps::Value AtenOps::silu_mul(const Value& gate, const Value& up) {
  return by_rows(gate.size(0), gate.size(1), [&](int64_t first, int64_t count) {
    return at::silu(gate.narrow(0, first, count)) * up.narrow(0, first, count);
  });
}

AtenOps::Value AtenOps::add(const Value& x, const Value& y) {
  return x + y;
}

AtenOps::Value AtenOps::select_rows(const Value& x, std::span<const int64_t> rows) {
  if (std::ssize(rows) == x.size(0)) return x;
  const at::Tensor index =
      at::from_blob(const_cast<int64_t*>(rows.data()), {std::ssize(rows)}, at::kLong);
  return x.index_select(0, index);
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
