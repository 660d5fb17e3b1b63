#include "model/weights.h"

#include <fmt/format.h>

#include <string>

#include "core/error.h"

namespace lowkey {
namespace {

class Loader {
 public:
  Loader(const FindTensor& find, int64_t total_bytes, WeightStorage storage, ThreadPool& pool,
         const ProgressFn& progress)
      : find_(find), total_(total_bytes), storage_(storage), pool_(pool), progress_(progress) {}

  std::vector<float> vector(const std::string& name) { return make_vector(loaded(name)); }

  std::vector<float> optional_vector(const std::string& name) {
    return find_(name) ? vector(name) : std::vector<float>();
  }

  WeightMatrix matrix(const std::string& name) { return matrix(name, storage_); }

  WeightMatrix matrix(const std::string& name, WeightStorage storage) {
    return make_weight(loaded(name), storage, pool_, arena_);
  }

  Linear linear(const std::string& name) {
    return {matrix(name + ".weight"), optional_vector(name + ".bias")};
  }

  // Small, and what experts are chosen by: as exact as the file has it.
  Linear router(const std::string& name) {
    return {matrix(name + ".weight", WeightStorage::kFile), optional_vector(name + ".bias")};
  }

  Mlp mlp(const std::string& prefix, bool gated) {
    Mlp result;
    if (gated) result.gate = linear(prefix + "gate");
    result.up = linear(prefix + "up");
    result.down = linear(prefix + "down");
    return result;
  }

 private:
  const TensorView& loaded(const std::string& name) {
    const TensorView* const tensor = find_(name);
    if (!tensor) fail(ErrorCode::kNotFound, "the model has no tensor '{}'", name);
    report(progress_, "loading weights", done_, total_);
    done_ += tensor->rows() * tensor->row_bytes();
    return *tensor;
  }

  const FindTensor& find_;
  const int64_t total_;
  const WeightStorage storage_;
  ThreadPool& pool_;
  const ProgressFn& progress_;
  WeightArena arena_;
  int64_t done_ = 0;
};

void add_one(std::vector<float>& values) {
  for (float& value : values) value += 1.0f;
}

LayerWeights load_layer(Loader& load, const ModelConfig& config, const LayerConfig& layer,
                        const std::string& prefix) {
  const auto rms_weight = [&](const std::string& name) {
    std::vector<float> weight = load.vector(prefix + name + ".weight");
    if (config.norm_plus_one) add_one(weight);
    return weight;
  };
  const auto norm = [&](const std::string& name) -> Norm {
    return {rms_weight(name), load.optional_vector(prefix + name + ".bias")};
  };
  LayerWeights w;
  w.attn_norm = norm("attn_norm");
  w.q = load.linear(prefix + "q");
  w.k = load.linear(prefix + "k");
  w.v = load.linear(prefix + "v");
  w.o = load.linear(prefix + "o");
  if (config.qk_norm) {
    w.q_norm = rms_weight("q_norm");
    w.k_norm = rms_weight("k_norm");
  }
  if (!(config.parallel && config.shared_norm)) w.mlp_norm = norm("mlp_norm");
  if (config.post_norms) {
    w.post_attn_norm = norm("post_attn_norm");
    w.post_mlp_norm = norm("post_mlp_norm");
  }
  if (!layer.experts) {
    w.mlp = load.mlp(prefix, config.gated_mlp);
    return w;
  }
  w.router = load.router(prefix + "router");
  for (int32_t e = 0; e < config.num_experts; ++e) {
    w.experts.push_back(load.mlp(fmt::format("{}experts.{}.", prefix, e), config.gated_mlp));
  }
  return w;
}

int64_t bytes_of(const std::vector<float>& values) {
  return static_cast<int64_t>(values.size() * sizeof(float));
}

int64_t bytes_of(const Linear& linear) {
  return linear.weight.owned_bytes() + bytes_of(linear.bias);
}

}  // namespace

int64_t ModelWeights::owned_bytes() const {
  int64_t bytes = embedding.owned_bytes() + positions.owned_bytes() + untied_head.owned_bytes();
  const auto add_norm = [&](const Norm& norm) {
    bytes += bytes_of(norm.weight) + bytes_of(norm.bias);
  };
  add_norm(final_norm);
  for (const LayerWeights& layer : layers) {
    for (const Norm* norm :
         {&layer.attn_norm, &layer.mlp_norm, &layer.post_attn_norm, &layer.post_mlp_norm}) {
      add_norm(*norm);
    }
    bytes += bytes_of(layer.q_norm) + bytes_of(layer.k_norm) + bytes_of(layer.router);
    for_each_linear(layer, [&](const Linear& linear) { bytes += bytes_of(linear); });
  }
  return bytes;
}

ModelWeights make_weights(const ModelConfig& config, const FindTensor& find, int64_t total_bytes,
                          WeightStorage storage, ThreadPool& pool, const ProgressFn& progress) {
  LOWKEY_CHECK(std::ssize(config.layers) == config.num_layers, "{} of {} layers described",
               config.layers.size(), config.num_layers);
  ModelWeights weights;
  weights.config = config;
  weights.storage = storage;
  Loader load(find, total_bytes, storage, pool, progress);
  weights.embedding = load.matrix("embed.weight");
  if (config.learned_positions) weights.positions = load.matrix("positions.weight");
  for (int32_t i = 0; i < config.num_layers; ++i) {
    weights.layers.push_back(load_layer(load, config, config.layers[static_cast<size_t>(i)],
                                        fmt::format("layers.{}.", i)));
  }
  weights.final_norm = {load.vector("final_norm.weight"), load.optional_vector("final_norm.bias")};
  if (config.norm_plus_one) add_one(weights.final_norm.weight);
  if (!config.tied_embeddings) weights.untied_head = load.matrix("head.weight");
  report(progress, "loading weights", total_bytes, total_bytes);
  return weights;
}

ModelWeights load_weights(const ModelFile& file, WeightStorage storage, ThreadPool& pool,
                          const ProgressFn& progress) {
  const auto find = [&](std::string_view name) { return file.find_tensor(name); };
  return make_weights(file.config(), find, static_cast<int64_t>(file.weight_bytes()), storage, pool,
                      progress);
}

}  // namespace lowkey
