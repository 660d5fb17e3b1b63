#pragma once
// The weights of a Llama-architecture model in memory, one copy for every way of computing with
// them. Torch-free; immutable after loading, thread-safe.
#include <cstdint>
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

struct LayerWeights {
  std::vector<float> attn_norm, mlp_norm;  // [hidden]
  Linear q, k, v, o;
  Linear gate, up, down;
};

struct ModelWeights {
  ModelConfig config;
  WeightMatrix embedding;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;  // [hidden]
  WeightMatrix untied_head;       // [vocab, hidden]; empty when tied

  const WeightMatrix& head() const { return config.tied_embeddings ? embedding : untied_head; }
  int64_t owned_bytes() const;  // what does not lie in the file's map
};

// Converts on all threads of `pool`. Matrices may borrow the file's map: `file` must outlive the
// result. Throws Error as ModelFile::tensor and make_weight; what `progress` throws.
ModelWeights load_weights(const ModelFile& file, WeightStorage storage, ThreadPool& pool,
                          const ProgressFn& progress);

}  // namespace lowkey
