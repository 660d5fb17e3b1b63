#pragma once
// Decode: a few queries of some KV heads against runs of whole pages, straight from packed codes
// (decode_kernels.h).
#include <cstdint>
#include <vector>

#include "attention/attend.h"
#include "attention/decode_kernels.h"
#include "attention/task.h"

namespace lowkey {

// Steps of at most this many tokens per sequence decode: each query walks the pages by itself, so
// its result has the bits it would have alone.
inline constexpr int64_t kDecodeQueries = 4;

// Units of a decode task: pages of the prefix (kPageTokens exact tokens), then pages of the cache.
int64_t decode_pages_seen(const LayerView& view, int64_t position);

// A thread's memory. After run_decode_task(): row r's softmax state and sums, acc[r * padded_dim].
struct DecodeScratch {
  std::vector<float> q, acc, unit, unit8, scores, tile, tile_scores;
  std::vector<int16_t> fixed;
  std::vector<std::byte> weights, weights8, buffer;
  std::vector<SoftmaxState> states;
  void resize(int64_t rows, int64_t head_dim);
};

// Rows are (query, query head) pairs of the task's KV heads, queries outside. Units are pages. Same
// contract as attend().
void run_decode_task(const AttendArgs& args, const DecodeKernels& kernels,
                     const TileKernels& tile_kernels, DecodeScratch& scratch,
                     const AttendTask& task);

}  // namespace lowkey
