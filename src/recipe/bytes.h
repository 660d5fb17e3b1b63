#pragma once
// What a recipe costs, exactly: the closed forms that the cache's real allocation is asserted
// against. Torch-free, pure functions.
#include <cstdint>

#include "recipe/recipe.h"

namespace lowkey {

inline constexpr int32_t kPageTokens = 128;    // tokens of one KV head of one layer in a page
inline constexpr int32_t kPageAlignment = 64;  // bytes

// KIVI's windows in closed form (DESIGN §4): how many of the first `tokens` tokens of a side are
// stored packed. `tokens` does not count the intact prefix. Block rule: floor(L/R)*R. Sliding rule:
// max(0, L-R). 16- and 32-bit sides have no window: every token is in its page at once.
enum class SideWindow : uint8_t { kNone, kSliding, kBlock };
SideWindow side_window(const SideRecipe& side, WindowRule rule);
int64_t stored_tokens(SideWindow window, int64_t residual_length, int64_t tokens);

// Most exact tokens a window holds between two appends (its ring's capacity): R for sliding, R-1
// for block.
int64_t window_capacity(SideWindow window, int64_t residual_length);

// Which pages a head holds after so many tokens: [first, last) of those that its tokens after the
// prefix fill in order. A layer whose queries see `window` tokens (KvShape::windows) has no use for
// a page once all its tokens are behind the window of the next query; elsewhere `first` is 0.
struct PageSpan {
  int64_t first = 0;
  int64_t last = 0;
  int64_t count() const { return last - first; }
  friend bool operator==(const PageSpan&, const PageSpan&) = default;
};
// `tokens` counts the prefix; `stored` is the larger of both sides' stored_tokens().
PageSpan pages_held(int32_t window, int32_t intact_prefix, int64_t tokens, int64_t stored);

// One side's share of a page: parameters (f16 scale and zero point per group), then codes; or rows
// of floats.
int64_t side_params_bytes(const SideRecipe& side, int32_t head_dim);
int64_t side_codes_bytes(const SideRecipe& side, int32_t head_dim);
int64_t side_page_bytes(const SideRecipe& side, int32_t head_dim);  // rounded up to kPageAlignment
int64_t page_bytes(const HeadRecipe& head, int32_t head_dim);       // K share + V share

// Bytes a sequence of `tokens` tokens occupies, by part. All are as allocated: whole pages, whole
// windows. Where layers see `window` tokens only, a longer sequence may occupy a page less.
struct KvBytes {
  int64_t pages = 0;
  int64_t windows = 0;
  int64_t prefix = 0;
  int64_t total() const { return pages + windows + prefix; }
};
KvBytes bytes_at(const ResolvedRecipe& recipe, int64_t tokens);

// Mean bits per stored number. code_bits: what the papers quote, codes only. stored_bits:
// everything allocated, at this many tokens (windows weigh less in long contexts: always say at
// which length), over the numbers of the tokens that each layer's queries see.
double code_bits(const ResolvedRecipe& recipe);
double stored_bits(const ResolvedRecipe& recipe, int64_t tokens);

}  // namespace lowkey
