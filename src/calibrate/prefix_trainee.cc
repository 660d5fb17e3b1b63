#include "calibrate/prefix_trainee.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/error.h"
#include "core/half.h"

namespace lowkey::calibrate {
namespace {

constexpr float kLargestHalf = 65504.0f;

at::Tensor layer_tensor(const IntactPrefix& prefix, const std::vector<Half>& all, int32_t layer) {
  at::Tensor tensor =
      at::empty({prefix.num_kv_heads, prefix.length(), prefix.head_dim}, at::kFloat);
  const Half* from = all.data() + prefix.offset(layer, 0);
  float* const to = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) to[i] = half_to_float(from[i]);
  return tensor.transpose(0, 1).contiguous();
}

void store_layer(const IntactPrefix& prefix, const at::Tensor& tensor, int32_t layer,
                 std::vector<Half>& all) {
  const at::Tensor heads = tensor.detach().to(at::kFloat).transpose(0, 1).contiguous();
  const float* const from = heads.const_data_ptr<float>();
  Half* const to = all.data() + prefix.offset(layer, 0);
  for (int64_t i = 0; i < heads.numel(); ++i) {
    to[i] = float_to_half(std::clamp(from[i], -kLargestHalf, kLargestHalf));
  }
}

// Sylvester's H / sqrt(n): rows times it are turned.
at::Tensor hadamard_matrix(int64_t n) {
  at::Tensor h = at::ones({1, 1}, at::kFloat);
  while (h.size(0) < n) h = at::cat({at::cat({h, h}, 1), at::cat({h, -h}, 1)}, 0);
  LOWKEY_CHECK(h.size(0) == n, "a Hadamard matrix of order {}", n);
  return h / std::sqrt(static_cast<double>(n));
}

}  // namespace

std::vector<at::Tensor> prefix_tensors(const IntactPrefix& prefix) {
  std::vector<at::Tensor> tensors;
  for (int32_t layer = 0; layer < prefix.num_layers; ++layer) {
    tensors.push_back(layer_tensor(prefix, prefix.k, layer));
    tensors.push_back(layer_tensor(prefix, prefix.v, layer));
  }
  return tensors;
}

IntactPrefix to_prefix(const IntactPrefix& like, std::span<const at::Tensor> tensors) {
  LOWKEY_CHECK(std::ssize(tensors) == 2 * int64_t{like.num_layers}, "{} tensors for {} layers",
               tensors.size(), like.num_layers);
  IntactPrefix prefix = like;
  for (int32_t layer = 0; layer < like.num_layers; ++layer) {
    const auto at = 2 * static_cast<size_t>(layer);
    store_layer(prefix, tensors[at], layer, prefix.k);
    store_layer(prefix, tensors[at + 1], layer, prefix.v);
  }
  return prefix;
}

ExactPrefix exact_prefix(std::span<const at::Tensor> tensors, const ModelConfig& config) {
  at::Tensor h;
  if (config.hadamard_qk || config.hadamard_v) h = hadamard_matrix(config.head_dim);
  ExactPrefix prefix;
  for (size_t i = 0; i + 1 < tensors.size(); i += 2) {
    const at::Tensor &k = tensors[i], &v = tensors[i + 1];
    prefix.k.push_back(config.hadamard_qk ? at::matmul(k, h) : k);
    prefix.v.push_back(config.hadamard_v ? at::matmul(v, h) : v);
  }
  return prefix;
}

Trainee prefix_trainee(const IntactPrefix& prefix, const ModelConfig& student, int32_t bits) {
  Trainee trainee;
  trainee.initial = prefix_tensors(prefix);
  const auto like = std::make_shared<const IntactPrefix>(prefix);
  trainee.stored = [like, bits](std::span<const at::Tensor> tensors) {
    IntactPrefix rounded = to_prefix(*like, tensors);
    round_prefix(rounded, bits);
    return prefix_tensors(rounded);
  };
  trainee.prefix = [&student](std::span<const at::Tensor> tensors) {
    return exact_prefix(tensors, student);
  };
  return trainee;
}

}  // namespace lowkey::calibrate
