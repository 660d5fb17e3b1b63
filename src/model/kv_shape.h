#pragma once
// The shape of the cache that a model's keys and values need. Torch-free, and nothing but headers:
// programs that plan without the model room use it too.
#include <algorithm>

#include "load/model_file.h"
#include "recipe/recipe.h"

namespace lowkey {

inline KvShape kv_shape(const ModelConfig& config) {
  KvShape shape{config.num_layers, config.num_kv_heads, config.head_dim};
  const auto& layers = config.layers;
  if (std::any_of(layers.begin(), layers.end(),
                  [](const LayerConfig& l) { return l.window > 0; })) {
    for (const LayerConfig& layer : layers) shape.windows.push_back(layer.window);
  }
  return shape;
}

}  // namespace lowkey
