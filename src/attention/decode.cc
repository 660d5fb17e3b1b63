#include "attention/decode.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/checked.h"

namespace lowkey {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

int64_t prefix_pages(const LayerView& view) {
  return ceil_div<int64_t>(prefix_tokens(view), kPageTokens);
}

class DecodeRunner {
 public:
  DecodeRunner(const AttendArgs& args, const DecodeKernels& kernels,
               const TileKernels& tile_kernels, DecodeScratch& scratch, const AttendTask& task)
      : kernels_(kernels),
        tile_kernels_(tile_kernels),
        scratch_(scratch),
        view_(*task.item->view),
        task_(task),
        dots_(args.decode_dots),
        group_(args.num_qo_heads / static_cast<int32_t>(view_.heads.size())),
        head_dim_(view_.head_dim),
        padded_dim_(round_up<int32_t>(view_.head_dim, kLanes)),
        prefix_pages_(prefix_pages(view_)) {
    load_queries(args);
  }

  // Pages outside, heads inside: the order of memory.
  void run() {
    for (int64_t page = task_.first_unit; page < task_.last_unit; ++page) {
      for (int32_t head = 0; head < task_.num_heads; ++head) {
        take_head(head, page);
        for (int64_t query = task_.first_query; query < task_.last_query; ++query) {
          const int64_t position = view_.position + query;
          if (page >= decode_pages_seen(view_, position)) continue;
          const auto row =
              static_cast<int32_t>(((query - task_.first_query) * task_.num_heads + head) * group_);
          for (int32_t r = 0; r < group_; r += kMaxDecodeRows) {
            const int32_t rows = std::min(kMaxDecodeRows, group_ - r);
            if (page < prefix_pages_) {
              prefix_page(page * kPageTokens, position, row + r, rows);
            } else {
              cache_page(page - prefix_pages_, position, row + r, rows);
            }
          }
        }
      }
    }
  }

 private:
  void load_queries(const AttendArgs& args) {
    const int32_t width = task_.num_heads * group_;
    const auto rows = static_cast<int32_t>((task_.last_query - task_.first_query) * width);
    scratch_.resize(rows, head_dim_);
    queries_ = {scratch_.q.data(),
                scratch_.fixed.data(),
                scratch_.unit.data(),
                scratch_.weights.data(),
                scratch_.weights8.data(),
                scratch_.unit8.data(),
                padded_dim_,
                round_up<int32_t>(head_dim_, kFixedLanes)};
    for (int32_t r = 0; r < rows; ++r) {
      const int64_t query = task_.first_query + r / width;
      const int64_t head = int64_t{task_.head} * group_ + r % width;
      const float* from = task_.item->q + (query * args.num_qo_heads + head) * head_dim_;
      float* to = scratch_.q.data() + r * padded_dim_;
      for (int32_t c = 0; c < head_dim_; ++c) to[c] = from[c] * args.scale;
      std::fill(to + head_dim_, to + padded_dim_, 0.0f);
    }
    std::fill_n(scratch_.acc.begin(), rows * padded_dim_, 0.0f);
    std::fill_n(scratch_.states.begin(), rows, SoftmaxState{kMinusInfinity, 0.0f});
    kernels_.prepare_queries(queries_, rows);
  }

  void take_head(int32_t head, int64_t page) {
    head_ = &view_.heads[static_cast<size_t>(task_.head + head)];
    k_packed_ = head_->k.layout->packed();
    v_packed_ = head_->v.layout->packed();
    if (task_.num_heads > 1 || page == task_.first_unit) {
      k_direct_ = kernels_.supports(*head_->k.layout);
      v_direct_ = kernels_.supports(*head_->v.layout);
    }
    const bool last = head + 1 == task_.num_heads;
    const HeadView& next = view_.heads[static_cast<size_t>(task_.head + (last ? 0 : head + 1))];
    const int64_t next_page = page - prefix_pages_ + (last ? 1 : 0);
    next_page_ = {};
    if (next_page >= 0 && next_page < next.num_pages) {
      next_page_ = {next.pages[next_page].data(), static_cast<int32_t>(next.k.layout->bytes())};
    }
  }

  // The values of the page whose keys are being read.
  ReadAhead values_of(int64_t page) const {
    const SideView& side = head_->v;
    return {head_->pages[page].data() + side.page_offset,
            static_cast<int32_t>(side.layout->bytes())};
  }

  // Page `page` after the prefix: the query sees its first tokens packed (or as rows of a 16- or
  // 32-bit page), the others exactly.
  void cache_page(int64_t page, int64_t position, int32_t first_row, int32_t rows) {
    const int64_t first = page * kPageTokens;
    const int64_t visible =
        std::min<int64_t>(kPageTokens, position - view_.intact_prefix + 1 - first);
    const int64_t k_stored = std::clamp<int64_t>(stored(head_->k, position) - first, 0, visible);
    const int64_t v_stored = std::clamp<int64_t>(stored(head_->v, position) - first, 0, visible);
    float* scores = scratch_.scores.data();

    if (k_stored > 0) score_stored(page, k_stored, first_row, rows, scores);
    for_exact_parts(head_->k, first + k_stored, first + visible,
                    [&](const std::byte* keys, bool is_f32, int64_t from, int64_t count) {
                      kernels_.score_rows(keys, is_f32, count, head_dim_, queries_, first_row, rows,
                                          {}, scores + (from - first));
                    });
    softmax(visible, first_row, rows);
    float* acc = scratch_.acc.data() + first_row * padded_dim_;
    if (v_stored > 0) add_stored(page, v_stored, scores, rows, acc);
    for_exact_parts(head_->v, first + v_stored, first + visible,
                    [&](const std::byte* values, bool is_f32, int64_t from, int64_t count) {
                      kernels_.add_rows(values, is_f32, count, head_dim_, scores + (from - first),
                                        factor_.data(), rows, {}, acc, padded_dim_);
                    });
  }

  // view_.stored_for(), which divides: once per query and kind of window.
  int64_t stored(const SideView& side, int64_t position) {
    Stored& known = stored_[static_cast<size_t>(side.window)];
    if (known.position != position) known = {position, view_.stored_for(side, position)};
    return known.count;
  }

  void score_stored(int64_t page, int64_t count, int32_t first_row, int32_t rows, float* scores) {
    const SideView& side = head_->k;
    const std::byte* data = head_->pages[page].data() + side.page_offset;
    if (!k_packed_) {
      kernels_.score_rows(data, side.layout->bits() == 32, count, head_dim_, queries_, first_row,
                          rows, {}, scores);
      return;
    }
    const auto tiles = static_cast<int32_t>(ceil_div<int64_t>(count, kTileTokens));
    if (k_direct_) {
      kernels_.score_packed(*side.layout, data, tiles, queries_, first_row, rows, dots_,
                            {scratch_.buffer.data()}, values_of(page), scores);
      return;
    }
    const float* q = scratch_.q.data() + first_row * padded_dim_;
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

  void add_stored(int64_t page, int64_t count, const float* p, int32_t rows, float* acc) {
    const SideView& side = head_->v;
    const std::byte* data = head_->pages[page].data() + side.page_offset;
    if (!v_packed_) {
      kernels_.add_rows(data, side.layout->bits() == 32, count, head_dim_, p, factor_.data(), rows,
                        {}, acc, padded_dim_);
      return;
    }
    if (v_direct_) {
      kernels_.add_packed(*side.layout, data, static_cast<int32_t>(count), p, factor_.data(), rows,
                          dots_, {scratch_.buffer.data()}, next_page_, acc, padded_dim_);
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
    kernels_.score_rows(at(head_->k), head_->k.layout->bits() == 32, visible, head_dim_, queries_,
                        first_row, rows, {}, scratch_.scores.data());
    softmax(visible, first_row, rows);
    kernels_.add_rows(at(head_->v), head_->v.layout->bits() == 32, visible, head_dim_,
                      scratch_.scores.data(), factor_.data(), rows, {},
                      scratch_.acc.data() + first_row * padded_dim_, padded_dim_);
  }

  void softmax(int64_t visible, int32_t first_row, int32_t rows) {
    for (int32_t r = 0; r < rows; ++r) {
      factor_[static_cast<size_t>(r)] =
          kernels_.softmax_page(scratch_.scores.data() + r * kPageTokens, visible,
                                &scratch_.states[static_cast<size_t>(first_row + r)],
                                scratch_.acc.data() + (first_row + r) * padded_dim_, padded_dim_);
    }
  }

  const DecodeKernels& kernels_;
  const TileKernels& tile_kernels_;
  DecodeScratch& scratch_;
  const LayerView& view_;
  const AttendTask& task_;
  const DecodeDots dots_;
  const int32_t group_;
  const int32_t head_dim_;
  const int32_t padded_dim_;
  const int64_t prefix_pages_;
  const HeadView* head_ = nullptr;  // the current one
  ReadAhead next_page_;             // keys of the page after the current one
  bool k_packed_ = false, v_packed_ = false;
  bool k_direct_ = false, v_direct_ = false;  // straight from codes; else through tiles of floats
  DecodeQueries queries_;
  struct Stored {
    int64_t position = -1;
    int64_t count = 0;
  };
  std::array<Stored, 3> stored_;  // by SideWindow
  std::array<float, kMaxDecodeRows> factor_{};
};

}  // namespace

int64_t decode_pages_seen(const LayerView& view, int64_t position) {
  const int64_t after = position + 1 - prefix_tokens(view);
  return prefix_pages(view) + (after > 0 ? ceil_div<int64_t>(after, kPageTokens) : 0);
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

void run_decode_task(const AttendArgs& args, const DecodeKernels& kernels,
                     const TileKernels& tile_kernels, DecodeScratch& scratch,
                     const AttendTask& task) {
  DecodeRunner(args, kernels, tile_kernels, scratch, task).run();
}

}  // namespace lowkey
