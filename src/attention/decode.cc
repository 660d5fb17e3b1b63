#include "attention/decode.h"

#include <algorithm>
#include <array>
#include <limits>

#include "attention/score_rules.h"
#include "core/checked.h"

namespace lowkey {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

class DecodeRunner {
 public:
  DecodeRunner(const AttendArgs& args, const DecodeKernels& kernels,
               const TileKernels& tile_kernels, DecodeScratch& scratch, const AttendTask& task,
               const DecodeSums& partial)
      : kernels_(kernels),
        tile_kernels_(tile_kernels),
        scratch_(scratch),
        view_(*task.item->view),
        task_(task),
        rules_(args, view_),
        plain_(rules_.none()),
        dots_(args.decode_dots),
        num_qo_heads_(args.num_qo_heads),
        group_(args.num_qo_heads / static_cast<int32_t>(view_.heads.size())),
        head_dim_(view_.head_dim),
        padded_dim_(round_up<int32_t>(view_.head_dim, kLanes)),
        prefix_pages_(decode_prefix_pages(view_)) {
    if (scratch_.ready != task.item) {
      load_heads();
      load_queries(args);
      scratch_.ready = task.item;
    }
    queries_ = queries();
    sums_ = partial.acc ? partial : DecodeSums{scratch.states.data(), scratch.acc.data()};
    const auto rows =
        static_cast<size_t>(task.last_query - task.first_query) * task.num_heads * group_;
    std::fill_n(sums_.acc, rows * static_cast<size_t>(padded_dim_), 0.0f);
    std::fill_n(sums_.states, rows, SoftmaxState{kMinusInfinity, 0.0f});
    find_pages();
  }

  // Blocks of pages that lie one after the other, in them heads, in them pages: the order of
  // memory. What was allocated page by page has blocks of one page.
  DecodeSums run() {
    for (int64_t page = task_.first_unit, next; page < task_.last_unit; page = next) {
      next = block_end(page);
      for (int32_t head = 0; head < task_.num_heads; ++head) {
        head_ = &scratch_.heads[static_cast<size_t>(int64_t{task_.head} + head)];
        for (int64_t p = page; p < next; ++p) head_page(p, head);
      }
    }
    return sums_;
  }

 private:
  void load_heads() {
    scratch_.heads.clear();
    const auto side = [&](const SideView& view) {
      return DecodeHead::Side{view.layout, static_cast<int32_t>(view.page_offset), view.window,
                              view.layout->packed(), kernels_.supports(*view.layout)};
    };
    for (const HeadView& view : view_.heads) {
      scratch_.heads.push_back({side(view.k), side(view.v), &view});
    }
  }

  // Of all heads and tokens of the step: tasks of other heads follow.
  void load_queries(const AttendArgs& args) {
    const auto rows = static_cast<int32_t>(view_.num_tokens * args.num_qo_heads);
    scratch_.resize(rows, head_dim_);
    for (int32_t r = 0; r < rows; ++r) {
      const float* from = task_.item->q + int64_t{r} * head_dim_;
      float* to = scratch_.q.data() + int64_t{r} * padded_dim_;
      for (int32_t c = 0; c < head_dim_; ++c) to[c] = from[c] * args.scale;
      std::fill(to + head_dim_, to + padded_dim_, 0.0f);
    }
    const auto packed = [](const DecodeHead& head) { return head.k.packed; };
    if (std::any_of(scratch_.heads.begin(), scratch_.heads.end(), packed)) {
      kernels_.prepare_queries(queries(), rows, dots_);
    }
  }

  DecodeQueries queries() const {
    return {scratch_.q.data(),
            scratch_.fixed.data(),
            scratch_.unit.data(),
            scratch_.weights.data(),
            scratch_.weights8.data(),
            scratch_.unit8.data(),
            padded_dim_,
            round_up<int32_t>(head_dim_, kFixedLanes)};
  }

  const std::byte* page_of(int64_t page, int32_t head) const {
    return scratch_.pages[static_cast<size_t>((page - first_page_) * task_.num_heads + head)];
  }

  // The page after the block of `page`, going by the first head's.
  int64_t block_end(int64_t page) const {
    int64_t end = page + 1;
    if (page < prefix_pages_ || task_.num_heads == 1) return end;
    const HeadView& head = view_.heads[static_cast<size_t>(task_.head)];
    const int64_t bytes =
        head.v.page_offset + round_up<int64_t>(head.v.layout->bytes(), kPageAlignment);
    while (end < task_.last_unit && end - page < kBlockPages &&
           page_of(end, 0) == page_of(end - 1, 0) + bytes) {
      ++end;
    }
    return end;
  }

  void head_page(int64_t page, int32_t head) {
    for (int64_t query = task_.first_query; query < task_.last_query; ++query) {
      const int64_t position = view_.position + query;
      if (page >= decode_pages_seen(view_, position)) continue;
      if (!plain_ && page < first_unit_seen(view_, position, kPageTokens)) continue;
      const auto row =
          static_cast<int32_t>(((query - task_.first_query) * task_.num_heads + head) * group_);
      query_row_ = static_cast<int32_t>(
          (query * std::ssize(view_.heads) + task_.head + head) * group_ - row);
      for (int32_t r = 0; r < group_; r += kMaxDecodeRows) {
        const int32_t rows = std::min(kMaxDecodeRows, group_ - r);
        if (page < prefix_pages_) {
          prefix_page(page * kPageTokens, position, row + r, rows);
        } else {
          page_ = page_of(page, head);
          cache_page(page - prefix_pages_, position, row + r, rows);
        }
      }
    }
  }

  // Where the pages lie, all at once: reading one must not wait for the look-up of its address.
  void find_pages() {
    first_page_ = std::max(task_.first_unit, prefix_pages_);
    scratch_.pages.clear();
    for (int64_t page = first_page_; page < task_.last_unit; ++page) {
      for (int32_t i = 0; i < task_.num_heads; ++i) {
        const HeadView& head = view_.heads[static_cast<size_t>(int64_t{task_.head} + i)];
        const int64_t p = page - prefix_pages_;
        scratch_.pages.push_back(head.holds(p) ? head.page(p) : nullptr);
      }
    }
  }

  // Page `page` after the prefix: the query sees its first tokens packed (or as rows of a 16- or
  // 32-bit page), the others exactly.
  void cache_page(int64_t page, int64_t position, int32_t first_row, int32_t rows) {
    const int64_t first = page * kPageTokens;
    const int64_t k_stored = stored(head_->k, position) - first;
    const int64_t v_stored = stored(head_->v, position) - first;
    float* scores = scratch_.scores.data();
    float* acc = sums_.acc + first_row * padded_dim_;
    if (std::min(k_stored, v_stored) >= kPageTokens) {
      score_stored(kPageTokens, first_row, rows, scores);
      softmax(first + view_.intact_prefix, kPageTokens, position, first_row, rows);
      add_stored(kPageTokens, scores, rows, acc);
    } else {
      const int64_t visible =
          std::min<int64_t>(kPageTokens, position - view_.intact_prefix + 1 - first);
      last_page(first, visible, position, std::clamp<int64_t>(k_stored, 0, visible),
                std::clamp<int64_t>(v_stored, 0, visible), first_row, rows, scores, acc);
    }
  }

  void last_page(int64_t first, int64_t visible, int64_t position, int64_t k_stored,
                 int64_t v_stored, int32_t first_row, int32_t rows, float* scores, float* acc) {
    if (k_stored > 0) score_stored(k_stored, first_row, rows, scores);
    for_exact_parts(head_->view->k, first + k_stored, first + visible,
                    [&](const std::byte* keys, bool is_f32, int64_t from, int64_t count) {
                      kernels_.score_rows(keys, is_f32, count, head_dim_, queries_,
                                          query_row_ + first_row, rows, scores + (from - first));
                    });
    softmax(first + view_.intact_prefix, visible, position, first_row, rows);
    if (v_stored > 0) add_stored(v_stored, scores, rows, acc);
    for_exact_parts(head_->view->v, first + v_stored, first + visible,
                    [&](const std::byte* values, bool is_f32, int64_t from, int64_t count) {
                      kernels_.add_rows(values, is_f32, count, head_dim_, scores + (from - first),
                                        factor_.data(), rows, acc, padded_dim_);
                    });
  }

  // view_.stored_for(), which divides: once per query and kind of window.
  int64_t stored(const DecodeHead::Side& side, int64_t position) {
    Stored& known = stored_[static_cast<size_t>(side.window)];
    if (known.position != position) {
      const HeadView& view = *head_->view;
      const SideView& same = &side == &head_->k ? view.k : view.v;
      known = {position, view_.stored_for(same, position)};
    }
    return known.count;
  }

  void score_stored(int64_t count, int32_t first_row, int32_t rows, float* scores) {
    const DecodeHead::Side& side = head_->k;
    const std::byte* data = page_ + side.offset;
    if (!side.packed) {
      kernels_.score_rows(data, side.layout->bits() == 32, count, head_dim_, queries_,
                          query_row_ + first_row, rows, scores);
      return;
    }
    const auto tiles = static_cast<int32_t>(ceil_div<int64_t>(count, kTileTokens));
    if (side.direct) {
      kernels_.score_packed(*side.layout, data, tiles, queries_, query_row_ + first_row, rows,
                            dots_, {scratch_.buffer.data()}, scores);
      return;
    }
    const float* q = scratch_.q.data() + (query_row_ + first_row) * padded_dim_;
    float* sums = scratch_.tile_scores.data();
    for (int32_t tile = 0; tile < tiles; ++tile) {
      tile_kernels_.unpack_keys(*side.layout, data, tile, scratch_.tile.data());
      tile_kernels_.scores(q, rows, scratch_.tile.data(), head_dim_, padded_dim_, sums);
      for (int32_t r = 0; r < rows; ++r) {
        std::copy_n(sums + r * kTileTokens, kTileTokens,
                    scores + r * kPageTokens + tile * kTileTokens);
      }
    }
  }

  void add_stored(int64_t count, const float* p, int32_t rows, float* acc) {
    const DecodeHead::Side& side = head_->v;
    const std::byte* data = page_ + side.offset;
    if (!side.packed) {
      kernels_.add_rows(data, side.layout->bits() == 32, count, head_dim_, p, factor_.data(), rows,
                        acc, padded_dim_);
      return;
    }
    if (side.direct) {
      kernels_.add_packed(*side.layout, data, static_cast<int32_t>(count), p, factor_.data(), rows,
                          dots_, {scratch_.buffer.data()}, acc, padded_dim_);
      return;
    }
    float* weights = scratch_.tile_scores.data();
    for (int32_t tile = 0; tile < ceil_div<int64_t>(count, kTileTokens); ++tile) {
      tile_kernels_.unpack_values(*side.layout, data, tile, scratch_.tile.data(), padded_dim_);
      for (int32_t r = 0; r < rows; ++r) {
        for (int32_t t = 0; t < kTileTokens; ++t) {
          const int32_t token = tile * kTileTokens + t;
          weights[r * kTileTokens + t] =
              token < count ? factor_[static_cast<size_t>(r)] * p[r * kPageTokens + token] : 0.0f;
        }
      }
      tile_kernels_.accumulate(weights, rows, scratch_.tile.data(), padded_dim_, acc);
    }
  }

  // Exact rows of tokens [from, to) after the prefix, wherever they lie.
  template <typename Visit>
  void for_exact_parts(const SideView& side, int64_t from, int64_t to, Visit visit) {
    if (from >= to || side.window == SideWindow::kNone) return;
    const bool is_f32 = side.layout->bits() == 32;
    const int64_t row_bytes = int64_t{head_dim_} * (is_f32 ? 4 : 2);
    for (const ExactRows& part : side.exact) {
      const int64_t first = std::max(from, part.first);
      const int64_t last = std::min(to, part.first + part.count);
      if (first < last) {
        visit(part.rows + (first - part.first) * row_bytes, is_f32, first, last - first);
      }
    }
  }

  // Tokens [first, first + kPageTokens) of the intact prefix.
  void prefix_page(int64_t first, int64_t position, int32_t first_row, int32_t rows) {
    const int64_t visible =
        std::min({int64_t{kPageTokens}, prefix_tokens(view_) - first, position + 1 - first});
    const auto at = [&](const SideView& side) {
      const bool is_f32 = side.layout->bits() == 32;
      return side.prefix.rows + first * head_dim_ * (is_f32 ? 4 : 2);
    };
    const SideView &k = head_->view->k, &v = head_->view->v;
    kernels_.score_rows(at(k), k.layout->bits() == 32, visible, head_dim_, queries_,
                        query_row_ + first_row, rows, scratch_.scores.data());
    softmax(first, visible, position, first_row, rows);
    kernels_.add_rows(at(v), v.layout->bits() == 32, visible, head_dim_, scratch_.scores.data(),
                      factor_.data(), rows, sums_.acc + first_row * padded_dim_, padded_dim_);
  }

  // first: position of the page's first token; `visible`: tokens up to the query's own.
  void softmax(int64_t first, int64_t visible, int64_t position, int32_t first_row, int32_t rows) {
    if (!plain_) {
      for (int32_t r = 0; r < rows; ++r) {
        rules_.apply(scratch_.scores.data() + r * kPageTokens, visible, first, position,
                     (query_row_ + first_row + r) % num_qo_heads_);
      }
    }
    for (int32_t r = 0; r < rows; ++r) {
      factor_[static_cast<size_t>(r)] = kernels_.softmax_page(
          scratch_.scores.data() + r * kPageTokens, visible, &sums_.states[first_row + r],
          sums_.acc + (first_row + r) * padded_dim_, padded_dim_);
    }
  }

  const DecodeKernels& kernels_;
  const TileKernels& tile_kernels_;
  DecodeScratch& scratch_;
  const LayerView& view_;
  const AttendTask& task_;
  const ScoreRules rules_;
  const bool plain_;  // no rules
  const DecodeDots dots_;
  const int32_t num_qo_heads_;
  const int32_t group_;
  const int32_t head_dim_;
  const int32_t padded_dim_;
  const int64_t prefix_pages_;
  int64_t first_page_ = 0;            // of scratch_.pages
  const DecodeHead* head_ = nullptr;  // the current one
  const std::byte* page_ = nullptr;   // the current one
  DecodeQueries queries_;
  DecodeSums sums_;
  int32_t query_row_ = 0;  // what to add to a row of sums for its row of queries
  struct Stored {
    int64_t position = -1;
    int64_t count = 0;
  };
  std::array<Stored, 3> stored_;  // by SideWindow
  std::array<float, kMaxDecodeRows> factor_{};
};

}  // namespace

int64_t decode_prefix_pages(const LayerView& view) {
  return ceil_div<int64_t>(prefix_tokens(view), kPageTokens);
}

int64_t decode_pages_seen(const LayerView& view, int64_t position) {
  const int64_t prefix = prefix_tokens(view);
  if (position < prefix) return position / kPageTokens + 1;  // a step may end pages further on
  return decode_prefix_pages(view) + ceil_div<int64_t>(position + 1 - prefix, kPageTokens);
}

void DecodeScratch::resize(int64_t rows, int64_t head_dim) {
  auto grow = [](auto& v, int64_t size) {
    if (v.size() < static_cast<size_t>(size)) v.resize(static_cast<size_t>(size));
  };
  const int64_t padded = round_up<int64_t>(head_dim, kLanes);
  const int64_t fixed_dim = round_up<int64_t>(head_dim, kFixedLanes);
  for (auto* v : {&q, &acc}) grow(*v, rows * padded);
  for (auto* v : {&unit, &unit8}) grow(*v, rows);
  grow(states, rows);
  grow(fixed, rows * fixed_dim);
  for (auto* v : {&weights, &weights8}) grow(*v, rows * fixed_dim / kFixedLanes * kWeightBytes);
  grow(buffer, decode_buffer_bytes(static_cast<int32_t>(head_dim)));
  grow(scores, int64_t{kMaxDecodeRows} * kPageTokens);
  grow(tile, kTileTokens * padded);
  grow(tile_scores, int64_t{kMaxDecodeRows} * kTileTokens);
}

DecodeSums run_decode_task(const AttendArgs& args, const DecodeKernels& kernels,
                           const TileKernels& tile_kernels, DecodeScratch& scratch,
                           const AttendTask& task, const DecodeSums& partial) {
  return DecodeRunner(args, kernels, tile_kernels, scratch, task, partial).run();
}

}  // namespace lowkey
