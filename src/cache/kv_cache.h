#pragma once
// The quantized KV cache: sequences of tokens whose keys and values are packed as a recipe says
// (DESIGN §4). Torch-free.
//
// The contract. After L tokens the state of a sequence (which tokens are packed, their bytes, which
// are exact) depends on the K and V values alone, not on how they arrived. The attention of token t
// sees the state after the t tokens before it, plus its own K and V exactly; then it is stored.
// "Exact" is IEEE f16 (f32 for 32-bit sides): values are rounded to it as they arrive, and
// quantization starts from the rounded ones.
//
// A layer whose queries see a window of W tokens (KvShape::windows; the query's own and the W - 1
// before it) holds only the pages that the next query sees something of, pages_held(): the others
// are given up in commit(), unless a save point needs them. The contract holds for what is held.
// The intact prefix stays in memory, but behind the window it is not attended to.
//
// A cache may be given its prefix's keys and values (IntactPrefix): its sequences then begin with
// them, at its length, and never get shorter. Their rows are in memory once: f16 rows where the
// IntactPrefix has them, f32 rows in the cache. Where the recipe keeps more tokens exact than the
// prefix has, the rows of both lie in each sequence.
//
// One step of one layer:
//   const LayerView& view = sequence.append(layer, k, v, n, stage);   // packs what must be packed
//   by L + n attend(view, ...);                                                //
//   attention/attend.h sequence.commit(layer, stage);                                    // the
//   windows move on; length grows
//
// Thread-safety: a sequence belongs to one thread at a time; different sequences of one cache may
// run in parallel.
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cache/intact_prefix.h"
#include "cache/page_pool.h"
#include "core/half.h"
#include "core/threads.h"
#include "quant/layout.h"
#include "recipe/recipe.h"

namespace lowkey {

// Exact rows of tokens [first, first + count), counted after the intact prefix (for the prefix
// itself: from 0). Rows of head_dim Half, or float on a 32-bit side.
struct ExactRows {
  const std::byte* rows = nullptr;
  int64_t first = 0;
  int64_t count = 0;
};

// One side of one KV head as attention sees it.
struct SideView {
  const SideLayout* layout = nullptr;
  SideWindow window = SideWindow::kNone;
  int64_t page_offset = 0;  // of this side within a page
  ExactRows prefix;
  std::array<ExactRows, 3>
      exact;  // the window's ring in one or two parts, then the new tokens; ascending
};

// Pages of one head that lie one after the other where several are allocated at once (a prompt's):
// decode is fastest where it reads memory in order and stays with one head for a while.
inline constexpr int64_t kBlockPages = 4;

struct HeadView {
  const PageRef* pages = nullptr;  // pages[0] is page `first_page`
  int64_t num_pages = 0;
  int64_t first_page = 0;  // those before are behind the layer's window
  SideView k, v;

  // Page p holds tokens [p * kPageTokens, ...) after the prefix.
  bool holds(int64_t p) const { return p >= first_page && p < first_page + num_pages; }
  const std::byte* page(int64_t p) const { return pages[p - first_page].data(); }
};

// One layer of one sequence during a step. Valid until commit().
struct LayerView {
  int64_t position = 0;    // tokens stored before this step
  int64_t num_tokens = 0;  // n, the step's own
  int64_t intact_prefix = 0;
  int64_t residual_length = 0;
  int64_t window = 0;  // how many tokens a query sees, its own included; 0: all
  PrefillMode prefill = PrefillMode::kCached;
  int32_t head_dim = 0;
  std::vector<HeadView> heads;

  // The first position that the query at `query_position` sees.
  int64_t first_seen(int64_t query_position) const {
    return window == 0 ? 0 : std::max<int64_t>(0, query_position - window + 1);
  }

  // How many tokens (after the prefix) come to the query at `query_position` in packed form on this
  // side (those before first_seen() do not come at all); all later ones, itself included, it sees
  // exactly. 16- and 32-bit sides: everything up to itself is in the pages.
  int64_t stored_for(const SideView& side, int64_t query_position) const;
};

// Workspace of append(): the step's tokens in exact form. Reused, so that a decode step allocates
// nothing.
class AppendStage {
 public:
  const LayerView& view() const { return view_; }

 private:
  friend class KvSequence;
  LayerView view_;
  std::vector<std::byte> k_, v_;              // [num_kv_heads, n, head_dim] Half or float
  std::vector<std::vector<float>> unpacked_;  // per thread: rows of one group, as floats
  int32_t layer_ = -1;
};

class KvCache;

class KvSequence {
 public:
  KvSequence(KvSequence&&) noexcept;
  KvSequence& operator=(KvSequence&&) noexcept;
  ~KvSequence();

  const KvCache& cache() const;
  // Tokens stored in every layer, or in `first_layer` and all after it.
  int64_t length(int32_t first_layer = 0) const;

  // k, v: [n, num_kv_heads, head_dim] floats, keys after RoPE. Throws Error kNumeric (NaN,
  // infinity, beyond f16) naming layer and position, kResourceExhausted when the pool is full; then
  // the sequence is as before.
  // Where tokens are many, heads are shared out over `pool`'s threads, if there is one.
  const LayerView& append(int32_t layer, const float* k, const float* v, int64_t n,
                          AppendStage& stage, ThreadPool* pool = nullptr);
  void commit(int32_t layer, AppendStage& stage);

  // A sequence that shares all pages with this one; an open page is copied when either writes to
  // it.
  KvSequence fork() const;

  // Sets the exact windows aside, so that truncate() can come back to the present length later.
  // Pages of the present length that fall behind a layer's window stay in use for it.
  void save_point();
  // Gives up all save points but the newest `keep`.
  void drop_save_points(size_t keep);
  // The longest length <= `length` to which truncate() can go back; that of the cache's prefix at
  // least.
  int64_t nearest_restorable(int64_t length) const;
  // Forgets tokens beyond `length`. False, changing nothing, if that state no longer exists
  // (packing forgets; pages behind a layer's window are given up; the cache's prefix stays):
  // recompute from nearest_restorable().
  [[nodiscard]] bool truncate(int64_t length);

  // The packed bytes, parameters and exact rows that define the state of one side of one head, in a
  // canonical order: equal strings if and only if the states are bit-identical. Of the stored
  // tokens, those in pages_held(); the string says where they begin.
  std::string state_bytes(int32_t layer, int32_t head, Side side) const;

 private:
  friend class KvCache;
  struct Impl;
  explicit KvSequence(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class KvCache {
 public:
  // max_bytes bounds what all sequences together may use; 0: no bound. A spec's prefix must have
  // the shape of its recipe, which keeps at least its tokens exact. Throws Error kResourceExhausted
  // if the prefix alone is more than max_bytes.
  explicit KvCache(CacheSpec spec, int64_t max_bytes = 0);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  KvSequence new_sequence();
  const ResolvedRecipe& recipe() const;
  // That sequences begin with; null: they begin empty.
  const std::shared_ptr<const IntactPrefix>& prefix() const;
  const PageLayout& page_layout(int32_t layer, int32_t head) const;

  // Whether `sequence` could grow by `tokens` within max_bytes, in steps of any size (worst case:
  // no page shared any more).
  bool try_reserve(const KvSequence& sequence, int64_t tokens) const;

  // As allocated; between steps, equals bytes_at() of the recipe for a sequence that shares nothing
  // (and has no save points, where layers have windows).
  CacheUsage usage() const;

 private:
  friend class KvSequence;
  struct Impl;
  std::unique_ptr<Impl> impl_;  // outlives its sequences' use of it: sequences must die first
};

}  // namespace lowkey
