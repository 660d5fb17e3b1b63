#pragma once
// Finds massive activations in the residual stream of one document, layer by layer. Torch-free.
#include <cstdint>
#include <map>
#include <vector>

#include "probe/probe.h"

namespace lowkey {

class PivotFinder {
 public:
  // x: [tokens, hidden_size], the stream before `layer`. Layers ascending.
  void add_layer(int32_t layer, const float* x, int64_t tokens, int64_t hidden_size);

  // By position; document and token are left for the caller to fill in.
  std::vector<Pivot> pivots() const;

 private:
  std::map<int64_t, Pivot> found_;
  std::vector<float> magnitudes_;
};

}  // namespace lowkey
