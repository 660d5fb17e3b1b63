#pragma once
// Prefill with products in bf16 (AttendPrecision::kBF16): a block of many queries of one KV head
// walks its tokens a page at a time. Each page becomes bf16 once, in the order vdpbf16ps wants, for
// all of the block's rows; the rows go over it in strips whose scores stay in the first-level
// cache.
#include <cstdint>
#include <vector>

#include "attention/attend.h"
#include "attention/prefill_bf16_kernels.h"
#include "attention/task.h"
#include "attention/tile_kernels.h"

namespace lowkey {

// Rows per block: unpacking a page is a few percent of multiplying it, and queries, sums and the
// page stay in the second-level cache.
inline constexpr int64_t kBf16RowsPerBlock = 384;

// A thread's memory. After run_prefill_bf16_task(): row r's softmax state and sums,
// acc[r * padded_dim].
struct PrefillBf16Scratch {
  // A span's tokens in one form: as packed (or in 16-bit pages), or as their exact rows.
  struct Form {
    std::vector<BFloat16> keys, values;
    bool has_keys[kSpanTiles], has_values[kSpanTiles];
  };

  std::vector<BFloat16> q, rows, p, rest;
  std::vector<float> acc, tile, scores, exact_scores;
  std::vector<SoftmaxState> states;
  std::vector<int32_t> k_stored, v_stored;  // per row: tokens after the prefix it sees in pages
  Form stored, exact;

  void resize(int64_t num_rows, int64_t padded_dim);
};

// The kernels for `isa` on this machine, or null.
const PrefillBf16Kernels* prefill_bf16_kernels(Isa isa);

// Whether this head's cache can be attended to in bf16: no side of 32 bits.
bool suits_bf16(const HeadView& head);

// Rows are (query, query head) pairs of task.head, queries outside. Same contract as attend().
void run_prefill_bf16_task(const AttendArgs& args, const PrefillBf16Kernels& kernels,
                           const TileKernels& tiles, PrefillBf16Scratch& scratch,
                           const AttendTask& task);

}  // namespace lowkey
