#include "weights/float_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/checked.h"
#include "core/error.h"

namespace lowkey {
namespace {

// Rows that one task turns into floats.
constexpr int64_t kRowsAtOnce = 64;

void add_to_all(std::vector<float>& values, float what) {
  for (float& value : values) value += what;
}

}  // namespace

TensorView FloatTensor::view(std::string name) const {
  TensorView view;
  view.name = std::move(name);
  view.shape = shape;
  view.data = std::as_bytes(std::span(values));
  return view;
}

FloatModel::FloatModel(const ModelFile& file, ThreadPool& pool, const ProgressFn& progress)
    : config(file.config()) {
  int64_t done = 0;
  const auto total = static_cast<int64_t>(file.weight_bytes());
  for (const std::string& name : file.tensor_names()) {
    report(progress, "loading weights", done, total);
    const TensorView& stored = file.tensor(name);
    done += stored.rows() * stored.row_bytes();
    FloatTensor tensor{.shape = stored.shape, .values = {}};
    tensor.values.resize(static_cast<size_t>(stored.rows() * stored.cols()));
    pool.run(ceil_div(stored.rows(), kRowsAtOnce), [&](int64_t task, int) {
      const int64_t first = task * kRowsAtOnce;
      dequantize_rows(stored, first, std::min(kRowsAtOnce, stored.rows() - first),
                      tensor.values.data() + first * stored.cols());
    });
    tensors_.emplace(name, std::move(tensor));
  }
}

const FloatTensor* FloatModel::find(std::string_view name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

const FloatTensor& FloatModel::tensor(std::string_view name) const {
  if (const FloatTensor* found = find(name)) return *found;
  fail(ErrorCode::kNotFound, "this model has no weight '{}'", name);
}

FloatTensor& FloatModel::edit(std::string_view name) {
  tensor(name);
  FloatTensor& found = tensors_.find(name)->second;
  found.changed = true;
  return found;
}

FloatTensor& FloatModel::add(std::string name, std::vector<int64_t> shape,
                             std::vector<float> values) {
  const int64_t count =
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
  LOWKEY_CHECK(count == std::ssize(values), "{} values for {}", values.size(), shape_text(shape));
  const auto [at, is_new] = tensors_.emplace(
      std::move(name),
      FloatTensor{.shape = std::move(shape), .values = std::move(values), .changed = true});
  LOWKEY_CHECK(is_new, "'{}' is there already", at->first);
  return at->second;
}

std::vector<float> FloatModel::norm_weight(const std::string& name) const {
  std::vector<float> weight = tensor(name).values;
  if (config.norm_plus_one) add_to_all(weight, 1.0f);
  return weight;
}

void FloatModel::set_norm_weight(const std::string& name, std::span<const float> weight) {
  FloatTensor& tensor = edit(name);
  LOWKEY_CHECK(weight.size() == tensor.values.size(), "{} weights for {}", weight.size(),
               tensor.values.size());
  tensor.values.assign(weight.begin(), weight.end());
  if (config.norm_plus_one) add_to_all(tensor.values, -1.0f);
}

ModelWeights FloatModel::weights(ThreadPool& pool) const {
  std::map<std::string, TensorView, std::less<>> views;
  int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors_) {
    views.emplace(name, tensor.view(name));
    bytes += std::ssize(tensor.values) * static_cast<int64_t>(sizeof(float));
  }
  const auto find_view = [&](std::string_view name) -> const TensorView* {
    const auto at = views.find(name);
    return at == views.end() ? nullptr : &at->second;
  };
  return make_weights(config, find_view, bytes, WeightStorage::kF32, pool, {});
}

std::vector<std::string> linear_names(const ModelConfig& config, int32_t layer) {
  std::vector<std::string> names;
  const auto add = [&](const std::string& prefix, std::initializer_list<const char*> kinds) {
    for (const char* kind : kinds) names.push_back(fmt::format("{}{}.weight", prefix, kind));
  };
  const auto add_mlp = [&](const std::string& prefix) {
    if (config.gated_mlp) add(prefix, {"gate"});
    add(prefix, {"up", "down"});
  };
  for (int32_t i = 0; i < config.num_layers; ++i) {
    if (layer >= 0 && i != layer) continue;
    const std::string prefix = fmt::format("layers.{}.", i);
    add(prefix, {"q", "k", "v", "o"});
    if (!config.layers[static_cast<size_t>(i)].experts) {
      add_mlp(prefix);
      continue;
    }
    for (int32_t e = 0; e < config.num_experts; ++e)
      add_mlp(fmt::format("{}experts.{}.", prefix, e));
  }
  return names;
}

std::string_view linear_kind(std::string_view name) {
  name.remove_suffix(name.size() - name.rfind('.'));  // ".weight"
  return name.substr(name.rfind('.') + 1);
}

}  // namespace lowkey
