#include "model/weights.h"

#include <fmt/format.h>

#include <string>

namespace lowkey {
namespace {

class Loader {
 public:
  Loader(const ModelFile& file, WeightStorage storage, ThreadPool& pool, const ProgressFn& progress)
      : file_(file), storage_(storage), pool_(pool), progress_(progress) {}

  std::vector<float> vector(const std::string& name) {
    const TensorView& tensor = file_.tensor(name);
    loaded(tensor);
    return make_vector(tensor);
  }

  WeightMatrix matrix(const std::string& name) {
    const TensorView& tensor = file_.tensor(name);
    loaded(tensor);
    return make_weight(tensor, storage_, pool_, arena_);
  }

  Linear linear(const std::string& name) {
    Linear result;
    result.weight = matrix(name + ".weight");
    if (file_.find_tensor(name + ".bias")) result.bias = vector(name + ".bias");
    return result;
  }

 private:
  void loaded(const TensorView& tensor) {
    report(progress_, "loading weights", done_, static_cast<int64_t>(file_.weight_bytes()));
    done_ += static_cast<int64_t>(tensor.data.size());
  }

  const ModelFile& file_;
  const WeightStorage storage_;
  ThreadPool& pool_;
  const ProgressFn& progress_;
  WeightArena arena_;
  int64_t done_ = 0;
};

}  // namespace

int64_t ModelWeights::owned_bytes() const {
  int64_t bytes = embedding.owned_bytes() + untied_head.owned_bytes();
  const auto add_vector = [&](const std::vector<float>& values) {
    bytes += static_cast<int64_t>(values.size() * sizeof(float));
  };
  add_vector(final_norm);
  for (const LayerWeights& layer : layers) {
    add_vector(layer.attn_norm);
    add_vector(layer.mlp_norm);
    for (const Linear* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      bytes += linear->weight.owned_bytes();
      add_vector(linear->bias);
    }
  }
  return bytes;
}

ModelWeights load_weights(const ModelFile& file, WeightStorage storage, ThreadPool& pool,
                          const ProgressFn& progress) {
  ModelWeights weights;
  weights.config = file.config();
  Loader load(file, storage, pool, progress);
  weights.embedding = load.matrix("embed.weight");
  for (int32_t i = 0; i < weights.config.num_layers; ++i) {
    const std::string prefix = fmt::format("layers.{}.", i);
    LayerWeights layer;
    layer.attn_norm = load.vector(prefix + "attn_norm.weight");
    layer.q = load.linear(prefix + "q");
    layer.k = load.linear(prefix + "k");
    layer.v = load.linear(prefix + "v");
    layer.o = load.linear(prefix + "o");
    layer.mlp_norm = load.vector(prefix + "mlp_norm.weight");
    layer.gate = load.linear(prefix + "gate");
    layer.up = load.linear(prefix + "up");
    layer.down = load.linear(prefix + "down");
    weights.layers.push_back(std::move(layer));
  }
  weights.final_norm = load.vector("final_norm.weight");
  if (!weights.config.tied_embeddings) weights.untied_head = load.matrix("head.weight");
  const auto total = static_cast<int64_t>(file.weight_bytes());
  report(progress, "loading weights", total, total);
  return weights;
}

}  // namespace lowkey
