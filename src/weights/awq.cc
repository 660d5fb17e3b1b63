#include "weights/awq.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "weights/layer_inputs.h"

namespace lowkey {
namespace {

constexpr int kScaleSteps = 20;  // exponents of the inputs' magnitude: 0, 0.05, ...
constexpr int kClipSteps = 20;   // of the largest magnitude: 1, 0.95, ...
constexpr double kMaxShrink = 0.5;
constexpr double kLeastScale = 1e-4;

// Where factors of a matrix's inputs can be put: matrices that share their inputs, and what makes
// these.
struct Place {
  std::vector<std::string> linears;
  std::vector<std::string> norms;  // weight and, where there is one, bias
  std::string rows_of;             // or the matrix whose outputs they are, elementwise
  at::Tensor gram, magnitude;
  int64_t rows = 0;
};

std::string layer_tensor(int32_t layer, std::string_view name) {
  return fmt::format("layers.{}.{}", layer, name);
}

// Rounded and put back, as the folder will have it.
at::Tensor rounded(const WeightGrid& grid, const at::Tensor& weight, ThreadPool& pool) {
  const at::Tensor from = weight.contiguous();
  const BlockMatrix blocks =
      round_to_nearest(grid, from.const_data_ptr<float>(), from.size(0), from.size(1), pool);
  at::Tensor out = at::empty_like(from);
  decode_blocks(blocks, out.mutable_data_ptr<float>(), pool);
  return out;
}

// How large each input's weights are beside those of their group, on average: [cols].
at::Tensor relative_weights(const WeightGrid& grid, const std::vector<at::Tensor>& weights) {
  const int64_t cols = weights.front().size(1), group = grid.group_size(cols);
  at::Tensor sum = at::zeros({cols}, at::kFloat);
  int64_t rows = 0;
  for (const at::Tensor& weight : weights) {
    rows += weight.size(0);
    for (int64_t first = 0; first < cols; first += group) {
      const int64_t count = std::min(group, cols - first);
      const at::Tensor part = weight.narrow(1, first, count).abs();
      sum.narrow(0, first, count).add_((part / (part.amax(1, true) + 1e-6)).sum(0));
    }
  }
  return sum / static_cast<double>(rows);
}

class Awq {
 public:
  explicit Awq(Quantization& q) : q_(q) {}

  void run() {
    LayerRunner runner(q_.model, q_.options.samples, q_.pool);
    for (int32_t layer = 0; layer < q_.model.config.num_layers; ++layer) {
      // Scales change no output, so the next layers' inputs are the unquantized model's.
      std::vector<LayerInputs> inputs =
          runner.inputs_and_advance(layer_progress(q_, fmt::format("layer {}", layer), layer));
      for (Place& place : places(layer, inputs)) scale(place, inputs);
      for (const LayerInputs& given : inputs) {
        for (const std::string& name : given.linears) round(name, given);
      }
    }
  }

 private:
  static LayerInputs* inputs_of(std::vector<LayerInputs>& inputs, std::string_view linear) {
    for (LayerInputs& given : inputs) {
      if (std::find(given.linears.begin(), given.linears.end(), linear) != given.linears.end())
        return &given;
    }
    LOWKEY_CHECK(false, "no inputs of '{}'", linear);
    return nullptr;
  }

  Place place_of(const LayerInputs& given) const {
    return {.linears = given.linears,
            .norms = {},
            .rows_of = "",
            .gram = given.gram,
            .magnitude = given.magnitude,
            .rows = given.rows};
  }

  std::vector<Place> places(int32_t layer, std::vector<LayerInputs>& inputs) {
    const ModelConfig& config = q_.model.config;
    const bool experts = config.layers[static_cast<size_t>(layer)].experts;
    const bool shared = config.parallel && config.shared_norm;
    std::vector<Place> places;
    Place attention = place_of(*inputs_of(inputs, layer_tensor(layer, "q.weight")));
    attention.norms = {layer_tensor(layer, "attn_norm")};
    if (experts) {
      if (shared) {
        note(layer, "its norm feeds a mixture of experts too: nothing is scaled before q, k, v");
      } else {
        places.push_back(std::move(attention));
      }
      note(layer, "nothing is scaled before the experts' gate and up: they share a norm");
      for (int32_t e = 0; e < config.num_experts; ++e)
        add_down(layer_tensor(layer, fmt::format("experts.{}.", e)), layer, inputs, places);
      return places;
    }
    Place mlp = place_of(*inputs_of(inputs, layer_tensor(layer, "up.weight")));
    if (shared) {  // the same rows: one set of factors for all
      attention.linears.insert(attention.linears.end(), mlp.linears.begin(), mlp.linears.end());
      places.push_back(std::move(attention));
    } else {
      mlp.norms = {layer_tensor(layer, "mlp_norm")};
      places.push_back(std::move(attention));
      places.push_back(std::move(mlp));
    }
    add_down(layer_tensor(layer, ""), layer, inputs, places);
    return places;
  }

  // up -> down, where factors pass what is between: a product with gate's activation, or ReLU.
  void add_down(const std::string& prefix, int32_t layer, std::vector<LayerInputs>& inputs,
                std::vector<Place>& places) {
    const ModelConfig& config = q_.model.config;
    if (!config.gated_mlp && config.activation != Activation::kRelu) {
      note(layer, "nothing is scaled before down: its activation is not linear in up");
      return;
    }
    Place down = place_of(*inputs_of(inputs, prefix + "down.weight"));
    down.rows_of = prefix + "up";
    places.push_back(std::move(down));
  }

  void note(int32_t layer, std::string_view what) {
    q_.notes.push_back(fmt::format("layer {}: {}", layer, what));
  }

  // The factors under which the place's matrices, rounded, make the least error, folded in; the
  // inputs are divided by them.
  void scale(const Place& place, std::vector<LayerInputs>& inputs) {
    std::vector<at::Tensor> weights;
    for (const std::string& name : place.linears)
      weights.push_back(matrix_view(q_.model.tensor(name)));
    if (place.rows == 0 || !grid_fits(weights.front().size(1))) return;
    std::vector<at::Tensor> factors{at::ones({weights.front().size(1)}, at::kFloat)};
    const at::Tensor x = place.magnitude / static_cast<double>(place.rows);
    const at::Tensor w = relative_weights(q_.options.grid, weights);
    for (int step = 0; step < kScaleSteps; ++step) {
      const double ratio = static_cast<double>(step) / kScaleSteps;
      at::Tensor s = (x.pow(ratio) / (w.pow(1.0 - ratio) + 1e-4)).clamp_min(kLeastScale);
      s = s / (s.max() * s.min()).sqrt();
      if (at::isfinite(s).all().item<bool>()) factors.push_back(std::move(s));
    }
    std::vector<double> errors(factors.size());
    q_.pool.run(std::ssize(factors), [&](int64_t i, int) {
      at::init_num_threads();
      const c10::NoGradGuard no_grad;
      ThreadPool alone(1);
      const auto candidate = static_cast<size_t>(i);
      const at::Tensor& s = factors[candidate];
      for (const at::Tensor& weight : weights) {
        const at::Tensor back = rounded(q_.options.grid, weight * s, alone) / s;
        errors[candidate] += output_error(weight, back, place.gram).difference;
      }
    });
    const auto best = std::min_element(errors.begin(), errors.end()) - errors.begin();
    if (best > 0) apply(place, factors[static_cast<size_t>(best)], inputs);
  }

  void apply(const Place& place, const at::Tensor& s, std::vector<LayerInputs>& inputs) {
    for (const std::string& name : place.linears) {
      matrix_view(q_.model.edit(name)).mul_(s);
      LayerInputs& given = *inputs_of(inputs, name);
      if (given.linears.front() != name) continue;  // once for all that share it
      given.gram = given.gram / s / s.unsqueeze(1);
    }
    const float* const factor = s.const_data_ptr<float>();
    const auto divide = [&](std::span<float> values) {
      LOWKEY_CHECK(std::ssize(values) == s.numel(), "{} values for {} factors", values.size(),
                   s.numel());
      for (size_t i = 0; i < values.size(); ++i) values[i] /= factor[i];
    };
    const auto divide_bias = [&](const std::string& name) {
      if (q_.model.find(name + ".bias")) divide(q_.model.edit(name + ".bias").values);
    };
    for (const std::string& norm : place.norms) {
      std::vector<float> weight = q_.model.norm_weight(norm + ".weight");
      divide(weight);
      q_.model.set_norm_weight(norm + ".weight", weight);
      divide_bias(norm);
    }
    if (place.rows_of.empty()) return;
    matrix_view(q_.model.edit(place.rows_of + ".weight")).div_(s.unsqueeze(1));
    divide_bias(place.rows_of);
  }

  void round(const std::string& name, const LayerInputs& given) {
    const FloatTensor& tensor = q_.model.tensor(name);
    if (!grid_fits(tensor.cols()) || q_.blocks.contains(name)) return;
    const std::string_view kind = linear_kind(name);
    std::vector<GroupParams> params;
    if (given.rows > 0 && kind != "q" && kind != "k") params = clipped(matrix_view(tensor), given);
    put_blocks(q_, name,
               round_to_nearest(q_.options.grid, tensor.values.data(), tensor.rows(), tensor.cols(),
                                q_.pool, params),
               given.rows > 0 ? &given.gram : nullptr);
  }

  // For each group of each row the range whose grid makes the least error by itself.
  std::vector<GroupParams> clipped(const at::Tensor& weight, const LayerInputs& given) {
    const WeightGrid& grid = q_.options.grid;
    const int64_t rows = weight.size(0), cols = weight.size(1);
    const int64_t group = grid.group_size(cols), groups = grid.num_groups(cols);
    std::vector<GroupParams> params(static_cast<size_t>(rows * groups));
    q_.pool.run(groups, [&](int64_t g, int) {
      at::init_num_threads();
      const c10::NoGradGuard no_grad;
      const int64_t first = g * group, count = std::min(group, cols - first);
      const auto [least, most] =
          best_range(weight.narrow(1, first, count).contiguous(),
                     given.gram.narrow(0, first, count).narrow(1, first, count).contiguous());
      for (int64_t row = 0; row < rows; ++row) {
        params[static_cast<size_t>(row * groups + g)] = params_between(
            grid, least.const_data_ptr<float>()[row], most.const_data_ptr<float>()[row]);
      }
    });
    return params;
  }

  // weight: [rows, count] of one group. Least and most of each row, [rows].
  std::pair<at::Tensor, at::Tensor> best_range(const at::Tensor& weight,
                                               const at::Tensor& gram) const {
    const at::Tensor all_least = weight.amin(1), all_most = weight.amax(1);
    const at::Tensor magnitude = weight.abs().amax(1);
    at::Tensor least = all_least, most = all_most, error;
    for (int step = 0; step < static_cast<int>(kMaxShrink * kClipSteps); ++step) {
      const at::Tensor bound = magnitude * (1.0 - static_cast<double>(step) / kClipSteps);
      const at::Tensor low = all_least.maximum(-bound), high = all_most.minimum(bound);
      const at::Tensor off = weight - on_grid(weight, low, high);
      const at::Tensor now = at::matmul(off, gram).mul_(off).sum(1);
      if (!error.defined()) {
        error = now;
        continue;
      }
      const at::Tensor better = now < error;
      error = at::where(better, now, error);
      least = at::where(better, low, least);
      most = at::where(better, high, most);
    }
    return {least.contiguous(), most.contiguous()};
  }

  // encode_weight() and decode_weight() of params_between(), for a range in each row.
  at::Tensor on_grid(const at::Tensor& weight, const at::Tensor& low,
                     const at::Tensor& high) const {
    const WeightGrid& grid = q_.options.grid;
    const auto stored = [&](const at::Tensor& x) {
      return grid.f32_params ? x : x.to(at::kHalf).to(at::kFloat);
    };
    const double levels = grid.levels();
    at::Tensor scale, minimum;
    if (grid.symmetric()) {
      scale = stored(low.abs().maximum(high.abs()) / levels).unsqueeze(1);
      minimum = at::zeros_like(scale);
    } else {
      scale = stored((high - low) / levels).unsqueeze(1);
      minimum = stored(low).unsqueeze(1);
    }
    const at::Tensor divisor = scale.masked_fill(scale == 0, 1.0);
    const at::Tensor codes =
        ((weight - minimum) / divisor).round().clamp(grid.symmetric() ? -levels : 0.0, levels);
    return codes * scale + minimum;
  }

  Quantization& q_;
};

}  // namespace

void awq_weights(Quantization& quantization) {
  const c10::NoGradGuard no_grad;
  Awq(quantization).run();
}

}  // namespace lowkey
