#include "attention/prefill.h"

#include <algorithm>
#include <limits>

#include "attention/score_rules.h"
#include "core/checked.h"

namespace lowkey {
namespace {

// At most this many rows score exact keys row by row; more pay for a transposition.
constexpr int64_t kFewRows = 8;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// The exact rows of tokens [first, first + 32) as [32, padded_dim]; tokens that are nowhere exact
// are zero, and the caller gives them no weight.
void gather_exact(const TileKernels& kernels, const SideView& side, int64_t first, int32_t head_dim,
                  int32_t padded_dim, float* out) {
  const bool is_f32 = side.layout->bits() == 32;
  const int64_t row_bytes = static_cast<int64_t>(head_dim) * (is_f32 ? 4 : 2);
  std::fill(out, out + kTileTokens * padded_dim, 0.0f);
  for (const ExactRows& part : side.exact) {
    const int64_t from = std::max(first, part.first);
    const int64_t to = std::min(first + kTileTokens, part.first + part.count);
    if (from >= to) continue;
    kernels.widen_rows(part.rows + (from - part.first) * row_bytes, is_f32, to - from, head_dim,
                       out + (from - first) * padded_dim, padded_dim);
  }
}

class BlockRunner {
 public:
  BlockRunner(const AttendArgs& args, const TileKernels& kernels, PrefillScratch& scratch,
              const AttendTask& task)
      : kernels_(kernels),
        scratch_(scratch),
        view_(*task.item->view),
        head_(view_.heads[static_cast<size_t>(task.head)]),
        task_(task),
        rules_(args, view_),
        plain_(rules_.none()),
        num_qo_heads_(args.num_qo_heads),
        group_(args.num_qo_heads / static_cast<int32_t>(view_.heads.size())),
        head_dim_(view_.head_dim),
        padded_dim_(round_up<int32_t>(view_.head_dim, kLanes)),
        num_rows_((task.last_query - task.first_query) * group_),
        first_position_(view_.position + task.first_query) {
    scratch_.resize(num_rows_, padded_dim_);
    load_queries(args.scale);
  }

  void run() {
    const int64_t prefix = prefix_tiles(view_);
    for (int64_t tile = task_.first_unit; tile < task_.last_unit; ++tile) {
      if (tile < prefix) {
        prefix_tile(tile * kTileTokens);
      } else {
        cache_tile((tile - prefix) * kTileTokens);
      }
    }
  }

 private:
  // Row r is query r / group, head r % group of the KV head's group.
  int64_t row_position(int64_t r) const { return first_position_ + r / group_; }
  int64_t last_position() const { return first_position_ + (num_rows_ - 1) / group_; }

  void load_queries(float scale) {
    for (int64_t r = 0; r < num_rows_; ++r) {
      const int64_t query = task_.first_query + r / group_;
      const int64_t head = static_cast<int64_t>(task_.head) * group_ + r % group_;
      const float* from = task_.item->q + (query * num_qo_heads_ + head) * head_dim_;
      float* to = scratch_.q.data() + r * padded_dim_;
      for (int32_t c = 0; c < head_dim_; ++c) to[c] = from[c] * scale;
      std::fill(to + head_dim_, to + padded_dim_, 0.0f);
    }
    std::fill_n(scratch_.acc.begin(), num_rows_ * padded_dim_, 0.0f);
    std::fill_n(scratch_.states.begin(), num_rows_, SoftmaxState{kMinusInfinity, 0.0f});
  }

  void score_rows(const float* rows, float* scores) {
    if (num_rows_ <= kFewRows) {
      kernels_.scores_from_rows(scratch_.q.data(), num_rows_, rows, padded_dim_, scores);
      return;
    }
    kernels_.transpose(rows, padded_dim_, scratch_.keys_exact.data());
    kernels_.scores(scratch_.q.data(), num_rows_, scratch_.keys_exact.data(), head_dim_,
                    padded_dim_, scores);
  }

  // Scores of the tokens of a tile in stored form: packed codes, or rows of a 16- or 32-bit page.
  void score_stored(int64_t first, float* scores) {
    const SideView& side = head_.k;
    const std::byte* page = head_.page(first / kPageTokens) + side.page_offset;
    const auto tile = static_cast<int32_t>(first % kPageTokens / kTileTokens);
    if (side.layout->packed()) {
      kernels_.unpack_keys(*side.layout, page, tile, scratch_.keys.data());
      kernels_.scores(scratch_.q.data(), num_rows_, scratch_.keys.data(), head_dim_, padded_dim_,
                      scores);
      return;
    }
    widen_tile(side, page, tile, scratch_.rows.data());
    score_rows(scratch_.rows.data(), scores);
  }

  void load_stored_values(int64_t first) {
    const SideView& side = head_.v;
    const std::byte* page = head_.page(first / kPageTokens) + side.page_offset;
    const auto tile = static_cast<int32_t>(first % kPageTokens / kTileTokens);
    if (side.layout->packed()) {
      kernels_.unpack_values(*side.layout, page, tile, scratch_.values.data(), padded_dim_);
    } else {
      widen_tile(side, page, tile, scratch_.values.data());
    }
  }

  void widen_tile(const SideView& side, const std::byte* page, int32_t tile, float* out) {
    kernels_.widen_rows(page + tile * kTileTokens * side.layout->row_bytes(),
                        side.layout->bits() == 32, kTileTokens, head_dim_, out, padded_dim_);
  }

  // Tokens [first, first + 32) after the prefix. Each row sees the first `stored` of them packed,
  // the others exactly, and none beyond itself; the boundary moves from row to row, so a tile near
  // it is scored in both forms.
  void cache_tile(int64_t first) {
    const int64_t k_least = view_.stored_for(head_.k, first_position_);
    const int64_t k_most = view_.stored_for(head_.k, last_position());
    const int64_t v_least = view_.stored_for(head_.v, first_position_);
    const int64_t v_most = view_.stored_for(head_.v, last_position());
    const int64_t seen = last_position() - view_.intact_prefix + 1;  // by the last row
    const int64_t end = std::min<int64_t>(first + kTileTokens, seen);

    const bool k_stored = first < k_most;
    const bool k_exact = end > k_least && head_.k.window != SideWindow::kNone;
    float* scores = scratch_.scores.data();
    if (k_stored) score_stored(first, scores);
    if (k_exact) {
      float* exact = k_stored ? scratch_.scores_exact.data() : scores;
      gather_exact(kernels_, head_.k, first, head_dim_, padded_dim_, scratch_.rows.data());
      score_rows(scratch_.rows.data(), exact);
      if (k_stored) {
        for (int64_t r = 0; r < num_rows_; ++r) {
          const int64_t stored = view_.stored_for(head_.k, row_position(r));
          for (int64_t t = std::max<int64_t>(0, stored - first); t < kTileTokens; ++t) {
            scores[r * kTileTokens + t] = exact[r * kTileTokens + t];
          }
        }
      }
    }
    mask_and_softmax(first + view_.intact_prefix);

    const bool v_stored = first < v_most;
    const bool v_exact = end > v_least && head_.v.window != SideWindow::kNone;
    if (v_stored && v_exact) {
      // Two masked products: probabilities of tokens a row sees packed, and of those it sees
      // exactly.
      float* exact = scratch_.scores_exact.data();
      for (int64_t r = 0; r < num_rows_; ++r) {
        const int64_t stored =
            std::clamp<int64_t>(view_.stored_for(head_.v, row_position(r)) - first, 0, kTileTokens);
        float* row = scores + r * kTileTokens;
        for (int64_t t = 0; t < kTileTokens; ++t) {
          exact[r * kTileTokens + t] = t < stored ? 0.0f : row[t];
          if (t >= stored) row[t] = 0.0f;
        }
      }
      load_exact_values(first);
      accumulate(exact, scratch_.values_exact.data());
      load_stored_values(first);
      accumulate(scores, scratch_.values.data());
    } else if (v_stored) {
      load_stored_values(first);
      accumulate(scores, scratch_.values.data());
    } else {
      load_exact_values(first);
      accumulate(scores, scratch_.values_exact.data());
    }
  }

  void load_exact_values(int64_t first) {
    gather_exact(kernels_, head_.v, first, head_dim_, padded_dim_, scratch_.values_exact.data());
  }

  // Tokens [first, first + 32) of the intact prefix.
  void prefix_tile(int64_t first) {
    auto widen = [&](const SideView& side, float* out) {
      const bool is_f32 = side.layout->bits() == 32;
      const int64_t count = std::min<int64_t>(kTileTokens, side.prefix.count - first);
      const int64_t row_bytes = static_cast<int64_t>(head_dim_) * (is_f32 ? 4 : 2);
      std::fill(out, out + kTileTokens * padded_dim_, 0.0f);
      kernels_.widen_rows(side.prefix.rows + first * row_bytes, is_f32, count, head_dim_, out,
                          padded_dim_);
    };
    widen(head_.k, scratch_.rows.data());
    score_rows(scratch_.rows.data(), scratch_.scores.data());
    mask_and_softmax(first, prefix_tokens(view_));
    widen(head_.v, scratch_.values.data());
    accumulate(scratch_.scores.data(), scratch_.values.data());
  }

  // first: absolute position of the tile's first token. Tokens at or beyond `end`, after the row's
  // own or behind its window get no weight.
  void mask_and_softmax(int64_t first, int64_t end = std::numeric_limits<int64_t>::max()) {
    float* scores = scratch_.scores.data();
    for (int64_t r = 0; r < num_rows_; ++r) {
      const int64_t visible =
          std::clamp<int64_t>(std::min(row_position(r) + 1, end) - first, 0, kTileTokens);
      float* row = scores + r * kTileTokens;
      if (!plain_) {
        rules_.apply(row, visible, first, row_position(r), task_.head * group_ + r % group_);
      }
      std::fill(row + visible, row + kTileTokens, kMinusInfinity);
      kernels_.softmax(row, &scratch_.states[static_cast<size_t>(r)],
                       scratch_.acc.data() + r * padded_dim_, padded_dim_);
    }
  }

  void accumulate(const float* p, const float* values) {
    kernels_.accumulate(p, num_rows_, values, padded_dim_, scratch_.acc.data());
  }

  const TileKernels& kernels_;
  PrefillScratch& scratch_;
  const LayerView& view_;
  const HeadView& head_;
  const AttendTask& task_;
  const ScoreRules rules_;
  const bool plain_;  // no rules
  const int32_t num_qo_heads_;
  const int32_t group_;
  const int32_t head_dim_;
  const int32_t padded_dim_;
  const int64_t num_rows_;
  const int64_t first_position_;
};

}  // namespace

void run_prefill_task(const AttendArgs& args, const TileKernels& kernels, PrefillScratch& scratch,
                      const AttendTask& task) {
  BlockRunner(args, kernels, scratch, task).run();
}

}  // namespace lowkey
