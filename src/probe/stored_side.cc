#include "probe/stored_side.h"

#include <algorithm>
#include <cmath>

#include "attention/tile_kernels.h"
#include "cache/kv_cache.h"
#include "core/half.h"
#include "quant/affine.h"
#include "quant/pack.h"
#include "recipe/bytes.h"
#include "recipe/candidates.h"

namespace lowkey {
namespace {

constexpr int32_t kAxisGroup = 32;

int64_t head_size(const LayerInput& input, Side side) {
  return input.tiles() * kTileTokens * (side == Side::kKey ? input.head_dim : input.padded_dim());
}

// Errors of tokens [first, last) against the exact ones.
SideErrorSums sum_errors(const LayerInput& input, Side side, const AlignedVector<float>& x,
                         const AlignedVector<float>& exact, int64_t first, int64_t last) {
  SideErrorSums sums;
  for (int64_t t = first; t < last; ++t) {
    for (int64_t c = 0; c < input.head_dim; ++c) {
      const auto at = static_cast<size_t>(stored_index(input, side, t, c));
      const double error = static_cast<double>(x[at]) - static_cast<double>(exact[at]);
      sums.error += std::abs(error);
      sums.signed_ += error;
      sums.magnitude += std::abs(static_cast<double>(exact[at]));
    }
  }
  return sums;
}

// Reads what one side of one head holds packed after a step.
class SideReader {
 public:
  SideReader(const LayerInput& input, const HeadView& head, const SideView& side)
      : input_(input), head_(head), side_(side), which_(side.layout->side()) {}

  // Tokens [0, count) after the prefix, into their places from position `first` on.
  void read(int64_t first, int64_t count, float* x) const {
    AlignedVector<float> tile(static_cast<size_t>(kTileTokens * input_.padded_dim()));
    for (int64_t start = 0; start < count; start += kTileTokens) {
      read_tile(start, std::min<int64_t>(kTileTokens, count - start), tile.data());
      for (int64_t i = 0; i < std::min<int64_t>(kTileTokens, count - start); ++i) {
        for (int64_t c = 0; c < input_.head_dim; ++c) {
          x[stored_index(input_, which_, first + start + i, c)] =
              tile[static_cast<size_t>(stored_index(input_, which_, i, c))];
        }
      }
    }
  }

  void read_squared_steps(int64_t first, int64_t count, float* steps) const {
    const SideLayout& layout = *side_.layout;
    for (int64_t t = 0; t < count; ++t) {
      const auto* halves = reinterpret_cast<const Half*>(page(t));
      for (int32_t c = 0; c < input_.head_dim; ++c) {
        const float step =
            half_to_float(halves[layout.scale_index(static_cast<int32_t>(t % kPageTokens), c)]);
        steps[stored_index(input_, which_, first + t, c)] = step * step;
      }
    }
  }

 private:
  const std::byte* page(int64_t token) const {
    return head_.pages[token / kPageTokens].data() + side_.page_offset;
  }

  void read_tile(int64_t start, int64_t count, float* tile) const {
    const SideLayout& layout = *side_.layout;
    const auto in_page = static_cast<int32_t>(start % kPageTokens);
    if (!layout.packed()) {  // 16- and 32-bit sides, beside a packed one
      for (int64_t i = 0; i < count; ++i) {
        for (int32_t c = 0; c < input_.head_dim; ++c) {
          tile[stored_index(input_, which_, i, c)] =
              read_element(layout, page(start), in_page + static_cast<int32_t>(i), c);
        }
      }
      return;
    }
    const TileKernels& kernels = tile_kernels(active_isa());
    if (which_ == Side::kKey) {
      kernels.unpack_keys(layout, page(start), in_page / kTileTokens, tile);
    } else {
      kernels.unpack_values(layout, page(start), in_page / kTileTokens, tile, input_.padded_dim());
    }
  }

  const LayerInput& input_;
  const HeadView& head_;
  const SideView& side_;
  const Side which_;
};

}  // namespace

StoredSide exact_side(const LayerInput& input, Side side) {
  StoredSide all;
  all.heads.resize(static_cast<size_t>(input.num_kv_heads));
  const float* from = side == Side::kKey ? input.k : input.v;
  for (int64_t h = 0; h < input.num_kv_heads; ++h) {
    AlignedVector<float>& x = all.heads[static_cast<size_t>(h)].x;
    x.assign(static_cast<size_t>(head_size(input, side)), 0.0f);
    for (int64_t t = 0; t < input.tokens; ++t) {
      const float* row = from + (t * input.num_kv_heads + h) * input.head_dim;
      for (int64_t c = 0; c < input.head_dim; ++c) {
        x[static_cast<size_t>(stored_index(input, side, t, c))] =
            half_to_float(float_to_half(row[c]));
      }
    }
  }
  return all;
}

StoredSide stored_side(const LayerInput& input, Side side, const LayerRecipe& layer,
                       int32_t intact_prefix, std::span<const int64_t> queries,
                       const StoredSide& exact, bool want_steps) {
  KvCache cache(resolve_recipe(recipe_of_layers({&layer, 1}, intact_prefix),
                               {1, input.num_kv_heads, input.head_dim}));
  KvSequence sequence = cache.new_sequence();
  AppendStage stage;
  const LayerView& view = sequence.append(0, input.k, input.v, input.tokens, stage);

  StoredSide all = exact;
  for (size_t h = 0; h < all.heads.size(); ++h) {
    StoredHead& head = all.heads[h];
    const SideView& side_view = side == Side::kKey ? view.heads[h].k : view.heads[h].v;
    const SideReader reader(input, view.heads[h], side_view);
    const int64_t after_prefix = std::max<int64_t>(0, input.tokens - intact_prefix);
    const int64_t packed = stored_tokens(side_view.window, layer.residual_length, after_prefix);
    reader.read(intact_prefix, packed, head.x.data());
    if (side_view.layout->packed()) {
      head.sums =
          sum_errors(input, side, head.x, exact.heads[h].x, intact_prefix, intact_prefix + packed);
    }
    if (want_steps) {
      head.squared_step.assign(head.x.size(), 0.0f);
      if (side_view.layout->packed()) {
        reader.read_squared_steps(intact_prefix, packed, head.squared_step.data());
      }
    }
    head.first = intact_prefix;
    head.seen.clear();
    for (int64_t position : queries) {
      head.seen.push_back(
          std::min(position + 1, intact_prefix + view.stored_for(side_view, position)));
    }
  }
  return all;
}

StoredSide quantized_side(const LayerInput& input, Side side, QuantAxis axis, int32_t bits,
                          int32_t intact_prefix, std::span<const int64_t> queries,
                          const StoredSide& exact) {
  const bool per_channel = axis == QuantAxis::kPerChannel;
  const int32_t channels = per_channel                        ? 1
                           : input.head_dim % kAxisGroup == 0 ? kAxisGroup
                                                              : input.head_dim;
  const int32_t tokens = per_channel ? kAxisGroup : 1;
  const int64_t whole =
      std::max<int64_t>(0, input.tokens - intact_prefix) / kAxisGroup * kAxisGroup;
  const int64_t end = whole == 0 ? 0 : intact_prefix + whole;
  StoredSide all = exact;
  std::vector<float> group(static_cast<size_t>(tokens * channels));
  for (size_t h = 0; h < all.heads.size(); ++h) {
    StoredHead& head = all.heads[h];
    for (int64_t t = intact_prefix; t < end; t += tokens) {
      for (int64_t c = 0; c < input.head_dim; c += channels) {
        const auto place = [&](size_t i) {
          const auto step = static_cast<int64_t>(i);
          return static_cast<size_t>(stored_index(input, side, t + (per_channel ? step : 0),
                                                  c + (per_channel ? 0 : step)));
        };
        for (size_t i = 0; i < group.size(); ++i) group[i] = head.x[place(i)];
        const AffineParams params =
            affine_params(group.data(), static_cast<int64_t>(group.size()), 1, bits);
        for (size_t i = 0; i < group.size(); ++i) {
          head.x[place(i)] = affine_decode(affine_code(group[i], params, bits), params);
        }
      }
    }
    head.sums = sum_errors(input, side, head.x, exact.heads[h].x,
                           std::min<int64_t>(intact_prefix, end), end);
    head.first = intact_prefix;
    head.seen.clear();
    for (int64_t position : queries) head.seen.push_back(std::min(position, end));
  }
  return all;
}

}  // namespace lowkey
