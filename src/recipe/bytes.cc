#include "recipe/bytes.h"

#include <algorithm>

#include "core/checked.h"
#include "core/error.h"

namespace lowkey {
namespace {

constexpr int64_t kParamBytes = 4;  // an f16 scale and an f16 zero point
constexpr int64_t kExactBytes = 2;  // an exact token of a packed side is f16, in window and prefix

int64_t exact_element_bytes(const SideRecipe& side) {
  return side.packed() ? kExactBytes : side.bits / 8;
}

int64_t side_window_bytes(const SideRecipe& side, const ResolvedLayer& layer, int32_t head_dim) {
  const SideWindow window = side_window(side, layer.window);
  return window_capacity(window, layer.residual_length) * head_dim * kExactBytes;
}

}  // namespace

SideWindow side_window(const SideRecipe& side, WindowRule rule) {
  if (!side.packed()) return SideWindow::kNone;
  // A group of a per-channel side spans tokens: it can only be packed when it is full.
  if (side.axis == QuantAxis::kPerChannel) return SideWindow::kBlock;
  return rule == WindowRule::kBlock ? SideWindow::kBlock : SideWindow::kSliding;
}

int64_t stored_tokens(SideWindow window, int64_t residual_length, int64_t tokens) {
  LOWKEY_CHECK(tokens >= 0 && residual_length >= 0, "tokens {}, residual_length {}", tokens,
               residual_length);
  switch (window) {
    case SideWindow::kNone: return tokens;
    case SideWindow::kSliding: return std::max<int64_t>(0, tokens - residual_length);
    case SideWindow::kBlock:
      LOWKEY_CHECK(residual_length > 0, "the block rule needs a residual_length");
      return tokens / residual_length * residual_length;
  }
  LOWKEY_CHECK(false, "window {}", static_cast<int>(window));
}

int64_t window_capacity(SideWindow window, int64_t residual_length) {
  switch (window) {
    case SideWindow::kNone: return 0;
    case SideWindow::kSliding: return residual_length;
    case SideWindow::kBlock:
      LOWKEY_CHECK(residual_length > 0, "the block rule needs a residual_length");
      return residual_length - 1;
  }
  LOWKEY_CHECK(false, "window {}", static_cast<int>(window));
}

PageSpan pages_held(int32_t window, int32_t intact_prefix, int64_t tokens, int64_t stored) {
  PageSpan span;
  if (window > 0) {
    // The next query, at position `tokens`, sees position tokens - window + 1 and what follows.
    span.first = std::max<int64_t>(0, tokens - window + 1 - intact_prefix) / kPageTokens;
  }
  span.last = std::max(span.first, ceil_div<int64_t>(stored, kPageTokens));
  return span;
}

int64_t side_params_bytes(const SideRecipe& side, int32_t head_dim) {
  if (!side.packed()) return 0;
  if (side.axis == QuantAxis::kPerChannel) {
    LOWKEY_CHECK(side.group_size > 0 && kPageTokens % side.group_size == 0, "group_size {}",
                 side.group_size);
    return int64_t{kPageTokens} / side.group_size * head_dim * kParamBytes;
  }
  const int32_t group_size = side.group_size == kGroupIsHeadDim ? head_dim : side.group_size;
  LOWKEY_CHECK(group_size > 0 && head_dim % group_size == 0, "group_size {}, head_dim {}",
               group_size, head_dim);
  return int64_t{kPageTokens} * (head_dim / group_size) * kParamBytes;
}

int64_t side_codes_bytes(const SideRecipe& side, int32_t head_dim) {
  return int64_t{kPageTokens} * head_dim * side.bits / 8;
}

int64_t side_page_bytes(const SideRecipe& side, int32_t head_dim) {
  return round_up<int64_t>(side_params_bytes(side, head_dim) + side_codes_bytes(side, head_dim),
                           kPageAlignment);
}

int64_t page_bytes(const HeadRecipe& head, int32_t head_dim) {
  return side_page_bytes(head.k, head_dim) + side_page_bytes(head.v, head_dim);
}

KvBytes bytes_at(const ResolvedRecipe& recipe, int64_t tokens) {
  if (tokens < 0 || tokens > kMaxTokens) {
    fail(ErrorCode::kInvalidArgument, "{} tokens: a context has 0 to {}", tokens, kMaxTokens);
  }
  const int32_t head_dim = recipe.shape.head_dim;
  const int64_t after_prefix = std::max<int64_t>(0, tokens - recipe.intact_prefix);
  KvBytes bytes;
  for (size_t l = 0; l < recipe.layers.size(); ++l) {
    const ResolvedLayer& layer = recipe.layers[l];
    const int32_t window = recipe.shape.window(static_cast<int32_t>(l));
    for (const HeadRecipe& head : layer.heads) {
      const auto stored = [&](const SideRecipe& side) {
        return stored_tokens(side_window(side, layer.window), layer.residual_length, after_prefix);
      };
      const PageSpan pages = pages_held(window, recipe.intact_prefix, tokens,
                                        std::max(stored(head.k), stored(head.v)));
      bytes.pages += pages.count() * page_bytes(head, head_dim);
      bytes.windows +=
          side_window_bytes(head.k, layer, head_dim) + side_window_bytes(head.v, layer, head_dim);
      bytes.prefix += int64_t{recipe.intact_prefix} * head_dim *
                      (exact_element_bytes(head.k) + exact_element_bytes(head.v));
    }
  }
  return bytes;
}

double code_bits(const ResolvedRecipe& recipe) {
  int64_t bits = 0;
  int64_t sides = 0;
  for (const ResolvedLayer& layer : recipe.layers) {
    for (const HeadRecipe& head : layer.heads) {
      bits += head.k.bits + head.v.bits;
      sides += 2;
    }
  }
  LOWKEY_CHECK(sides > 0, "a resolved recipe has layers and heads");
  return static_cast<double>(bits) / static_cast<double>(sides);
}

double stored_bits(const ResolvedRecipe& recipe, int64_t tokens) {
  if (tokens <= 0) {
    fail(ErrorCode::kInvalidArgument, "stored bits at {} tokens: needs at least one", tokens);
  }
  const KvShape& shape = recipe.shape;
  double seen = 0;  // tokens, over all layers
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    const int64_t window = shape.window(layer);
    seen += static_cast<double>(window > 0 ? std::min(window, tokens) : tokens);
  }
  const double numbers = 2.0 * seen * shape.num_kv_heads * shape.head_dim;
  return 8.0 * static_cast<double>(bytes_at(recipe, tokens).total()) / numbers;
}

}  // namespace lowkey
