#include "attention/prefill_bf16.h"

#include <algorithm>
#include <limits>
#include <numbers>
#include <utility>

#include "attention/score_rules.h"
#include "core/checked.h"
#include "core/cpu.h"

namespace lowkey {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

using Form = PrefillBf16Scratch::Form;

// Tokens [first, first + kSpanTokens) of the prefix, or of the cache proper.
struct Span {
  int64_t first = 0;
  int32_t num_tiles = 0;
  bool prefix = false;
};

class Bf16BlockRunner {
 public:
  Bf16BlockRunner(const AttendArgs& args, const PrefillBf16Kernels& kernels,
                  const TileKernels& tiles, PrefillBf16Scratch& scratch, const AttendTask& task)
      : kernels_(kernels),
        tiles_(tiles),
        scratch_(scratch),
        view_(*task.item->view),
        head_(view_.heads[static_cast<size_t>(task.head)]),
        task_(task),
        rules_(args, view_, std::numbers::log2e_v<float>),
        plain_(rules_.none()),
        num_qo_heads_(args.num_qo_heads),
        group_(args.num_qo_heads / static_cast<int32_t>(view_.heads.size())),
        head_dim_(view_.head_dim),
        padded_dim_(round_up<int32_t>(view_.head_dim, kLanes)),
        tile_elements_(int64_t{kTileTokens} * padded_dim_),
        num_rows_((task.last_query - task.first_query) * group_),
        num_strips_(ceil_div<int64_t>(num_rows_, kStripRows)) {
    scratch_.resize(num_strips_ * kStripRows, padded_dim_);
    load_rows(args.scale);
  }

  void run() {
    const int64_t prefix = prefix_tiles(view_);
    for (int64_t tile = task_.first_unit; tile < task_.last_unit;) {
      const bool in_prefix = tile < prefix;
      const int64_t first = in_prefix ? tile : tile - prefix;
      // To the end of the page, the prefix or the task.
      int64_t count = std::min(kTilesPerPage - first % kTilesPerPage, task_.last_unit - tile);
      if (in_prefix) count = std::min(count, prefix - tile);
      run_span({first * kTileTokens, static_cast<int32_t>(count), in_prefix});
      tile += count;
    }
    // Tops in natural units, as merges take them.
    for (int64_t r = 0; r < num_rows_; ++r) {
      scratch_.states[static_cast<size_t>(r)].top *= std::numbers::ln2_v<float>;
    }
  }

 private:
  // Row r is query r / group, head r % group of the KV head's group; rows that fill up the last
  // strip are zero and stand where its last real row does.
  int64_t row_position(int64_t r) const {
    return view_.position + task_.first_query + std::min(r, num_rows_ - 1) / group_;
  }

  void load_rows(float scale) {
    const float factor = scale * std::numbers::log2e_v<float>;
    BFloat16* const q = scratch_.q.data();
    for (int64_t r = 0; r < num_rows_; ++r) {
      const int64_t query = task_.first_query + r / group_;
      const int64_t head = int64_t{task_.head} * group_ + r % group_;
      kernels_.load_query(task_.item->q + (query * num_qo_heads_ + head) * head_dim_, head_dim_,
                          factor, q + r * padded_dim_, padded_dim_);
    }
    const int64_t all = num_strips_ * kStripRows;
    std::fill(q + num_rows_ * padded_dim_, q + all * padded_dim_, BFloat16{});
    std::fill_n(scratch_.acc.begin(), all * padded_dim_, 0.0f);
    std::fill_n(scratch_.states.begin(), all, SoftmaxState{kMinusInfinity, 0.0f});
    for (int64_t r = 0; r < all; ++r) {
      const auto i = static_cast<size_t>(r);
      scratch_.k_stored[i] = static_cast<int32_t>(stored_for(head_.k, row_position(r)));
      scratch_.v_stored[i] = static_cast<int32_t>(stored_for(head_.v, row_position(r)));
    }
  }

  // Sides without windows are all in pages; that a row sees none beyond itself is the mask's
  // business.
  int64_t stored_for(const SideView& side, int64_t position) const {
    if (side.window == SideWindow::kNone) return std::numeric_limits<int32_t>::max();
    return view_.stored_for(side, position);
  }

  void run_span(const Span& span) {
    for (Form* form : {&scratch_.stored, &scratch_.exact}) {
      std::fill_n(form->has_keys, kSpanTiles, false);
      std::fill_n(form->has_values, kSpanTiles, false);
    }
    for (int64_t strip = 0; strip < num_strips_; ++strip) run_strip(span, strip * kStripRows);
  }

  // Per row of a strip, how many of the span's tokens come before some limit.
  struct Limits {
    int32_t count[kStripRows];
    int32_t least() const { return *std::min_element(count, count + kStripRows); }
    int32_t most() const { return *std::max_element(count, count + kStripRows); }
  };

  template <typename Limit>
  static Limits limits(const Span& span, const Limit& limit) {
    Limits result;
    for (int32_t i = 0; i < kStripRows; ++i) {
      result.count[i] =
          static_cast<int32_t>(std::clamp<int64_t>(limit(i) - span.first, 0, kSpanTokens));
    }
    return result;
  }

  Limits visible_limits(const Span& span, int64_t row) const {
    return limits(span, [&](int64_t i) {
      const int64_t seen = row_position(row + i) + 1;
      return span.prefix ? std::min(seen, prefix_tokens(view_)) : seen - view_.intact_prefix;
    });
  }

  Limits stored_limits(const Span& span, const std::vector<int32_t>& stored, int64_t row) const {
    return limits(span, [&](int64_t i) -> int64_t {
      return span.prefix ? 0 : stored[static_cast<size_t>(row + i)];
    });
  }

  void run_strip(const Span& span, int64_t row) {
    const Limits visible = visible_limits(span, row);
    const int32_t num_tiles =
        std::min(span.num_tiles, ceil_div<int32_t>(visible.most(), kTileTokens));
    // Rows stand in ascending order: what is behind the first one's window is behind every one's.
    if (num_tiles == 0 || rules_.first_seen(row_position(row)) >= span_end(span)) return;
    score(span, row, num_tiles);
    if (!plain_) apply_rules(span, row, visible);
    const bool masked = visible.least() < num_tiles * kTileTokens;
    float factors[kStripRows];
    kernels_.softmax(scratch_.scores.data(), num_tiles, masked ? visible.count : nullptr,
                     scratch_.states.data() + row, factors, scratch_.p.data());
    add_values(span, row, num_tiles, factors);
  }

  int64_t first_position(const Span& span) const {
    return span.prefix ? span.first : span.first + view_.intact_prefix;
  }
  int64_t span_end(const Span& span) const {
    return first_position(span) + span.num_tiles * kTileTokens;
  }

  void apply_rules(const Span& span, int64_t row, const Limits& visible) {
    for (int32_t i = 0; i < kStripRows; ++i) {
      rules_.apply(scratch_.scores.data() + i * kSpanTokens, visible.count[i], first_position(span),
                   row_position(row + i), task_.head * group_ + (row + i) % group_);
    }
  }

  // Each row sees the first `stored` tokens as they are in the pages, the others exactly; the
  // boundary moves from row to row, so tiles near it are computed in both forms.
  void score(const Span& span, int64_t row, int32_t num_tiles) {
    const Limits stored = stored_limits(span, scratch_.k_stored, row);
    const int32_t first_exact = std::min(num_tiles, stored.least() / kTileTokens);
    const int32_t stored_end = std::min(num_tiles, ceil_div(stored.most(), kTileTokens));
    const BFloat16* q = scratch_.q.data() + row * padded_dim_;
    float* scores = scratch_.scores.data();
    if (stored_end > 0) {
      kernels_.scores(q, padded_dim_, stored_keys(span, 0, stored_end), stored_end, scores);
    }
    if (first_exact == num_tiles) return;
    const int32_t both = stored_end - first_exact;  // tiles in both forms; none if negative
    const BFloat16* keys = exact_keys(span, first_exact, num_tiles);
    if (both <= 0) {
      kernels_.scores(q, padded_dim_, keys, num_tiles - first_exact,
                      scores + first_exact * kTileTokens);
      return;
    }
    float* exact = scratch_.exact_scores.data();
    kernels_.scores(q, padded_dim_, keys, num_tiles - first_exact, exact);
    Limits relative = stored;
    for (int32_t& count : relative.count) count -= first_exact * kTileTokens;
    kernels_.blend(exact, relative.count, num_tiles - first_exact,
                   scores + first_exact * kTileTokens);
  }

  void add_values(const Span& span, int64_t row, int32_t num_tiles, const float* factors) {
    const Limits stored = stored_limits(span, scratch_.v_stored, row);
    const int32_t first_exact = std::min(num_tiles, stored.least() / kTileTokens);
    const int32_t stored_end = std::min(num_tiles, ceil_div(stored.most(), kTileTokens));
    BFloat16* p = scratch_.p.data();
    const BFloat16* exact_p = p + first_exact * kTileTokens;
    if (stored_end > first_exact) {
      // Two masked products: of what a row sees in the pages, and of what it sees exactly.
      Limits relative = stored;
      for (int32_t& count : relative.count) count -= first_exact * kTileTokens;
      kernels_.split(relative.count, num_tiles - first_exact, p + first_exact * kTileTokens,
                     scratch_.rest.data());
      exact_p = scratch_.rest.data();
    }
    float* acc = scratch_.acc.data() + row * padded_dim_;
    if (stored_end > 0) {
      kernels_.accumulate(p, stored_end, stored_values(span, stored_end), padded_dim_, factors,
                          acc);
      factors = nullptr;
    }
    if (first_exact < num_tiles) {
      kernels_.accumulate(exact_p, num_tiles - first_exact,
                          exact_values(span, first_exact, num_tiles), padded_dim_, factors, acc);
    }
  }

  // The span's tiles [first, last) in one form, made where no strip before has asked for them.

  const BFloat16* stored_keys(const Span& span, int32_t first, int32_t last) {
    Form& form = scratch_.stored;
    for (int32_t tile = first; tile < last; ++tile) {
      if (std::exchange(form.has_keys[tile], true)) continue;
      BFloat16* out = form.keys.data() + tile * tile_elements_;
      const auto [side, in_page] = place(head_.k, span, tile);
      if (head_.k.layout->packed()) {
        tiles_.unpack_keys(*head_.k.layout, side, in_page, scratch_.tile.data());
        kernels_.pair_rows(scratch_.tile.data(), padded_dim_, kTileTokens, out);
      } else {
        round_page_rows(head_.k, side, in_page);
        kernels_.keys_from_rows(scratch_.rows.data(), padded_dim_, out);
      }
    }
    return form.keys.data() + first * tile_elements_;
  }

  const BFloat16* stored_values(const Span& span, int32_t last) {
    Form& form = scratch_.stored;
    for (int32_t tile = 0; tile < last; ++tile) {
      if (std::exchange(form.has_values[tile], true)) continue;
      BFloat16* out = form.values.data() + tile * tile_elements_;
      const auto [side, in_page] = place(head_.v, span, tile);
      if (head_.v.layout->packed()) {
        tiles_.unpack_values(*head_.v.layout, side, in_page, scratch_.tile.data(), padded_dim_);
        kernels_.pair_rows(scratch_.tile.data(), kTileTokens, padded_dim_, out);
      } else {
        round_page_rows(head_.v, side, in_page);
        kernels_.values_from_rows(scratch_.rows.data(), padded_dim_, out);
      }
    }
    return form.values.data();
  }

  const BFloat16* exact_keys(const Span& span, int32_t first, int32_t last) {
    Form& form = scratch_.exact;
    for (int32_t tile = first; tile < last; ++tile) {
      if (std::exchange(form.has_keys[tile], true)) continue;
      gather_exact(head_.k, span, tile);
      kernels_.keys_from_rows(scratch_.rows.data(), padded_dim_,
                              form.keys.data() + tile * tile_elements_);
    }
    return form.keys.data() + first * tile_elements_;
  }

  const BFloat16* exact_values(const Span& span, int32_t first, int32_t last) {
    Form& form = scratch_.exact;
    for (int32_t tile = first; tile < last; ++tile) {
      if (std::exchange(form.has_values[tile], true)) continue;
      gather_exact(head_.v, span, tile);
      kernels_.values_from_rows(scratch_.rows.data(), padded_dim_,
                                form.values.data() + tile * tile_elements_);
    }
    return form.values.data() + first * tile_elements_;
  }

  struct Place {
    const std::byte* side;
    int32_t tile;
  };
  Place place(const SideView& side, const Span& span, int32_t tile) const {
    const int64_t first = span.first + tile * kTileTokens;
    return {head_.page(first / kPageTokens) + side.page_offset,
            static_cast<int32_t>(first % kPageTokens / kTileTokens)};
  }

  void round_page_rows(const SideView& side, const std::byte* page, int32_t tile) {
    const auto* rows =
        reinterpret_cast<const Half*>(page + tile * kTileTokens * side.layout->row_bytes());
    kernels_.round_halves(rows, kTileTokens, head_dim_, scratch_.rows.data(), padded_dim_);
  }

  // The exact rows of one tile's tokens; those that are nowhere exact are zero, and get no weight.
  void gather_exact(const SideView& side, const Span& span, int32_t tile) {
    const int64_t first = span.first + tile * kTileTokens;
    std::fill_n(scratch_.rows.begin(), tile_elements_, BFloat16{});
    const auto take = [&](const ExactRows& part) {
      const int64_t from = std::max(first, part.first);
      const int64_t to = std::min(first + kTileTokens, part.first + part.count);
      if (from >= to) return;
      const auto* rows = reinterpret_cast<const Half*>(part.rows) + (from - part.first) * head_dim_;
      kernels_.round_halves(rows, to - from, head_dim_,
                            scratch_.rows.data() + (from - first) * padded_dim_, padded_dim_);
    };
    if (span.prefix) {
      take(side.prefix);
    } else {
      for (const ExactRows& part : side.exact) take(part);
    }
  }

  const PrefillBf16Kernels& kernels_;
  const TileKernels& tiles_;
  PrefillBf16Scratch& scratch_;
  const LayerView& view_;
  const HeadView& head_;
  const AttendTask& task_;
  const ScoreRules rules_;
  const bool plain_;  // no rules
  const int32_t num_qo_heads_;
  const int32_t group_;
  const int32_t head_dim_;
  const int32_t padded_dim_;
  const int64_t tile_elements_;
  const int64_t num_rows_;
  const int64_t num_strips_;
};

}  // namespace

void PrefillBf16Scratch::resize(int64_t num_rows, int64_t padded_dim) {
  const auto grow = [](auto& v, int64_t size) {
    if (std::ssize(v) < size) v.resize(static_cast<size_t>(size));
  };
  const int64_t tile_elements = kTileTokens * padded_dim;
  grow(q, num_rows * padded_dim);
  grow(acc, num_rows * padded_dim);
  grow(states, num_rows);
  grow(k_stored, num_rows);
  grow(v_stored, num_rows);
  grow(rows, tile_elements);
  grow(tile, tile_elements);
  for (auto* form : {&stored, &exact}) {
    grow(form->keys, kSpanTiles * tile_elements);
    grow(form->values, kSpanTiles * tile_elements);
  }
  for (auto* v : {&p, &rest}) grow(*v, kStripRows * kSpanTokens);
  for (auto* v : {&scores, &exact_scores}) grow(*v, kStripRows * kSpanTokens);
}

const PrefillBf16Kernels* prefill_bf16_kernels(Isa isa) {
  return isa == Isa::kAvx512 && cpu_features().avx512_bf16 ? prefill_bf16_kernels_avx512()
                                                           : nullptr;
}

bool suits_bf16(const HeadView& head) {
  return head.k.layout->bits() != 32 && head.v.layout->bits() != 32;
}

void run_prefill_bf16_task(const AttendArgs& args, const PrefillBf16Kernels& kernels,
                           const TileKernels& tiles, PrefillBf16Scratch& scratch,
                           const AttendTask& task) {
  Bf16BlockRunner(args, kernels, tiles, scratch, task).run();
}

}  // namespace lowkey
