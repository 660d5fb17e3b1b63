#pragma once
// Keys or values of one layer of one document as attention sees them: exact, read back from a
// cache, or quantized by the specification. Torch-free.
#include <cstdint>
#include <span>
#include <vector>

#include "core/aligned.h"
#include "quant/layout.h"
#include "recipe/recipe.h"

namespace lowkey {

// What the model computed: k, v [tokens, num_kv_heads, head_dim], keys after RoPE.
struct LayerInput {
  const float* k = nullptr;
  const float* v = nullptr;
  int64_t tokens = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;

  int32_t padded_dim() const { return (head_dim + kLanes - 1) / kLanes * kLanes; }
  int64_t tiles() const { return (tokens + kTileTokens - 1) / kTileTokens; }
};

// Sums over the packed tokens of one KV head.
struct SideErrorSums {
  double error = 0;      // |x^ - x|
  double signed_ = 0;    // x^ - x
  double magnitude = 0;  // |x|
};

// Tokens in tiles of 32, as the kernels of attention/tile_kernels.h read them: keys [tile,
// head_dim, 32], values [tile, 32, padded_dim]; zeros behind the last token. Exact where nothing is
// packed.
struct StoredHead {
  AlignedVector<float> x;
  AlignedVector<float> squared_step;  // keys, if asked for: of each element's group; 0 where exact
  // Per query: the tokens before this position are seen as they are here, the others (the query's
  // window and itself) exactly.
  std::vector<int64_t> seen;
  int64_t first = 0;  // the first that may be packed: those before are exact
  SideErrorSums sums;
};

struct StoredSide {
  std::vector<StoredHead> heads;  // [num_kv_heads]
};

// The yardstick: values rounded to f16, as a 16-bit cache holds them.
StoredSide exact_side(const LayerInput& input, Side side);

// Stores the document under `layer` and reads `side` back; `queries` are positions, ascending.
// Throws Error as resolve_recipe and KvSequence::append.
StoredSide stored_side(const LayerInput& input, Side side, const LayerRecipe& layer,
                       int32_t intact_prefix, std::span<const int64_t> queries,
                       const StoredSide& exact, bool want_steps);

// Quantized along `axis` in groups of 32 elements (per token, where 32 does not divide head_dim:
// of the head). Queries see all whole groups of 32 tokens after the prefix in that form, but
// themselves exactly.
StoredSide quantized_side(const LayerInput& input, Side side, QuantAxis axis, int32_t bits,
                          int32_t intact_prefix, std::span<const int64_t> queries,
                          const StoredSide& exact);

// Where token `token`, channel `channel` lies in StoredHead::x.
inline int64_t stored_index(const LayerInput& input, Side side, int64_t token, int64_t channel) {
  if (side == Side::kValue) return token * input.padded_dim() + channel;
  return (token / kTileTokens * input.head_dim + channel) * kTileTokens + token % kTileTokens;
}

}  // namespace lowkey
