#include "attention/attend.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "attention/prefill.h"
#include "attention/task.h"
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

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Partial results [first_partial, first_partial + num_runs) make one block's output.
struct Merge {
  AttendTask block;
  int64_t first_partial = 0;
  int64_t num_runs = 0;
};

int64_t num_rows(const AttendArgs& args, const AttendTask& task) {
  const int64_t group = args.num_qo_heads / static_cast<int64_t>(task.item->view->heads.size());
  return (task.last_query - task.first_query) * group;
}

// Where row r of a block goes in the item's output.
float* output_row(const AttendArgs& args, const AttendTask& task, int64_t r) {
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
  std::vector<AttendTask> tasks;
  std::vector<Merge> merges;
  std::vector<PrefillScratch> scratch;  // per thread
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
void plan(const AttendArgs& args, std::vector<AttendTask>& tasks, std::vector<Merge>& merges,
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
        AttendTask task{&item, head, q, std::min(q + queries, view.num_tokens), 0, 0, -1};
        task.last_tile = tiles_seen(view, view.position + task.last_query - 1);
        most_rows = std::max(most_rows, (task.last_query - task.first_query) * group);
        const int64_t num_runs = one_block ? ceil_div(task.last_tile, kTilesPerRun) : 1;
        if (num_runs == 1) {
          tasks.push_back(task);
          continue;
        }
        merges.push_back({task, num_partials, num_runs});
        for (int64_t run = 0; run < num_runs; ++run) {
          AttendTask part = task;
          part.first_tile = run * kTilesPerRun;
          part.last_tile = std::min(task.last_tile, part.first_tile + kTilesPerRun);
          part.partial = num_partials++;
          tasks.push_back(part);
        }
      }
    }
  }
  std::sort(tasks.begin(), tasks.end(), [](const AttendTask& a, const AttendTask& b) {
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
    const AttendTask& task = w.tasks[static_cast<size_t>(index)];
    PrefillScratch& scratch = w.scratch[static_cast<size_t>(thread)];
    run_prefill_task(args, kernels, scratch, task);
    const int64_t rows = num_rows(args, task);
    for (int64_t r = 0; r < rows; ++r) {
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
  }
}

}  // namespace lowkey
