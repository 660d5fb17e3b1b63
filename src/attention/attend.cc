#include "attention/attend.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "attention/tile_kernels.h"
#include "core/checked.h"
#include "core/error.h"

namespace lowkey {
namespace {

// A block of queries shares one unpacking of each tile. About this many rows keep scores and sums
// in L2 and make the unpacking a few percent of the arithmetic.
constexpr int64_t kRowsPerBlock = 96;

// Decode splits a sequence into fixed runs of four pages: one long sequence uses every core, and
// because the split depends on the length alone, the result does not depend on the number of
// threads.
constexpr int64_t kTilesPerRun = 4 * kTilesPerPage;

// At most this many rows score exact keys row by row; more pay for a transposition.
constexpr int64_t kFewRows = 8;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Queries [first_query, last_query) of one KV head of one item over tiles [first_tile, last_tile)
// of its token list.
struct Task {
  const AttendItem* item = nullptr;
  int32_t head = 0;
  int64_t first_query = 0, last_query = 0;
  int64_t first_tile = 0, last_tile = 0;
  int64_t partial = -1;  // slot of the run's partial result; -1: the task writes `out` itself
};

// Partial results [first_partial, first_partial + num_runs) make one block's output.
struct Merge {
  Task block;
  int64_t first_partial = 0;
  int64_t num_runs = 0;
};

struct Scratch {
  std::vector<float> q, acc, keys, keys_exact, rows, values, values_exact, scores, scores_exact;
  std::vector<SoftmaxState> states;

  void resize(int64_t num_rows, int64_t padded_dim) {
    auto grow = [](auto& v, int64_t size) {
      if (v.size() < static_cast<size_t>(size)) v.resize(static_cast<size_t>(size));
    };
    const int64_t tile = kTileTokens * padded_dim;
    grow(q, num_rows * padded_dim);
    grow(acc, num_rows * padded_dim);
    for (auto* v : {&keys, &keys_exact, &rows, &values, &values_exact}) grow(*v, tile);
    for (auto* v : {&scores, &scores_exact}) grow(*v, num_rows * kTileTokens);
    grow(states, num_rows);
  }
};

int64_t prefix_tokens(const LayerView& view) {
  return std::min(view.intact_prefix, view.position + view.num_tokens);
}

int64_t prefix_tiles(const LayerView& view) {
  return ceil_div<int64_t>(prefix_tokens(view), kTileTokens);
}

// Tiles the query at `position` looks at: those of the prefix, then those of the cache proper.
int64_t tiles_seen(const LayerView& view, int64_t position) {
  const int64_t after = position + 1 - prefix_tokens(view);
  return prefix_tiles(view) + (after > 0 ? ceil_div<int64_t>(after, kTileTokens) : 0);
}

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
  BlockRunner(const AttendArgs& args, const TileKernels& kernels, Scratch& scratch,
              const Task& task)
      : kernels_(kernels),
        scratch_(scratch),
        view_(*task.item->view),
        head_(view_.heads[static_cast<size_t>(task.head)]),
        task_(task),
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
    for (int64_t tile = task_.first_tile; tile < task_.last_tile; ++tile) {
      if (tile < prefix) {
        prefix_tile(tile * kTileTokens);
      } else {
        cache_tile((tile - prefix) * kTileTokens);
      }
    }
  }

  int64_t num_rows() const { return num_rows_; }
  int32_t padded_dim() const { return padded_dim_; }

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
    const std::byte* page = head_.pages[first / kPageTokens].data() + side.page_offset;
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
    const std::byte* page = head_.pages[first / kPageTokens].data() + side.page_offset;
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

  // first: absolute position of the tile's first token. Tokens at or beyond `end`, or after the
  // row's own, get no weight.
  void mask_and_softmax(int64_t first, int64_t end = std::numeric_limits<int64_t>::max()) {
    float* scores = scratch_.scores.data();
    for (int64_t r = 0; r < num_rows_; ++r) {
      const int64_t visible =
          std::clamp<int64_t>(std::min(row_position(r) + 1, end) - first, 0, kTileTokens);
      float* row = scores + r * kTileTokens;
      std::fill(row + visible, row + kTileTokens, kMinusInfinity);
      kernels_.softmax(row, &scratch_.states[static_cast<size_t>(r)],
                       scratch_.acc.data() + r * padded_dim_, padded_dim_);
    }
  }

  void accumulate(const float* p, const float* values) {
    kernels_.accumulate(p, num_rows_, values, padded_dim_, scratch_.acc.data());
  }

  const TileKernels& kernels_;
  Scratch& scratch_;
  const LayerView& view_;
  const HeadView& head_;
  const Task& task_;
  const int32_t num_qo_heads_;
  const int32_t group_;
  const int32_t head_dim_;
  const int32_t padded_dim_;
  const int64_t num_rows_;
  const int64_t first_position_;
};

// Where row r of a block goes in the item's output.
float* output_row(const AttendArgs& args, const Task& task, int64_t r) {
  const LayerView& view = *task.item->view;
  const int64_t group = args.num_qo_heads / static_cast<int64_t>(view.heads.size());
  const int64_t query = task.first_query + r / group;
  const int64_t head = task.head * group + r % group;
  return task.item->out + (query * args.num_qo_heads + head) * view.head_dim;
}

}  // namespace

const TileKernels& tile_kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return tile_kernels_scalar();
    case Isa::kAvx2: return tile_kernels_avx2();
    case Isa::kAvx512: return tile_kernels_avx512();
  }
  return tile_kernels_scalar();
}

struct AttendWorkspace::Impl {
  std::vector<Task> tasks;
  std::vector<Merge> merges;
  std::vector<Scratch> scratch;  // per thread
  // Per partial: rows x (state, padded_dim sums).
  std::vector<SoftmaxState> partial_states;
  std::vector<float> partial_sums;
  int64_t rows_per_partial = 0;
};

AttendWorkspace::AttendWorkspace() : impl_(std::make_unique<Impl>()) {}
AttendWorkspace::~AttendWorkspace() = default;

namespace {

// Splits the work. Decode blocks (all queries of an item fit one block) are cut into runs of tiles;
// prefill has blocks enough and walks each from front to back. Longest first, so that threads
// finish together.
void plan(const AttendArgs& args, std::vector<Task>& tasks, std::vector<Merge>& merges,
          int64_t& num_partials, int64_t& most_rows) {
  tasks.clear();
  merges.clear();
  num_partials = 0;
  most_rows = 0;
  for (const AttendItem& item : args.items) {
    const LayerView& view = *item.view;
    const auto num_kv_heads = static_cast<int32_t>(view.heads.size());
    LOWKEY_CHECK(num_kv_heads > 0 && args.num_qo_heads % num_kv_heads == 0,
                 "{} query heads over {} KV heads", args.num_qo_heads, num_kv_heads);
    const int64_t group = args.num_qo_heads / num_kv_heads;
    const int64_t queries = std::max<int64_t>(1, kRowsPerBlock / group);
    const bool one_block = view.num_tokens <= queries;
    for (int32_t head = 0; head < num_kv_heads; ++head) {
      for (int64_t q = 0; q < view.num_tokens; q += queries) {
        Task task{&item, head, q, std::min(q + queries, view.num_tokens), 0, 0, -1};
        task.last_tile = tiles_seen(view, view.position + task.last_query - 1);
        most_rows = std::max(most_rows, (task.last_query - task.first_query) * group);
        const int64_t num_runs = one_block ? ceil_div(task.last_tile, kTilesPerRun) : 1;
        if (num_runs == 1) {
          tasks.push_back(task);
          continue;
        }
        merges.push_back({task, num_partials, num_runs});
        for (int64_t run = 0; run < num_runs; ++run) {
          Task part = task;
          part.first_tile = run * kTilesPerRun;
          part.last_tile = std::min(task.last_tile, part.first_tile + kTilesPerRun);
          part.partial = num_partials++;
          tasks.push_back(part);
        }
      }
    }
  }
  std::sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
    return a.last_tile - a.first_tile > b.last_tile - b.first_tile;
  });
}

}  // namespace

void attend(const AttendArgs& args, ThreadPool& pool, AttendWorkspace& workspace, Isa isa) {
  AttendWorkspace::Impl& w = *workspace.impl_;
  const TileKernels& kernels = tile_kernels(isa);
  int64_t num_partials, most_rows;
  plan(args, w.tasks, w.merges, num_partials, most_rows);
  if (w.tasks.empty()) return;
  const int32_t head_dim = args.items[0].view->head_dim;
  const int64_t padded_dim = round_up<int32_t>(head_dim, kLanes);
  w.rows_per_partial = most_rows;
  w.partial_states.resize(static_cast<size_t>(num_partials * most_rows));
  w.partial_sums.resize(static_cast<size_t>(num_partials * most_rows * padded_dim));
  w.scratch.resize(static_cast<size_t>(pool.num_threads()));

  const auto job = [&](int64_t index, int thread) {
    const Task& task = w.tasks[static_cast<size_t>(index)];
    Scratch& scratch = w.scratch[static_cast<size_t>(thread)];
    BlockRunner block(args, kernels, scratch, task);
    block.run();
    for (int64_t r = 0; r < block.num_rows(); ++r) {
      const SoftmaxState& state = scratch.states[static_cast<size_t>(r)];
      const float* acc = scratch.acc.data() + r * padded_dim;
      if (task.partial >= 0) {
        const int64_t slot = task.partial * w.rows_per_partial + r;
        w.partial_states[static_cast<size_t>(slot)] = state;
        std::copy_n(acc, padded_dim, w.partial_sums.data() + slot * padded_dim);
        continue;
      }
      float* out = output_row(args, task, r);
      for (int32_t c = 0; c < head_dim; ++c) out[c] = acc[c] / state.sum;
    }
  };
  // By reference: a std::function of its own would allocate on every step.
  pool.run(static_cast<int64_t>(w.tasks.size()), std::ref(job));

  // Log-sum-exp merge, runs in order.
  for (const Merge& merge : w.merges) {
    const LayerView& view = *merge.block.item->view;
    const int64_t group = args.num_qo_heads / static_cast<int64_t>(view.heads.size());
    const int64_t rows = (merge.block.last_query - merge.block.first_query) * group;
    for (int64_t r = 0; r < rows; ++r) {
      auto slot = [&](int64_t run) { return (merge.first_partial + run) * w.rows_per_partial + r; };
      float top = kMinusInfinity;
      for (int64_t run = 0; run < merge.num_runs; ++run) {
        top = std::max(top, w.partial_states[static_cast<size_t>(slot(run))].top);
      }
      float* out = output_row(args, merge.block, r);
      std::fill(out, out + head_dim, 0.0f);
      float sum = 0.0f;
      for (int64_t run = 0; run < merge.num_runs; ++run) {
        const SoftmaxState& state = w.partial_states[static_cast<size_t>(slot(run))];
        const float weight = std::exp(state.top - top);
        const float* acc = w.partial_sums.data() + slot(run) * padded_dim;
        sum += weight * state.sum;
        for (int32_t c = 0; c < head_dim; ++c) out[c] += weight * acc[c];
      }
      for (int32_t c = 0; c < head_dim; ++c) out[c] /= sum;
    }
  }
}

}  // namespace lowkey
