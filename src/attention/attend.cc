#include "attention/attend.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "attention/decode.h"
#include "attention/decode_kernels.h"
#include "attention/prefill.h"
#include "attention/prefill_bf16.h"
#include "attention/task.h"
#include "attention/tile_kernels.h"
#include "core/aligned.h"
#include "core/checked.h"
#include "core/error.h"

namespace lowkey {
namespace {

// A block of queries shares one unpacking of each tile. About this many rows keep scores and sums
// in L2 and make the unpacking a few percent of the arithmetic.
constexpr int64_t kRowsPerBlock = 96;

// Blocks that are alone in their sequence are split into fixed runs: one long sequence uses every
// core, and because the split depends on the length alone, the result does not depend on the number
// of threads.
constexpr int64_t kTilesPerRun = 4 * kTilesPerPage;

// A decode task is at least this much memory where there is so much: less is not worth a fork and a
// merge.
constexpr int64_t kDecodeTaskBytes = int64_t{192} << 10;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Partial results [first_partial, first_partial + num_runs) make one block's output.
struct Merge {
  AttendTask block;
  int64_t first_partial = 0;
  int64_t num_runs = 0;
};

int64_t num_rows(const AttendArgs& args, const AttendTask& task) {
  const int64_t group = args.num_qo_heads / static_cast<int64_t>(task.item->view->heads.size());
  return (task.last_query - task.first_query) * task.num_heads * group;
}

// Where row r of a block goes in the item's output.
float* output_row(const AttendArgs& args, const AttendTask& task, int64_t r) {
  const LayerView& view = *task.item->view;
  const int64_t group = args.num_qo_heads / static_cast<int64_t>(view.heads.size());
  const int64_t width = task.num_heads * group;
  const int64_t query = task.first_query + r / width;
  const int64_t head = task.head * group + r % width;
  return task.item->out + (query * args.num_qo_heads + head) * view.head_dim;
}

}  // namespace

const TileKernels& tile_kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return tile_kernels_scalar();
    case Isa::kAvx2: return tile_kernels_avx2();
    case Isa::kAvx512: return tile_kernels_avx512();
    case Isa::kNeon: return tile_kernels_neon();
  }
  return tile_kernels_scalar();
}

const DecodeKernels* decode_kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return nullptr;
    case Isa::kAvx2: return decode_kernels_avx2();
    case Isa::kAvx512:
      return cpu_features().avx512_vnni ? decode_kernels_avx512() : decode_kernels_avx2();
    case Isa::kNeon: return decode_kernels_neon();
  }
  return nullptr;
}

struct AttendWorkspace::Impl {
  std::vector<AttendTask> tasks;
  std::vector<Merge> merges;
  std::vector<PrefillScratch> prefill;           // per thread
  std::vector<PrefillBf16Scratch> prefill_bf16;  // per thread
  std::vector<DecodeScratch> decode;             // per thread
  // Per partial: rows x (state, padded_dim sums).
  std::vector<SoftmaxState> partial_states;
  AlignedVector<float> partial_sums;
  int64_t rows_per_partial = 0;
};

AttendWorkspace::AttendWorkspace() : impl_(std::make_unique<Impl>()) {}
AttendWorkspace::~AttendWorkspace() = default;

namespace {

// Large blocks, but eight tasks where there are queries enough: threads finish together.
int64_t bf16_queries_per_block(int64_t num_queries, int64_t num_kv_heads, int64_t group) {
  const int64_t most = std::max<int64_t>(1, kBf16RowsPerBlock / group);
  return std::clamp(round_up<int64_t>(ceil_div<int64_t>(num_queries * num_kv_heads, 8), 4),
                    std::min<int64_t>(16, most), most);
}

// How a decode step of one sequence is cut: all heads of some blocks of pages (kBlockPages, the
// order of memory) or, where that is too much (short contexts are to keep every core busy), some
// heads of one block.
struct DecodeCut {
  int32_t heads;
  int64_t pages;
};
DecodeCut decode_cut(const LayerView& view, int64_t num_pages) {
  const auto num_heads = static_cast<int64_t>(view.heads.size());
  int64_t bytes = 0;  // of a page of every head
  for (const HeadView& head : view.heads) bytes += head.k.layout->bytes() + head.v.layout->bytes();
  const int64_t wanted = std::max(kDecodeTaskBytes, num_pages * bytes / kMaxDecodeRuns);
  const int64_t block_bytes = bytes * std::min(num_pages, kBlockPages);
  if (wanted >= block_bytes) {
    return {static_cast<int32_t>(num_heads), ceil_div(wanted, block_bytes) * kBlockPages};
  }
  const int64_t chunks = ceil_div(num_heads, ceil_div(wanted * num_heads, block_bytes));
  return {static_cast<int32_t>(ceil_div(num_heads, chunks)), kBlockPages};
}

class Planner {
 public:
  Planner(std::vector<AttendTask>& tasks, std::vector<Merge>& merges)
      : tasks_(tasks), merges_(merges) {
    tasks_.clear();
    merges_.clear();
  }

  // In the order of memory.
  void decode(const AttendItem& item, int64_t group) {
    const LayerView& view = *item.view;
    const auto num_heads = static_cast<int32_t>(view.heads.size());
    const int64_t first_page = first_unit_seen(view, view.position, kPageTokens);
    const int64_t pages = decode_pages_seen(view, view.position + view.num_tokens - 1);
    const DecodeCut cut = decode_cut(view, pages - first_page);
    const size_t first_task = tasks_.size();
    for (int32_t head = 0; head < num_heads; head += cut.heads) {
      AttendTask task;
      task.item = &item;
      task.head = head;
      task.num_heads = std::min(cut.heads, num_heads - head);
      task.last_query = view.num_tokens;
      task.first_unit = first_page;
      task.last_unit = pages;
      task.decode = true;
      // Blocks begin after the prefix; so do runs, but for the first.
      add(task, cut.pages, view.num_tokens * task.num_heads * group,
          decode_prefix_pages(view) % cut.pages);
    }
    std::sort(tasks_.begin() + static_cast<std::ptrdiff_t>(first_task), tasks_.end(),
              [](const AttendTask& a, const AttendTask& b) {
                return std::pair(a.first_unit, a.head) < std::pair(b.first_unit, b.head);
              });
  }

  // Many blocks, each walking its tokens from front to back; a single one is cut like decode.
  void prefill(const AttendItem& item, int32_t head, int64_t group, int64_t queries_per_block,
               bool bf16) {
    const LayerView& view = *item.view;
    const bool one_block = view.num_tokens <= queries_per_block;
    in_order_ = in_order_ && one_block;
    for (int64_t q = 0; q < view.num_tokens; q += queries_per_block) {
      AttendTask task;
      task.item = &item;
      task.head = head;
      task.first_query = q;
      task.last_query = std::min(q + queries_per_block, view.num_tokens);
      task.first_unit = first_unit_seen(view, view.position + q, kTileTokens);
      task.last_unit = tiles_seen(view, view.position + task.last_query - 1);
      task.bf16 = bf16;
      add(task, one_block ? kTilesPerRun : task.last_unit,
          (task.last_query - task.first_query) * group);
    }
  }

  // Blocks of prefill differ in length: the longest go first, so that threads finish together.
  void finish() {
    if (in_order_) return;
    std::sort(tasks_.begin(), tasks_.end(), [](const AttendTask& a, const AttendTask& b) {
      return a.last_unit - a.first_unit > b.last_unit - b.first_unit;
    });
  }

  bool in_order() const { return in_order_; }
  int64_t num_partials() const { return num_partials_; }
  int64_t most_rows() const { return most_rows_; }

 private:
  // The task's units in runs of units_per_run, which are counted from unit 0 (where a window has
  // the task begin within one, it is shorter); after a first run of `before` units if there are any
  // before.
  void add(const AttendTask& task, int64_t units_per_run, int64_t rows, int64_t before = 0) {
    most_rows_ = std::max(most_rows_, rows);
    const int64_t shift = before > 0 ? units_per_run - before : 0;
    const int64_t first_run = (task.first_unit + shift) / units_per_run;
    const int64_t num_runs = ceil_div(task.last_unit + shift, units_per_run) - first_run;
    if (num_runs == 1) {
      tasks_.push_back(task);
      return;
    }
    merges_.push_back({task, num_partials_, num_runs});
    for (int64_t run = first_run; run < first_run + num_runs; ++run) {
      const int64_t start = run * units_per_run - shift;
      AttendTask part = task;
      part.first_unit = std::max(task.first_unit, start);
      part.last_unit = std::min(task.last_unit, start + units_per_run);
      part.partial = num_partials_++;
      tasks_.push_back(part);
    }
  }

  std::vector<AttendTask>& tasks_;
  std::vector<Merge>& merges_;
  int64_t num_partials_ = 0;
  int64_t most_rows_ = 0;
  bool in_order_ = true;
};

void plan(const AttendArgs& args, bool can_decode, bool can_bf16, Planner& planner) {
  for (const AttendItem& item : args.items) {
    const LayerView& view = *item.view;
    const auto num_kv_heads = static_cast<int32_t>(view.heads.size());
    LOWKEY_CHECK(num_kv_heads > 0 && args.num_qo_heads % num_kv_heads == 0,
                 "{} query heads over {} KV heads", args.num_qo_heads, num_kv_heads);
    const int64_t group = args.num_qo_heads / num_kv_heads;
    if (can_decode && view.num_tokens <= kDecodeQueries) {
      planner.decode(item, group);
      continue;
    }
    for (int32_t head = 0; head < num_kv_heads; ++head) {
      const bool bf16 = can_bf16 && suits_bf16(view.heads[static_cast<size_t>(head)]);
      const int64_t queries = bf16 ? bf16_queries_per_block(view.num_tokens, num_kv_heads, group)
                                   : std::max<int64_t>(1, kRowsPerBlock / group);
      planner.prefill(item, head, group, queries, bf16);
    }
  }
  planner.finish();
}

}  // namespace

void attend(const AttendArgs& args, ThreadPool& pool, AttendWorkspace& workspace, Isa isa) {
  AttendWorkspace::Impl& w = *workspace.impl_;
  const TileKernels& tiles = tile_kernels(isa);
  const DecodeKernels* decode = decode_kernels(isa);
  const PrefillBf16Kernels* bf16 =
      args.precision == AttendPrecision::kBF16 ? prefill_bf16_kernels(isa) : nullptr;
  Planner planner(w.tasks, w.merges);
  plan(args, decode != nullptr, bf16 != nullptr, planner);
  if (w.tasks.empty()) return;
  const int32_t head_dim = args.items[0].view->head_dim;
  const int64_t padded_dim = round_up<int32_t>(head_dim, kLanes);
  const int64_t num_partials = planner.num_partials();
  w.rows_per_partial = planner.most_rows();
  w.partial_states.resize(static_cast<size_t>(num_partials * w.rows_per_partial));
  w.partial_sums.resize(static_cast<size_t>(num_partials * w.rows_per_partial * padded_dim));
  w.prefill.resize(static_cast<size_t>(pool.num_threads()));
  w.prefill_bf16.resize(static_cast<size_t>(pool.num_threads()));
  w.decode.resize(static_cast<size_t>(pool.num_threads()));
  for (DecodeScratch& scratch : w.decode) scratch.ready = nullptr;  // an earlier step's

  const auto job = [&](int64_t index, int thread) {
    const AttendTask& task = w.tasks[static_cast<size_t>(index)];
    const SoftmaxState* states;
    const float* sums;
    if (task.decode) {
      DecodeScratch& scratch = w.decode[static_cast<size_t>(thread)];
      DecodeSums partial;
      if (task.partial >= 0) {
        const int64_t slot = task.partial * w.rows_per_partial;
        partial = {w.partial_states.data() + slot, w.partial_sums.data() + slot * padded_dim};
      }
      const DecodeSums result = run_decode_task(args, *decode, tiles, scratch, task, partial);
      if (task.partial >= 0) return;
      states = result.states;
      sums = result.acc;
    } else if (task.bf16) {
      PrefillBf16Scratch& scratch = w.prefill_bf16[static_cast<size_t>(thread)];
      run_prefill_bf16_task(args, *bf16, tiles, scratch, task);
      states = scratch.states.data();
      sums = scratch.acc.data();
    } else {
      PrefillScratch& scratch = w.prefill[static_cast<size_t>(thread)];
      run_prefill_task(args, tiles, scratch, task);
      states = scratch.states.data();
      sums = scratch.acc.data();
    }
    const int64_t rows = num_rows(args, task);
    for (int64_t r = 0; r < rows; ++r) {
      const SoftmaxState& state = states[r];
      const float* acc = sums + r * padded_dim;
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
  // By reference: a std::function of its own would allocate on every step. Decode reads memory in
  // the tasks' order; prefill's tasks are claimed from the longest down.
  if (planner.in_order()) {
    pool.run_in_parts(std::ssize(w.tasks), std::ref(job));
  } else {
    pool.run(std::ssize(w.tasks), std::ref(job));
  }

  // Log-sum-exp merge, runs in order.
  const auto merge_job = [&](int64_t index, int) {
    const Merge& merge = w.merges[static_cast<size_t>(index)];
    const int64_t rows = num_rows(args, merge.block);
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
  };
  pool.run(std::ssize(w.merges), std::ref(merge_job));
}

}  // namespace lowkey
