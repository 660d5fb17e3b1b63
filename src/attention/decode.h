#pragma once
// Decode: a few queries of some KV heads against runs of whole pages, straight from packed codes
// (decode_kernels.h).
#include <cstdint>
#include <vector>

#include "attention/attend.h"
#include "attention/decode_kernels.h"
#include "attention/task.h"
#include "core/aligned.h"

namespace lowkey {

// Steps of at most this many tokens per sequence decode: each query walks the pages by itself, so
// its result has the bits it would have alone.
inline constexpr int64_t kDecodeQueries = 4;

// Units of a decode task: pages of the prefix (kPageTokens exact tokens), then pages of the cache.
int64_t decode_pages_seen(const LayerView& view, int64_t position);
int64_t decode_prefix_pages(const LayerView& view);

// One KV head of an item, looked up once: a line of the cache, for while pages stream through it
// the rest of what describes the head does not stay there.
struct alignas(64) DecodeHead {
  struct Side {
    const SideLayout* layout = nullptr;
    int32_t offset = 0;  // in a page
    SideWindow window = SideWindow::kNone;
    bool packed = false;
    bool direct = false;  // straight from codes; else through tiles of floats
  };
  Side k, v;
  const HeadView* view = nullptr;
};

// Row r's result: softmax state and unnormalized sums, acc[r * padded_dim].
struct DecodeSums {
  SoftmaxState* states = nullptr;
  float* acc = nullptr;  // on a line of the cache
};

// A thread's memory, and the item whose heads and queries it holds ready: the next task is often
// of the same.
struct DecodeScratch {
  AlignedVector<float> q, acc, unit, unit8, scores, tile, tile_scores;
  AlignedVector<int16_t> fixed;
  AlignedVector<std::byte> weights, weights8, buffer;
  std::vector<SoftmaxState> states;
  std::vector<DecodeHead> heads;        // of the item
  std::vector<const std::byte*> pages;  // [pages, heads], of the task
  const AttendItem* ready = nullptr;
  void resize(int64_t rows, int64_t head_dim);
};

// Rows of sums are (query, query head) pairs of the task's KV heads, queries outside. Units are
// pages. Same contract as attend(). The sums go to `partial` or, where that is null, stay in the
// scratch; where they are is returned. Before a new step, scratch.ready is to be reset.
DecodeSums run_decode_task(const AttendArgs& args, const DecodeKernels& kernels,
                           const TileKernels& tile_kernels, DecodeScratch& scratch,
                           const AttendTask& task, const DecodeSums& partial);

}  // namespace lowkey
