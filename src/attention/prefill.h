#pragma once
// Prefill: a block of many queries of one KV head walks its tokens tile by tile; each tile is
// unpacked once for all of the block's rows.
#include <cstdint>
#include <vector>

#include "attention/attend.h"
#include "attention/task.h"
#include "attention/tile_kernels.h"

namespace lowkey {

// A thread's memory. After run_prefill_task(): row r's softmax state and sums, acc[r * padded_dim].
struct PrefillScratch {
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

// Rows are (query, query head) pairs of task.head, queries outside. Same contract as attend().
void run_prefill_task(const AttendArgs& args, const TileKernels& kernels, PrefillScratch& scratch,
                      const AttendTask& task);

}  // namespace lowkey
