#include "model/simulated_ops.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/hadamard_matrix.h"

namespace lowkey {
namespace {

// Sylvester's matrices above this are products of smaller ones: fewer multiplications.
constexpr int64_t kLargestFactor = 64;

// [order, order], normalised.
at::Tensor factor_of(const HadamardRotation& rotation) {
  const int64_t n = rotation.size();
  at::Tensor h = at::zeros({n, n}, at::kDouble);
  for (int64_t j = 0; j < n; ++j) {
    std::vector<double> unit(static_cast<size_t>(n), 0.0);
    unit[static_cast<size_t>(j)] = 1.0;
    rotation.turn(unit);  // column j of H
    for (int64_t i = 0; i < n; ++i) {
      h.data_ptr<double>()[i * n + j] = unit[static_cast<size_t>(i)];
    }
  }
  return h.to(at::kFloat);
}

// The rounded rows and, where gradients are wanted, which values were within the range.
at::Tensor rounded(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& minimum,
                   double lowest, double highest) {
  // A row without a range has nothing to round: any scale does.
  const at::Tensor step = at::where(scale > 0, scale, at::ones_like(scale));
  const at::Tensor codes = at::round((x - minimum) / step);
  const at::Tensor values = codes.clamp(lowest, highest) * step + minimum;
  if (!c10::GradMode::is_enabled() || !x.requires_grad()) return values;
  const at::Tensor inside = at::logical_and(codes >= lowest, codes <= highest).to(at::kFloat);
  // Adds an exact zero that carries the gradient, so that training starts at the very same values.
  const at::Tensor carrier = x * inside;
  return values.detach() + (carrier - carrier.detach());
}

}  // namespace

at::Tensor rounded_activations(const ModelConfig& config, const at::Tensor& x) {
  const int32_t bits = config.activation_bits;
  if (bits >= 16 || x.numel() == 0) return x;
  const auto clip = static_cast<float>(config.activation_clip);
  const at::Tensor rows = x.detach();
  if (config.activation_symmetric) {
    const int32_t highest = (1 << (bits - 1)) - 1;
    const at::Tensor scale =
        rows.abs().amax(-1, /*keepdim=*/true) * clip / static_cast<float>(highest);
    return rounded(x, scale, at::zeros({1}, at::kFloat), -highest - 1, highest);
  }
  const int32_t highest = (1 << bits) - 1;
  const at::Tensor minimum = rows.amin(-1, /*keepdim=*/true) * clip;
  const at::Tensor maximum = rows.amax(-1, /*keepdim=*/true) * clip;
  return rounded(x, (maximum - minimum) / static_cast<float>(highest), minimum, 0, highest);
}

Rotations::Rotations(const ModelConfig& config) {
  if (config.hadamard_qk) add(config.head_dim, "head size");
  if (!config.hadamard_down) return;
  const auto any = [&](bool experts) {
    return std::any_of(config.layers.begin(), config.layers.end(),
                       [&](const LayerConfig& layer) { return layer.experts == experts; });
  };
  if (any(false)) add(config.intermediate_size, "MLP size");
  if (any(true)) add(config.expert_intermediate_size, "experts' MLP size");
}

void Rotations::add(int64_t size, const char* what) {
  const HadamardRotation whole(size, what);  // or says that there is none
  std::vector<at::Tensor>& factors = factors_[size];
  if (!factors.empty()) return;
  const int64_t order = *hadamard_order(size);
  if (order > 1) factors.push_back(factor_of(HadamardRotation(order, what)));
  for (int64_t rest = size / order; rest > 1;) {
    const int64_t factor = std::min(rest, kLargestFactor);
    factors.push_back(factor_of(HadamardRotation(factor, what)));
    rest /= factor;
  }
  if (factors.empty()) factors.push_back(at::ones({1, 1}, at::kFloat));
}

at::Tensor Rotations::turned(const at::Tensor& x, int64_t parts) const {
  const int64_t size = x.size(-1) / parts;
  const auto found = factors_.find(size);
  LOWKEY_CHECK(found != factors_.end(), "no rotation of {} was prepared", size);
  // (A (x) B (x) C) x: one factor at a time, along its own digit of the index.
  at::Tensor y = x.reshape({-1, size});
  int64_t behind = size;
  for (const at::Tensor& factor : found->second) {
    const int64_t n = factor.size(0);
    behind /= n;
    y = at::matmul(factor, y.reshape({-1, n, behind}));
  }
  return y.reshape(x.sizes());
}

}  // namespace lowkey
