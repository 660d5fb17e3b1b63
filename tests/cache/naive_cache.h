#pragma once
// What the cache must hold, computed the obvious way: every token kept as floats, quantized afresh
// on request. Knows the closed forms of DESIGN §4 and the affine formula, and nothing of pages,
// rings or packing.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "core/rng.h"
#include "recipe/recipe.h"

namespace lowkey {

// A recipe, and after a blank the windows of the layers if there are any: "4:r8 w0,100".
ResolvedRecipe resolve(const std::string& text, const KvShape& shape);

// One token's keys and values in every layer.
struct Token {
  std::vector<float> k, v;  // [layers, heads, head_dim]
};

Token random_token(SplitMix64& rng, const KvShape& shape);
std::vector<Token> random_tokens(size_t count, const KvShape& shape, uint64_t seed = 3);
std::vector<Token> first_of(const std::vector<Token>& tokens, size_t count);

// The first tokens as a prefix made elsewhere: f16 rows.
std::shared_ptr<const IntactPrefix> prefix_of(const std::vector<Token>& tokens, size_t count,
                                              const KvShape& shape);

// What KvSequence::state_bytes must return after `tokens`.
std::string naive_state(const ResolvedRecipe& recipe, const std::vector<Token>& tokens,
                        int32_t layer, int32_t head, Side side);

// Appends tokens [first, last) in one step, layer by layer, as a model does.
void append_tokens(KvSequence& sequence, const ResolvedRecipe& recipe,
                   const std::vector<Token>& tokens, size_t first, size_t last);

// Empty if the whole state of `sequence` is that of `tokens`, else what differs.
std::string state_difference(const KvSequence& sequence, const ResolvedRecipe& recipe,
                             const std::vector<Token>& tokens);

}  // namespace lowkey
