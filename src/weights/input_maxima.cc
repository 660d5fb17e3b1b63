#include "weights/input_maxima.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <charconv>
#include <mutex>

#include "core/error.h"
#include "model/exact_ops.h"
#include "weights/float_model.h"

namespace lowkey {
namespace {

// The number after `key` in a name, or -1.
int32_t number_after(std::string_view name, std::string_view key) {
  const size_t at = name.find(key);
  if (at == std::string_view::npos) return -1;
  int32_t number = -1;
  std::from_chars(name.data() + at + key.size(), name.data() + name.size(), number);
  return number;
}

const Linear& linear_of(const Mlp& mlp, std::string_view kind) {
  if (kind == "gate") return mlp.gate;
  return kind == "up" ? mlp.up : mlp.down;
}

void raise_to(std::vector<float>& maxima, const at::Tensor& rows) {
  if (rows.size(0) == 0) return;
  const at::Tensor largest = rows.abs().amax(0).contiguous();
  const float* const values = largest.const_data_ptr<float>();
  for (size_t i = 0; i < maxima.size(); ++i) maxima[i] = std::max(maxima[i], values[i]);
}

}  // namespace

const Linear& linear_of(const ModelWeights& weights, std::string_view name) {
  const int32_t layer = number_after(name, "layers."), expert = number_after(name, "experts.");
  LOWKEY_CHECK(layer >= 0 && layer < std::ssize(weights.layers), "no layer's matrix: {}", name);
  const LayerWeights& w = weights.layers[static_cast<size_t>(layer)];
  const std::string_view kind = linear_kind(name);
  if (kind == "q") return w.q;
  if (kind == "k") return w.k;
  if (kind == "v") return w.v;
  if (kind == "o") return w.o;
  return linear_of(expert < 0 ? w.mlp : w.experts.at(static_cast<size_t>(expert)), kind);
}

std::map<std::string, std::vector<float>> input_maxima(
    const ModelWeights& weights, std::span<const std::string> names,
    std::span<const std::vector<int32_t>> samples, ThreadPool& pool, const ProgressFn& progress) {
  std::map<std::string, std::vector<float>> maxima;
  std::map<const Linear*, std::vector<float>*> of;
  for (const std::string& name : names) {
    const Linear& linear = linear_of(weights, name);
    std::vector<float>& largest = maxima[name];
    largest.assign(static_cast<size_t>(linear.weight.cols()), 0.0f);
    of[&linear] = &largest;
  }
  at::set_num_threads(1);  // the pool does the sharing out: AtenOps
  std::mutex mutex;
  int64_t done = 0;
  const auto total = static_cast<int64_t>(samples.size());
  report(progress, "looking at activations", 0, total);
  pool.run(total, [&](int64_t sample, int) {
    const c10::NoGradGuard no_gradients;
    at::init_num_threads();  // of this thread
    ExactOps ops(weights.config, [&](const Linear& linear, LinearTerms& terms) {
      const auto found = of.find(&linear);
      if (found == of.end()) return;
      const std::scoped_lock lock(mutex);
      raise_to(*found->second, terms.x);
    });
    layer_outputs(ops, weights, samples[static_cast<size_t>(sample)]);
    const std::scoped_lock lock(mutex);
    report(progress, "looking at activations", ++done, total);
  });
  return maxima;
}

}  // namespace lowkey
