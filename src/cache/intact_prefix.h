#pragma once
// The keys and values of a prefix, computed once by the 16-bit model: IntactKV (arXiv 2403.01241).
// Sequences of a cache that has one begin with it and share it by reference. Torch-free; immutable
// once made, thread-safe.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/half.h"
#include "recipe/recipe.h"

namespace lowkey {

struct IntactPrefix {
  std::vector<int32_t> tokens;  // ids, at positions 0, 1, ...; at least one
  int32_t num_layers = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  // [num_layers, num_kv_heads, tokens, head_dim]; keys after RoPE. As a sequence stores them.
  std::vector<Half> k, v;
  // [hidden_size]: the 16-bit model's hidden state of the last token, after the final norm: what
  // follows a prompt that is the prefix and nothing else. Empty: not known.
  std::vector<float> hidden;

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  // Where the rows of one head of one layer begin in k and v.
  int64_t offset(int32_t layer, int32_t head) const {
    return (int64_t{layer} * num_kv_heads + head) * length() * head_dim;
  }
  // Whether a text begins with the prefix: its ids are then taken off, else the prefix is put
  // before it.
  bool begins(std::span<const int32_t> ids) const {
    return ids.size() >= tokens.size() && std::equal(tokens.begin(), tokens.end(), ids.begin());
  }
};

// What a KvCache is made of: a recipe, and the prefix that its sequences begin with, if any. A
// recipe that names a prefix's file becomes one in engine/prefix_file.h.
struct CacheSpec {
  // NOLINTNEXTLINE(google-explicit-constructor): a recipe alone is a cache like any other.
  CacheSpec(ResolvedRecipe resolved, std::shared_ptr<const IntactPrefix> begins_with = nullptr)
      : recipe(std::move(resolved)), prefix(std::move(begins_with)) {}

  ResolvedRecipe recipe;
  std::shared_ptr<const IntactPrefix> prefix;

  int64_t prefix_tokens() const { return prefix ? prefix->length() : 0; }
  // How many ids at the beginning of a text the prefix stands for: all of its own, or none.
  size_t taken_off(std::span<const int32_t> ids) const {
    return prefix && prefix->begins(ids) ? prefix->tokens.size() : 0;
  }
};

}  // namespace lowkey
