#pragma once
// The weights of a model in memory, one copy for every way of computing with them. Torch-free;
// immutable after loading, thread-safe.
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "core/progress.h"
#include "core/threads.h"
#include "linear/weight_matrix.h"
#include "load/model_file.h"

namespace lowkey {

// y = x weight^T + bias.
struct Linear {
  WeightMatrix weight;
  std::vector<float> bias;  // [weight.rows()], or empty

  const float* bias_data() const { return bias.empty() ? nullptr : bias.data(); }
};

// Of the kind ModelConfig::norm says.
struct Norm {
  std::vector<float> weight;  // [hidden], one added already where the file left it out
  std::vector<float> bias;    // [hidden], or empty

  const float* bias_data() const { return bias.empty() ? nullptr : bias.data(); }
};

// Of the kind ModelConfig::gated_mlp and activation say.
struct Mlp {
  Linear gate, up, down;  // gate is empty unless gated
};

// What a model's configuration does without is empty.
struct LayerWeights {
  Norm attn_norm, mlp_norm, post_attn_norm, post_mlp_norm;
  std::vector<float> q_norm, k_norm;  // [head_dim]
  Linear q, k, v, o;
  Mlp mlp;
  Linear router;             // [experts, hidden]
  std::vector<Mlp> experts;  // in place of mlp
};

struct ModelWeights {
  ModelConfig config;
  WeightStorage storage = WeightStorage::kFile;  // what was asked for
  WeightMatrix embedding;                        // [vocab, hidden]
  WeightMatrix positions;                        // [max_context + position_offset, hidden]
  std::vector<LayerWeights> layers;
  Norm final_norm;
  WeightMatrix untied_head;  // [vocab, hidden]; empty when tied

  const WeightMatrix& head() const { return config.tied_embeddings ? embedding : untied_head; }
  int64_t owned_bytes() const;  // what does not lie in the file's map
};

// Calls visit(const Linear&) for every matrix of the layer that x is multiplied by, but the router:
// that one is always multiplied in floats.
template <typename Visit>
void for_each_linear(const LayerWeights& layer, const Visit& visit) {
  const auto mlp = [&](const Mlp& m) {
    if (m.gate.weight.rows() > 0) visit(m.gate);
    visit(m.up);
    visit(m.down);
  };
  for (const Linear* linear : {&layer.q, &layer.k, &layer.v, &layer.o}) visit(*linear);
  if (layer.experts.empty()) mlp(layer.mlp);
  for (const Mlp& expert : layer.experts) mlp(expert);
}

// A tensor by its canonical name (ModelFile::tensor), or null.
using FindTensor = std::function<const TensorView*(std::string_view canonical)>;

// Converts on all threads of `pool`. Matrices may borrow the tensors' bytes, which must outlive the
// result: with WeightStorage::kFile all do that the file has in lowkey's row order. Throws Error
// kNotFound naming a tensor that the configuration wants, as make_weight, and what `progress`
// throws. total_bytes: of all tensors, for progress.
ModelWeights make_weights(const ModelConfig& config, const FindTensor& find, int64_t total_bytes,
                          WeightStorage storage, ThreadPool& pool, const ProgressFn& progress);

// Those of `file`, which must outlive the result.
ModelWeights load_weights(const ModelFile& file, WeightStorage storage, ThreadPool& pool,
                          const ProgressFn& progress);

}  // namespace lowkey
