#include "calibrate/adamw.h"

#include <ATen/ATen.h>

#include <cmath>

#include "core/error.h"

namespace lowkey::calibrate {

AdamWState AdamWState::zeros(std::span<const at::Tensor> tensors) {
  AdamWState state;
  for (const at::Tensor& tensor : tensors) {
    state.mean.push_back(at::zeros_like(tensor));
    state.square.push_back(at::zeros_like(tensor));
  }
  return state;
}

void adamw_step(const AdamWOptions& options, AdamWState& state, std::span<at::Tensor> tensors,
                std::span<const at::Tensor> gradients) {
  LOWKEY_CHECK(gradients.size() == tensors.size() && state.mean.size() == tensors.size(),
               "{} gradients for {} tensors", gradients.size(), tensors.size());
  ++state.steps;
  const auto step = static_cast<double>(state.steps);
  const double step_size = options.learning_rate / (1 - std::pow(options.beta1, step));
  const double root = std::sqrt(1 - std::pow(options.beta2, step));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor& gradient = gradients[i];
    tensors[i].mul_(1 - options.learning_rate * options.weight_decay);
    state.mean[i].lerp_(gradient, 1 - options.beta1);
    state.square[i].mul_(options.beta2).addcmul_(gradient, gradient, 1 - options.beta2);
    const at::Tensor spread = (state.square[i].sqrt() / root).add_(options.epsilon);
    tensors[i].addcdiv_(state.mean[i], spread, -step_size);
  }
}

double clip_norm(std::span<at::Tensor> gradients, double most) {
  double squares = 0;
  for (const at::Tensor& gradient : gradients) {
    squares += gradient.to(at::kDouble).square().sum().item<double>();
  }
  const double norm = std::sqrt(squares);
  if (most > 0 && norm > most) {
    for (at::Tensor& gradient : gradients) gradient.mul_(most / norm);
  }
  return norm;
}

}  // namespace lowkey::calibrate
