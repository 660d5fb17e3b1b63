#pragma once
// How attend() cuts its work: a task is a block of queries of one KV head (decode: of a few) over a
// run of tokens; its result is output rows, or a partial result that a merge combines by
// log-sum-exp.
#include <algorithm>
#include <cstdint>

#include "attention/attend.h"
#include "core/checked.h"
#include "quant/layout.h"

namespace lowkey {

// Queries [first_query, last_query) of KV heads [head, head + num_heads) of one item over units
// [first_unit, last_unit) of its token list: tiles for prefill (which has one head), pages for
// decode.
struct AttendTask {
  const AttendItem* item = nullptr;
  int32_t head = 0;
  int32_t num_heads = 1;
  int64_t first_query = 0, last_query = 0;
  int64_t first_unit = 0, last_unit = 0;
  bool decode = false;
  int64_t partial = -1;  // slot of the run's partial result; -1: the task writes `out` itself
  bool bf16 = false;     // prefill_bf16.h's
};

inline int64_t prefix_tokens(const LayerView& view) {
  return std::min(view.intact_prefix, view.position + view.num_tokens);
}

inline int64_t prefix_tiles(const LayerView& view) {
  return ceil_div<int64_t>(prefix_tokens(view), kTileTokens);
}

// Tiles the query at `position` looks at: those of the prefix, then those of the cache proper.
inline int64_t tiles_seen(const LayerView& view, int64_t position) {
  const int64_t after = position + 1 - prefix_tokens(view);
  return prefix_tiles(view) + (after > 0 ? ceil_div<int64_t>(after, kTileTokens) : 0);
}

// The first of them, or of units of another size: the prefix's, then the cache proper's.
inline int64_t first_unit_seen(const LayerView& view, int64_t position, int64_t unit_tokens) {
  const int64_t first = view.first_seen(position);
  const int64_t prefix = prefix_tokens(view);
  return first < prefix ? first / unit_tokens
                        : ceil_div(prefix, unit_tokens) + (first - prefix) / unit_tokens;
}

}  // namespace lowkey
