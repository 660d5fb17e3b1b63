#include "weights/layer_inputs.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <optional>

#include "core/error.h"
#include "model/decoder_layer.h"
#include "model/exact_ops.h"

namespace lowkey {
namespace {

// Sums of one thread's share of the samples.
class Sums {
 public:
  explicit Sums(size_t places) : inputs_(places) {}

  void add(size_t place, const at::Tensor& x) {
    LayerInputs& sums = inputs_[place];
    const int64_t cols = x.size(1);
    if (!sums.gram.defined()) {
      sums.gram = at::zeros({cols, cols}, at::kFloat);
      sums.magnitude = at::zeros({cols}, at::kFloat);
    }
    sums.gram.addmm_(x.t(), x);
    sums.magnitude.add_(x.abs().sum(0));
    sums.rows += x.size(0);
  }

  const LayerInputs& operator[](size_t place) const { return inputs_[place]; }

 private:
  std::vector<LayerInputs> inputs_;
};

// Which place each matrix of the layer is at.
std::map<const Linear*, size_t> places_of(const LayerWeights& layer, const ModelConfig& config,
                                          int32_t index) {
  std::map<std::string, size_t, std::less<>> by_name;
  const auto groups = linears_by_input(config, index);
  for (size_t place = 0; place < groups.size(); ++place) {
    for (const std::string& name : groups[place]) by_name.emplace(name, place);
  }
  // for_each_linear's order is linear_names'.
  const std::vector<std::string> names = linear_names(config, index);
  std::map<const Linear*, size_t> places;
  size_t next = 0;
  for_each_linear(layer, [&](const Linear& linear) {
    LOWKEY_CHECK(next < names.size(), "layer {} has more than {} matrices", index, names.size());
    places.emplace(&linear, by_name.at(names[next++]));
  });
  return places;
}

}  // namespace

std::vector<std::vector<std::string>> linears_by_input(const ModelConfig& config, int32_t layer) {
  std::vector<std::vector<std::string>> groups;
  const auto add = [&](const std::string& prefix, std::initializer_list<const char*> kinds) {
    groups.emplace_back();
    for (const char* kind : kinds)
      groups.back().push_back(fmt::format("{}{}.weight", prefix, kind));
  };
  const auto add_mlp = [&](const std::string& prefix) {
    if (config.gated_mlp) {
      add(prefix, {"gate", "up"});
    } else {
      add(prefix, {"up"});
    }
    add(prefix, {"down"});
  };
  const std::string prefix = fmt::format("layers.{}.", layer);
  add(prefix, {"q", "k", "v"});
  add(prefix, {"o"});
  if (!config.layers[static_cast<size_t>(layer)].experts) {
    add_mlp(prefix);
  } else {
    for (int32_t e = 0; e < config.num_experts; ++e)
      add_mlp(fmt::format("{}experts.{}.", prefix, e));
  }
  return groups;
}

LayerRunner::LayerRunner(const FloatModel& model, std::span<const std::vector<int32_t>> samples,
                         ThreadPool& pool)
    : model_(model), samples_(samples), pool_(pool) {
  at::set_num_threads(1);  // on every thread of the pool, which does the sharing out
  refresh();
  const c10::NoGradGuard no_grad;
  ExactOps ops(model_.config);
  for (const std::vector<int32_t>& sample : samples_) {
    ops.begin(sample);
    hidden_.push_back(embedding(ops, weights_, ops.step()));
  }
}

void LayerRunner::refresh() {
  weights_ = model_.weights(pool_);
}

std::vector<LayerInputs> LayerRunner::inputs(const ProgressFn& progress) {
  return run(true, false, progress);
}

void LayerRunner::advance(const ProgressFn& progress) {
  run(false, true, progress);
}

std::vector<LayerInputs> LayerRunner::inputs_and_advance(const ProgressFn& progress) {
  return run(true, true, progress);
}

std::vector<LayerInputs> LayerRunner::run(bool sum, bool move, const ProgressFn& progress) {
  LOWKEY_CHECK(layer_ < model_.config.num_layers, "layer {} of {}", layer_,
               model_.config.num_layers);
  const LayerWeights& layer = weights_.layers[static_cast<size_t>(layer_)];
  const auto groups = linears_by_input(model_.config, layer_);
  const std::map<const Linear*, size_t> places = places_of(layer, model_.config, layer_);

  // A share of the samples for each thread, whoever takes it: the order of additions is fixed.
  const auto count = std::ssize(samples_);
  const int64_t shares = std::min<int64_t>(pool_.num_threads(), count);
  std::vector<Sums> sums(static_cast<size_t>(shares), Sums(groups.size()));
  std::atomic<int64_t> done = 0;
  pool_.run(shares, [&](int64_t share, int thread) {
    at::init_num_threads();
    const c10::NoGradGuard no_grad;
    const void* last = nullptr;  // q, k and v are shown the same rows: they count once
    size_t last_place = groups.size();
    ExactOps ops(model_.config, [&](const Linear& linear, LinearTerms& terms) {
      const size_t place = places.at(&linear);
      if (!sum || (place == last_place && terms.x.const_data_ptr() == last)) return;
      last = terms.x.const_data_ptr();
      last_place = place;
      sums[static_cast<size_t>(share)].add(place, terms.x);
    });
    for (int64_t i = share; i < count; i += shares) {
      const auto sample = static_cast<size_t>(i);
      last_place = groups.size();
      ops.begin(samples_[sample]);
      at::Tensor after = decoder_layer(ops, model_.config, layer, layer_, hidden_[sample].clone());
      if (move) hidden_[sample] = std::move(after);
      const int64_t so_far = ++done;
      if (thread == 0) report(progress, "", so_far, count);
    }
  });
  if (move) ++layer_;
  std::vector<LayerInputs> result;
  for (size_t place = 0; sum && place < groups.size(); ++place) {
    LayerInputs total{.linears = groups[place], .gram = {}, .magnitude = {}};
    for (const Sums& share : sums) {
      const LayerInputs& part = share[place];
      if (part.rows == 0) continue;
      total.gram = total.gram.defined() ? total.gram.add_(part.gram) : part.gram;
      total.magnitude = total.magnitude.defined() ? total.magnitude.add_(part.magnitude)  //
                                                  : part.magnitude;
      total.rows += part.rows;
    }
    result.push_back(std::move(total));
  }
  return result;
}

OutputError output_error(const at::Tensor& reference, const at::Tensor& other,
                         const at::Tensor& gram) {
  const auto energy = [&](const at::Tensor& matrix) {
    return at::matmul(matrix, gram).mul_(matrix).sum(at::kDouble).item<double>();
  };
  return {energy(reference - other), energy(reference)};
}

at::Tensor matrix_view(const FloatTensor& tensor) {
  return at::from_blob(const_cast<float*>(tensor.values.data()), {tensor.rows(), tensor.cols()},
                       at::kFloat);
}

}  // namespace lowkey
