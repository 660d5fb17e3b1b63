#pragma once
// Which matrices read what a norm puts out: what is multiplied into the one can be divided out of
// the others. Torch-free, thread-safe.
#include <string>
#include <vector>

#include "weights/float_model.h"

namespace lowkey {

struct NormReaders {
  std::string norm;                   // "layers.3.mlp_norm.weight"
  std::vector<std::string> matrices;  // the layer's linears first; a router last
};

// Of one layer: its attention's, then its MLP's; one alone where they share the norm.
std::vector<NormReaders> norm_readers(const FloatModel& model, int32_t layer);
// Of all layers, and the head as the reader of the last norm, which a tied head is not: untie
// first.
std::vector<NormReaders> all_norm_readers(const FloatModel& model);

// norm / scales, matrices' columns * scales: the same outputs. scales: [hidden], positive. A
// LayerNorm's bias is divided as well.
void move_scales(FloatModel& model, const NormReaders& readers, const std::vector<float>& scales);

}  // namespace lowkey
