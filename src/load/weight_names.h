#pragma once
// The weights of a model: lowkey's names, the file's, and the shape each must have. Internal to
// load/. Torch-free, thread-safe.
#include <cstdint>
#include <string>
#include <vector>

#include "load/model_file.h"

namespace lowkey {

struct WeightSpec {
  std::string canonical;  // "layers.3.q.weight"
  std::string in_file;    // "blk.3.attn_q.weight" or "model.layers.3.self_attn.q_proj.weight"
  std::vector<int64_t> shape;
  bool rotated = false;  // rows are heads that RoPE rotates: Q and K
  bool stacked = false;  // an expert's: `in_file` has all of them along one dimension more
};

// Every weight that a model of this configuration has, in canonical order: embed, the layers,
// final_norm, head. Specs that share `in_file` are parts of that tensor, in this order.
std::vector<WeightSpec> weight_specs(const ModelConfig& config, ModelFormat format);

}  // namespace lowkey
