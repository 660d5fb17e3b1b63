#include "weights/omniquant.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/optim/adamw.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "core/checked.h"
#include "core/error.h"
#include "model/decoder_layer.h"
#include "model/exact_ops.h"
#include "model/simulated_ops.h"
#include "weights/input_maxima.h"
#include "weights/layer_inputs.h"
#include "weights/norm_readers.h"
#include "weights/smoothquant.h"

namespace lowkey {
namespace {

constexpr double kFirstStrength = 4.0;  // sigmoid(4) = 0.982
constexpr int64_t kSamplesPerStep = 2;  // of the optimizer, whatever the number of threads

using Tensors = std::vector<at::Tensor>;

// y's values, x's gradients. Adds an exact zero.
at::Tensor straight_through(const at::Tensor& y, const at::Tensor& x) {
  if (!c10::GradMode::is_enabled() || !x.requires_grad()) return y;
  return y.detach() + (x - x.detach());
}

// Scales and minima as the grid keeps them.
at::Tensor as_stored(const WeightGrid& grid, const at::Tensor& x) {
  return grid.f32_params ? x : straight_through(x.to(at::kHalf).to(at::kFloat), x);
}

// How a layer's matrices are computed with: by Linear, what ExactOps's hook puts in.
struct Replacement {
  at::Tensor weight;
  at::Tensor scale;  // the input is divided by it; undefined: it is not
};
using Replacements = std::map<const Linear*, Replacement>;

at::Tensor tensor_of(const std::vector<float>& values) {
  return at::from_blob(const_cast<float*>(values.data()), {std::ssize(values)}, at::kFloat).clone();
}

std::vector<float> floats_of(const at::Tensor& x) {
  const at::Tensor rows = x.detach().contiguous();
  return {rows.const_data_ptr<float>(), rows.const_data_ptr<float>() + rows.numel()};
}

// One layer while it is being rounded.
class LayerTrainer {
 public:
  LayerTrainer(Quantization& quantization, const ModelWeights& weights, int32_t layer)
      : q_(quantization),
        weights_(weights),
        layer_(layer),
        rounded_inputs_(quantization.model.config) {
    rounded_inputs_.activation_bits = q_.options.activation_bits;
    rounded_inputs_.activation_clip = q_.options.activation_clip.value_or(1.0);
    readers_ = norm_readers(q_.model, layer);
    for (const std::string& name : linear_names(q_.model.config, layer)) {
      const FloatTensor& matrix = q_.model.tensor(name);
      if (!grid_fits(matrix.cols())) continue;
      const int64_t groups = q_.options.grid.num_groups(matrix.cols());
      Matrix m{.name = name, .linear = &linear_of(weights, name), .weight = matrix_view(matrix)};
      for (size_t i = 0; i < readers_.size(); ++i) {
        const auto& names = readers_[i].matrices;
        if (std::find(names.begin(), names.end(), name) != names.end()) m.scale = i;
      }
      m.upper = at::full({matrix.rows(), groups}, kFirstStrength);
      m.lower = m.upper.clone();
      matrices_.push_back(std::move(m));
    }
    for (size_t i = 0; i < readers_.size(); ++i) {
      log_scales_.push_back(at::zeros({q_.model.config.hidden_size}, at::kFloat));
    }
  }

  // Both [tokens, hidden] of each sample. What the rounded layer makes of `inputs` takes their
  // place.
  LayerLoss run(Tensors& inputs, const Tensors& targets) {
    LayerLoss loss;
    std::vector<BlockMatrix> best = blocks_of({});
    loss.nearest = loss.trained = loss_of(replacements(best, {}), inputs, targets);
    if (rounded_inputs_.activation_bits < 16) smooth(inputs);
    Tensors parameters = log_scales_, best_scales;
    for (Matrix& m : matrices_) parameters.insert(parameters.end(), {m.upper, m.lower});
    for (at::Tensor& parameter : parameters) parameter.requires_grad_(true);
    torch::optim::AdamW optimizer(
        parameters, torch::optim::AdamWOptions(q_.options.learning_rate).weight_decay(0));
    for (int32_t epoch = 0; epoch < q_.options.epochs; ++epoch) {
      report(q_.progress, fmt::format("layer {}: epoch {}", layer_, epoch + 1),
             int64_t{layer_} * q_.options.epochs + epoch,
             int64_t{q_.model.config.num_layers} * q_.options.epochs);
      for (int64_t first = 0; first < std::ssize(inputs); first += kSamplesPerStep) {
        step(inputs, targets, first, std::min(kSamplesPerStep, std::ssize(inputs) - first),
             optimizer);
      }
      const Tensors scales = detached_scales();
      std::vector<BlockMatrix> blocks = blocks_of(scales);
      const double now = loss_of(replacements(blocks, scales), inputs, targets);
      if (!(now < loss.trained)) continue;
      loss.trained = now;
      best = std::move(blocks);
      best_scales = scales;
    }
    const c10::NoGradGuard no_gradients;
    const Replacements kept = replacements(best, best_scales);
    for_each_sample(std::ssize(inputs), kept, [&](ExactOps& ops, int64_t s) {
      at::Tensor& x = inputs[static_cast<size_t>(s)];
      x = forward(ops, x);
    });
    for (size_t i = 0; i < best_scales.size(); ++i) {
      move_scales(q_.model, readers_[i], floats_of(best_scales[i]));
    }
    for (size_t i = 0; i < matrices_.size(); ++i) {
      put_blocks(q_, matrices_[i].name, std::move(best[i]));
    }
    return loss;
  }

 private:
  struct Matrix {
    std::string name;
    const Linear* linear;
    at::Tensor weight;                  // [rows, cols], the model's own
    std::optional<size_t> scale = {};   // of log_scales_: which columns are multiplied by
    at::Tensor upper = {}, lower = {};  // strengths [rows, groups]
  };

  // None: all one.
  at::Tensor scaled(const Matrix& m, const Tensors& scales) const {
    return m.scale && !scales.empty() ? m.weight * scales[*m.scale] : m.weight;
  }

  Tensors detached_scales() const {
    Tensors scales;
    for (const at::Tensor& s : log_scales_) scales.push_back(s.detach().exp());
    return scales;
  }

  // Rounded for good, by the code that writes blocks: nearest without scales, else as learned.
  std::vector<BlockMatrix> blocks_of(const Tensors& scales) const {
    const c10::NoGradGuard no_gradients;
    std::vector<BlockMatrix> blocks;
    for (const Matrix& m : matrices_) {
      const at::Tensor weight = scaled(m, scales).contiguous();
      const auto* values = weight.const_data_ptr<float>();
      const int64_t rows = weight.size(0), cols = weight.size(1);
      std::vector<GroupParams> params;
      if (!scales.empty()) params = params_of_strengths(m, weight);
      blocks.push_back(round_to_nearest(q_.options.grid, values, rows, cols, q_.pool, params));
    }
    return blocks;
  }

  std::vector<GroupParams> params_of_strengths(const Matrix& m, const at::Tensor& weight) const {
    const WeightGrid& grid = q_.options.grid;
    const int64_t rows = weight.size(0), cols = weight.size(1), size = grid.group_size(cols);
    const std::vector<float> upper = floats_of(at::sigmoid(m.upper));
    const std::vector<float> lower = floats_of(at::sigmoid(m.lower));
    std::vector<GroupParams> params;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t first = 0; first < cols; first += size) {
        const float* const group = weight.const_data_ptr<float>() + r * cols + first;
        const auto [least, most] = std::minmax_element(group, group + std::min(size, cols - first));
        const size_t i = params.size();
        const float begin = *least * lower[i];
        params.push_back(params_between(grid, begin, std::max(begin, *most * upper[i])));
      }
    }
    return params;
  }

  Replacements replacements(const std::vector<BlockMatrix>& blocks, const Tensors& scales) const {
    Replacements all;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const Matrix& m = matrices_[i];
      Replacement r{at::empty(m.weight.sizes(), at::kFloat), {}};
      decode_blocks(blocks[i], r.weight.data_ptr<float>(), q_.pool);
      if (m.scale && !scales.empty()) r.scale = scales[*m.scale];
      all[m.linear] = r;
    }
    return all;
  }

  at::Tensor forward(ExactOps& ops, const at::Tensor& x) const {
    // Layers ask for no token, only for how many: any that the vocabulary has.
    ops.begin(std::vector<int32_t>(static_cast<size_t>(x.size(0)), 0));
    return decoder_layer(ops, weights_.config, weights_.layers[static_cast<size_t>(layer_)], layer_,
                         x);
  }

  // work(ops, sample) on all threads, with the replacements in the layer's place.
  template <typename Work>
  void for_each_sample(int64_t count, const Replacements& all, const Work& work) const {
    const bool gradients = c10::GradMode::is_enabled();
    q_.pool.run(count, [&](int64_t sample, int) {
      const c10::AutoGradMode mode(gradients);  // a thread's own
      at::init_num_threads();
      ExactOps ops(weights_.config, [&](const Linear& linear, LinearTerms& terms) {
        if (const auto found = all.find(&linear); found != all.end()) {
          terms.weight = found->second.weight;
          if (found->second.scale.defined()) terms.x = terms.x / found->second.scale;
        }
        terms.x = rounded_activations(rounded_inputs_, terms.x);
      });
      work(ops, sample);
    });
  }

  double loss_of(const Replacements& all, const Tensors& inputs, const Tensors& targets) const {
    const c10::NoGradGuard no_gradients;
    std::vector<double> losses(inputs.size());
    for_each_sample(std::ssize(inputs), all, [&](ExactOps& ops, int64_t s) {
      const auto i = static_cast<size_t>(s);
      losses[i] = at::mse_loss(forward(ops, inputs[i]), targets[i]).item<double>();
    });
    double sum = 0;
    for (double loss : losses) sum += loss;
    return sum / static_cast<double>(losses.size());
  }

  // SmoothQuant's scales to begin with.
  void smooth(const Tensors& inputs) {
    const c10::NoGradGuard no_gradients;
    std::map<const Linear*, at::Tensor> largest;
    ExactOps ops(weights_.config, [&](const Linear& linear, LinearTerms& terms) {
      if (terms.x.size(0) == 0) return;
      const at::Tensor now = terms.x.abs().amax(0);
      at::Tensor& before = largest[&linear];
      before = before.defined() ? at::maximum(before, now) : now;
    });
    for (const at::Tensor& x : inputs) forward(ops, x);
    for (size_t i = 0; i < readers_.size(); ++i) {
      const auto hidden = static_cast<size_t>(q_.model.config.hidden_size);
      std::vector<float> input(hidden, 0.0f), weight(hidden, 0.0f);
      const auto raise = [&](std::vector<float>& maxima, const at::Tensor& now) {
        const std::vector<float> values = floats_of(now);
        for (size_t c = 0; c < hidden; ++c) maxima[c] = std::max(maxima[c], values[c]);
      };
      for (const Matrix& m : matrices_) {
        if (m.scale != i) continue;
        if (largest[m.linear].defined()) raise(input, largest[m.linear]);
        raise(weight, m.weight.abs().amax(0));
      }
      log_scales_[i].copy_(tensor_of(smoothing_scales(input, weight, q_.options.alpha)).log());
    }
  }

  // One step of the optimizer: the matrices are rounded once, and each sample's gradients taken
  // with respect to the results, in the samples' order.
  void step(const Tensors& inputs, const Tensors& targets, int64_t first, int64_t count,
            torch::optim::AdamW& optimizer) {
    const c10::AutoGradMode with_gradients(true);
    Tensors scales, made, leaves;
    for (const at::Tensor& s : log_scales_) scales.push_back(s.exp());
    for (const Matrix& m : matrices_) {
      made.push_back(learned_rounding(q_.options.grid, scaled(m, scales), m.upper, m.lower));
    }
    made.insert(made.end(), scales.begin(), scales.end());
    for (const at::Tensor& t : made) leaves.push_back(t.detach().requires_grad_(true));
    Replacements all;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const Matrix& m = matrices_[i];
      Replacement r{leaves[i], {}};
      if (m.scale) r.scale = leaves[matrices_.size() + *m.scale];
      all[m.linear] = r;
    }
    std::vector<Tensors> gradients(static_cast<size_t>(count));
    for_each_sample(count, all, [&](ExactOps& ops, int64_t s) {
      const auto i = static_cast<size_t>(first + s);
      const at::Tensor loss = at::mse_loss(forward(ops, inputs[i]), targets[i]);
      gradients[static_cast<size_t>(s)] = torch::autograd::grad(
          {loss}, leaves, {}, /*retain_graph=*/std::nullopt, /*create_graph=*/false,
          /*allow_unused=*/true);
    });
    Tensors roots, sums;
    for (size_t i = 0; i < made.size(); ++i) {
      at::Tensor sum;  // undefined: no sample used it (an expert nobody chose)
      for (const Tensors& of_sample : gradients) {
        if (of_sample[i].defined()) sum = sum.defined() ? sum + of_sample[i] : of_sample[i];
      }
      if (!sum.defined()) continue;
      roots.push_back(made[i]);
      sums.push_back(sum / static_cast<double>(count));
    }
    optimizer.zero_grad();
    torch::autograd::backward(roots, sums);
    optimizer.step();
  }

  Quantization& q_;
  const ModelWeights& weights_;
  const int32_t layer_;
  ModelConfig rounded_inputs_;  // what activations are rounded to
  std::vector<NormReaders> readers_;
  std::vector<Matrix> matrices_;
  Tensors log_scales_;  // of readers_: [hidden]
};

// The residual stream before the first layer, of each sample.
Tensors embedded(const ModelWeights& weights, const QuantizeOptions& options) {
  const c10::NoGradGuard no_gradients;
  Tensors streams;
  ExactOps ops(weights.config);
  for (const std::vector<int32_t>& tokens : options.samples) {
    ops.begin(tokens);
    streams.push_back(embedding(ops, weights, ops.step()));
  }
  return streams;
}

// What the full layer makes of the streams, in their place.
void advance(const ModelWeights& weights, int32_t layer, Tensors& streams, ThreadPool& pool) {
  pool.run(std::ssize(streams), [&](int64_t sample, int) {
    const c10::NoGradGuard no_gradients;
    at::init_num_threads();
    at::Tensor& x = streams[static_cast<size_t>(sample)];
    ExactOps ops(weights.config);
    ops.begin(std::vector<int32_t>(static_cast<size_t>(x.size(0)), 0));
    x = decoder_layer(ops, weights.config, weights.layers[static_cast<size_t>(layer)], layer, x);
  });
}

void check_options(const QuantizeOptions& options) {
  if (options.samples.empty()) {
    fail(ErrorCode::kInvalidArgument, "OmniQuant learns from a text: name one with --text");
  }
  if (options.epochs < 1 || !(options.learning_rate > 0)) {
    fail(ErrorCode::kInvalidArgument, "OmniQuant with {} epochs at a rate of {} learns nothing",
         options.epochs, options.learning_rate);
  }
}

}  // namespace

at::Tensor learned_rounding(const WeightGrid& grid, const at::Tensor& weight,
                            const at::Tensor& upper, const at::Tensor& lower) {
  const int64_t rows = weight.size(0), cols = weight.size(1), size = grid.group_size(cols);
  const int64_t groups = grid.num_groups(cols), missing = groups * size - cols;
  at::Tensor w = weight;
  if (missing > 0) {  // the last group is shorter: its last weight once more changes no range
    w = at::cat({w, w.narrow(1, cols - 1, 1).expand({rows, missing})}, 1);
  }
  w = w.reshape({rows, groups, size});
  const at::Tensor least = (at::sigmoid(lower) * w.amin(-1)).unsqueeze(-1);
  const at::Tensor most = at::maximum(least, (at::sigmoid(upper) * w.amax(-1)).unsqueeze(-1));
  const int32_t levels = grid.levels();
  at::Tensor scale, minimum;
  if (grid.symmetric()) {
    scale = as_stored(grid, at::maximum(most.abs(), least.abs()) / levels);
    minimum = at::zeros({1}, at::kFloat);
  } else {
    scale = as_stored(grid, (most - least) / levels);
    minimum = as_stored(grid, least);
  }
  const at::Tensor divisor = at::where(scale > 0, scale, at::ones_like(scale));
  const at::Tensor exact = (w - minimum) / divisor;
  const at::Tensor nearest = at::round(exact).detach();
  const int32_t lowest = grid.symmetric() ? -levels : 0;
  // Not clamp()'s gradient, which is 0 at the ends too: codes there are not clipped.
  const at::Tensor inside = at::logical_and(nearest >= lowest, nearest <= levels).to(at::kFloat);
  const at::Tensor codes = straight_through(nearest.clamp(lowest, levels), exact * inside);
  return (codes * scale + minimum).reshape({rows, groups * size}).narrow(1, 0, cols);
}

std::vector<LayerLoss> train_omniquant(Quantization& quantization) {
  check_options(quantization.options);
  at::set_num_threads(1);  // the pool does the sharing out: AtenOps
  const ModelWeights weights = quantization.model.weights(quantization.pool);
  Tensors full = embedded(weights, quantization.options), rounded = full;
  std::vector<LayerLoss> losses;
  for (int32_t layer = 0; layer < weights.config.num_layers; ++layer) {
    advance(weights, layer, full, quantization.pool);
    LayerTrainer trainer(quantization, weights, layer);
    losses.push_back(trainer.run(rounded, full));
  }
  ModelConfig& config = quantization.model.config;
  config.activation_bits = quantization.options.activation_bits;
  config.activation_clip = quantization.options.activation_clip.value_or(1.0);
  return losses;
}

void quantize_omniquant(Quantization& quantization) {
  double sum = 0;
  const std::vector<LayerLoss> losses = train_omniquant(quantization);
  for (const LayerLoss& loss : losses) {
    sum += loss.nearest > 0 ? loss.trained / loss.nearest : 1.0;
  }
  quantization.notes.push_back(
      fmt::format("layers are off by {:.2f} of what rounding to nearest leaves (squared, in the "
                  "mean of {} layers, on the calibration text)",
                  sum / static_cast<double>(losses.size()), losses.size()));
}

}  // namespace lowkey
