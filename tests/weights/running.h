#pragma once
// What a model in floats, or what a method made of it, computes.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "model/kv_shape.h"
#include "model/model_support.h"
#include "recipe/recipe.h"
#include "weights/float_model.h"
#include "weights/method.h"

namespace lowkey::test {

// [tokens, vocab], of a prompt in one piece.
inline std::vector<float> logits_with(const FloatModel& source, const std::vector<int32_t>& tokens,
                                      ThreadPool& pool, const std::string& recipe = "32") {
  Model model(source.weights(pool), pool);
  KvCache cache(resolve_recipe(parse_recipe(recipe), kv_shape(model.config())));
  KvSequence sequence = cache.new_sequence();
  return logits_of(model, run(model, sequence, tokens, std::ssize(tokens), Backend::kAten));
}

// The same with the blocks in the matrices' places.
inline std::vector<float> logits_of_blocks(const Quantization& quantization,
                                           const std::vector<int32_t>& tokens,
                                           const std::string& recipe = "32") {
  FloatModel rounded = quantization.model;
  for (const auto& [name, blocks] : quantization.blocks) {
    decode_blocks(blocks, rounded.edit(name).values.data(), quantization.pool);
  }
  return logits_with(rounded, tokens, quantization.pool, recipe);
}

inline double root_mean_square(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) squares += std::pow(double{a[i]} - double{b[i]}, 2);
  return std::sqrt(squares / static_cast<double>(a.size()));
}

}  // namespace lowkey::test
