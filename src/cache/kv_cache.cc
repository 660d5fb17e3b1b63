#include "cache/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "cache/page_list.h"
#include "core/checked.h"
#include "core/error.h"
#include "quant/pack.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

// Where one side of one head keeps its exact rows within a sequence's window and prefix buffers.
struct SidePlan {
  SideLayout layout;
  SideWindow window = SideWindow::kNone;
  int64_t page_offset = 0;
  int64_t row_bytes = 0;      // of an exact row: f16, or f32 on a 32-bit side
  int64_t window_offset = 0;  // ring of window_capacity rows; token i in slot i mod R
  int64_t prefix_offset = 0;  // intact_prefix rows
  const std::byte* shared_prefix = nullptr;  // where all sequences share them: there
};

struct HeadPlan {
  SidePlan k, v;
  int64_t page_bytes = 0;
};

struct LayerPlan {
  int64_t residual_length = 0;
  int32_t window = 0;  // tokens a query sees; 0: all
  std::vector<HeadPlan> heads;
  std::vector<PageLayout> layouts;
};

// Fewer tokens than this are packed before another thread has woken up.
constexpr int64_t kTokensToShareOut = 64;

const char* side_name(Side side) {
  return side == Side::kKey ? "K" : "V";
}

}  // namespace

struct KvCache::Impl {
  ResolvedRecipe recipe;
  std::shared_ptr<const IntactPrefix> prefix;  // that sequences begin with, or null
  PagePool pool;
  std::vector<LayerPlan> layers;
  int64_t windows_bytes = 0;
  int64_t prefixes_bytes = 0;
  // Of the shared prefix: its rows on 32-bit sides, and the count of those that lie in `prefix`.
  CountedBuffer prefix_floats, prefix_halves;

  Impl(CacheSpec spec, int64_t max_bytes)
      : recipe(std::move(spec.recipe)), prefix(std::move(spec.prefix)), pool(max_bytes) {
    for (size_t l = 0; l < recipe.layers.size(); ++l) {
      const ResolvedLayer& layer = recipe.layers[l];
      LayerPlan plan;
      plan.residual_length = layer.residual_length;
      plan.window = recipe.shape.window(static_cast<int32_t>(l));
      for (const HeadRecipe& head : layer.heads) {
        const PageLayout layout(head, recipe.shape.head_dim);
        HeadPlan h;
        h.k = plan_side(layout.k, head.k, layer, 0);
        h.v = plan_side(layout.v, head.v, layer, layout.v_offset);
        h.page_bytes = layout.bytes;
        plan.heads.push_back(h);
        plan.layouts.push_back(layout);
      }
      layers.push_back(std::move(plan));
    }
    if (!prefix) return;
    const KvShape& shape = recipe.shape;
    LOWKEY_CHECK(prefix->num_layers == shape.num_layers &&
                     prefix->num_kv_heads == shape.num_kv_heads &&
                     prefix->head_dim == shape.head_dim,
                 "a prefix of {} layers, {} heads of {}", prefix->num_layers, prefix->num_kv_heads,
                 prefix->head_dim);
    LOWKEY_CHECK(prefix->length() > 0 && prefix->length() <= recipe.intact_prefix,
                 "a prefix of {} tokens, {} kept exact", prefix->length(), recipe.intact_prefix);
    if (prefix->length() == recipe.intact_prefix) share_prefix();
  }

  // Tokens that every sequence holds from the start.
  int64_t given_tokens() const { return prefix ? prefix->length() : 0; }

  // visit(plan, whose rows in the given prefix), for both sides of every head of every layer.
  template <typename Visit>
  void for_each_given_side(const Visit& visit) {
    for (size_t l = 0; l < layers.size(); ++l) {
      for (size_t h = 0; h < layers[l].heads.size(); ++h) {
        const int64_t offset = prefix->offset(static_cast<int32_t>(l), static_cast<int32_t>(h));
        visit(layers[l].heads[h].k, prefix->k.data() + offset);
        visit(layers[l].heads[h].v, prefix->v.data() + offset);
      }
    }
  }

  // The given tokens' rows as the side stores exact ones.
  void copy_given_rows(const SidePlan& side, const Half* rows, std::byte* out) const {
    const int64_t count = given_tokens() * side.layout.head_dim();
    if (side.layout.bits() == 32) {
      half_to_float(rows, reinterpret_cast<float*>(out), count);
    } else {
      std::memcpy(out, rows, static_cast<size_t>(count) * sizeof(Half));
    }
  }

  // Nothing will be written to the prefix: every sequence reads the same rows.
  void share_prefix() {
    int64_t float_bytes = 0;
    for_each_given_side([&](SidePlan& side, const Half*) {
      if (side.layout.bits() == 32) float_bytes += given_tokens() * side.row_bytes;
    });
    prefix_floats = CountedBuffer(pool, BufferUse::kPrefix, float_bytes);
    prefix_halves =
        CountedBuffer::elsewhere(pool, BufferUse::kPrefix, prefixes_bytes - float_bytes);
    std::byte* floats = prefix_floats.data();
    for_each_given_side([&](SidePlan& side, const Half* rows) {
      side.shared_prefix = reinterpret_cast<const std::byte*>(rows);
      if (side.layout.bits() != 32) return;
      copy_given_rows(side, rows, floats);
      side.shared_prefix = floats;
      floats += given_tokens() * side.row_bytes;
    });
  }

  SidePlan plan_side(const SideLayout& layout, const SideRecipe& side, const ResolvedLayer& layer,
                     int64_t page_offset) {
    SidePlan plan;
    plan.layout = layout;
    plan.window = side_window(side, layer.window);
    plan.page_offset = page_offset;
    plan.row_bytes = static_cast<int64_t>(layout.head_dim()) * (side.bits == 32 ? 4 : 2);
    plan.window_offset = windows_bytes;
    windows_bytes += window_capacity(plan.window, layer.residual_length) * plan.row_bytes;
    plan.prefix_offset = prefixes_bytes;
    prefixes_bytes += recipe.intact_prefix * plan.row_bytes;
    return plan;
  }

  // Tokens of the cache proper (after the prefix) when `length` tokens are stored in all.
  int64_t after_prefix(int64_t length) const {
    return std::max<int64_t>(0, length - recipe.intact_prefix);
  }

  int64_t stored_by_length(const LayerPlan& layer, const HeadPlan& head, int64_t length) const {
    const int64_t tokens = after_prefix(length);
    return std::max(stored_tokens(head.k.window, layer.residual_length, tokens),
                    stored_tokens(head.v.window, layer.residual_length, tokens));
  }

  // Pages written by `length`, whether or not they are behind the window by then.
  int64_t pages_written(const LayerPlan& layer, const HeadPlan& head, int64_t length) const {
    return ceil_div<int64_t>(stored_by_length(layer, head, length), kPageTokens);
  }

  PageSpan pages_for(const LayerPlan& layer, const HeadPlan& head, int64_t length) const {
    return pages_held(layer.window, recipe.intact_prefix, length,
                      stored_by_length(layer, head, length));
  }
};

namespace {

struct LayerState {
  int64_t length = 0;
  std::vector<PageList> pages;  // [head]
};

// A length to come back to. Its pages are the sequence's own until they fall behind a layer's
// window; then they are here.
struct SavePoint {
  int64_t length = 0;
  CountedBuffer windows;
  std::vector<std::vector<PageList>> behind;  // [layer][head]; layers without a window: empty

  SavePoint copy() const { return {length, windows.copy(BufferUse::kSavePoint), behind}; }
};

// One side of one head during append(): sources of exact rows before and within the step.
struct SideStep {
  const SidePlan* plan = nullptr;
  int64_t residual_length = 0;
  int64_t tokens_before = 0;  // after the prefix
  const std::byte* ring = nullptr;
  const std::byte* fresh = nullptr;  // row of token `tokens_before`

  // The exact row of token `token` (after the prefix), from the window or from the step.
  const std::byte* row(int64_t token) const {
    if (token >= tokens_before) return fresh + (token - tokens_before) * plan->row_bytes;
    return ring + token % residual_length * plan->row_bytes;
  }
};

}  // namespace

struct KvSequence::Impl {
  KvCache::Impl* cache = nullptr;
  const KvCache* owner = nullptr;
  std::vector<LayerState> layers;
  CountedBuffer windows;
  // Shared by forks until one of them writes; null where all sequences share their prefix.
  std::shared_ptr<CountedBuffer> prefix;
  std::vector<SavePoint> save_points;  // ascending lengths

  std::byte* ring(const SidePlan& side) const { return windows.data() + side.window_offset; }
  const std::byte* prefix_rows(const SidePlan& side) const {
    return side.shared_prefix ? side.shared_prefix : prefix->data() + side.prefix_offset;
  }

  int64_t min_length(size_t first_layer = 0) const {
    int64_t length = layers[first_layer].length;
    for (size_t i = first_layer; i < layers.size(); ++i)
      length = std::min(length, layers[i].length);
    return length;
  }

  // Before a page is written: a private copy if it is shared.
  void make_writable(PageRef& page) {
    if (page.shared()) page = cache->pool.copy(page);
  }

  // Grows every head's page list to what `length` needs: a block of pages of one head, then of the
  // next, which is the order in which decode reads them (kBlockPages).
  void add_pages(const LayerPlan& plan, LayerState& layer, int64_t length) {
    int64_t fewest = layer.pages[0].last();
    for (const PageList& pages : layer.pages) fewest = std::min(fewest, pages.last());
    bool all = false;
    for (int64_t block = fewest / kBlockPages; !all; ++block) {
      all = true;
      for (size_t h = 0; h < plan.heads.size(); ++h) {
        const HeadPlan& head = plan.heads[h];
        PageList& pages = layer.pages[h];
        const int64_t needed = cache->pages_written(plan, head, length);
        const int64_t end = std::min(needed, (block + 1) * kBlockPages);
        while (pages.last() < end) pages.push_back(cache->pool.allocate(head.page_bytes));
        all = all && end == needed;
      }
    }
  }

  // Gives every head the pages that `length` needs and makes the pages about to be written
  // private. All allocation of a step happens here, before any state changes.
  void prepare_pages(const LayerPlan& plan, LayerState& layer, int64_t length) {
    try {
      add_pages(plan, layer, length);
      for (size_t h = 0; h < plan.heads.size(); ++h) {
        const HeadPlan& head = plan.heads[h];
        PageList& pages = layer.pages[h];
        const int64_t tokens = cache->after_prefix(layer.length);
        for (const SidePlan* side : {&head.k, &head.v}) {
          const int64_t from = stored_tokens(side->window, plan.residual_length, tokens);
          const int64_t to =
              stored_tokens(side->window, plan.residual_length, cache->after_prefix(length));
          if (from == to) continue;
          for (int64_t p = std::max(pages.first(), from / kPageTokens); p <= (to - 1) / kPageTokens;
               ++p) {
            make_writable(pages.at(p));
          }
        }
      }
    } catch (...) {
      for (size_t h = 0; h < plan.heads.size(); ++h) {
        layer.pages[h].shrink(cache->pages_written(plan, plan.heads[h], layer.length));
      }
      throw;
    }
  }

  // Stores tokens [from, to) of one side in its pages. What is packed only behind the window
  // (R > W) has none; pages hold whole groups, so that what follows still begins with one.
  void store(const SideStep& step, PageList& pages, int64_t from, int64_t to,
             std::vector<float>& scratch) {
    from = std::max(from, pages.first() * kPageTokens);
    const SideLayout& layout = step.plan->layout;
    const int64_t head_dim = layout.head_dim();
    auto side_of = [&](int64_t token) {
      return pages.at(token / kPageTokens).mutable_data() + step.plan->page_offset;
    };
    if (!layout.packed()) {
      for (int64_t t = from; t < to; ++t) {
        std::memcpy(side_of(t) + t % kPageTokens * layout.row_bytes(), step.row(t),
                    static_cast<size_t>(layout.row_bytes()));
      }
      return;
    }
    const bool per_channel = layout.axis() == QuantAxis::kPerChannel;
    const int64_t longest = per_channel ? layout.group_size() : kTileTokens;
    scratch.resize(static_cast<size_t>(longest * head_dim));
    for (int64_t t = from, run; t < to; t += run) {
      // A group, or what there is of a tile.
      run = per_channel ? longest : std::min(kTileTokens - t % kTileTokens, to - t);
      for (int64_t i = 0; i < run; ++i) {
        half_to_float(reinterpret_cast<const Half*>(step.row(t + i)), scratch.data() + i * head_dim,
                      head_dim);
      }
      const auto in_page = static_cast<int32_t>(t % kPageTokens);
      if (per_channel) {
        pack_group(layout, side_of(t), in_page, scratch.data());
      } else {
        pack_tokens(layout, side_of(t), in_page, static_cast<int32_t>(run), scratch.data());
      }
    }
  }

  void make_prefix_private() {
    if (prefix.use_count() == 1) return;
    prefix = std::make_shared<CountedBuffer>(prefix->copy(BufferUse::kPrefix));
  }

  void fill_side_view(SideView& view, const SideStep& step, int64_t length_before, int64_t n) {
    const SidePlan& plan = *step.plan;
    const int64_t prefix_tokens = std::min<int64_t>(cache->recipe.intact_prefix, length_before + n);
    const int64_t fresh_tokens = cache->after_prefix(length_before + n) - step.tokens_before;
    view.layout = &plan.layout;
    view.window = plan.window;
    view.page_offset = plan.page_offset;
    view.prefix = {};
    if (prefix_tokens > 0) {
      view.prefix = {prefix_rows(plan), 0, prefix_tokens};
    }
    view.exact = {};
    if (plan.window == SideWindow::kNone) return;
    const int64_t R = step.residual_length;
    const int64_t first = stored_tokens(plan.window, R, step.tokens_before);
    const int64_t held = step.tokens_before - first;
    if (held > 0) {
      const int64_t slot = first % R;
      const int64_t until_wrap = std::min(held, R - slot);
      view.exact[0] = {step.ring + slot * plan.row_bytes, first, until_wrap};
      if (held > until_wrap) view.exact[1] = {step.ring, first + until_wrap, held - until_wrap};
    }
    if (fresh_tokens > 0) view.exact[2] = {step.fresh, step.tokens_before, fresh_tokens};
  }

  // Gives up pages behind the layer's window, to the save points that come back to them.
  void give_up_pages(size_t layer) {
    const LayerPlan& plan = cache->layers[layer];
    LayerState& state = layers[layer];
    for (size_t h = 0; h < plan.heads.size(); ++h) {
      const HeadPlan& head = plan.heads[h];
      const int64_t first = cache->pages_for(plan, head, state.length).first;
      state.pages[h].give_up_before(first, [&](int64_t page, const PageRef& ref) {
        for (SavePoint& point : save_points) {
          // In order, and never twice after the sequence came back to a point.
          PageList& kept = point.behind[layer][h];
          const bool needed = page < cache->pages_for(plan, head, point.length).last;
          if (needed && page == kept.last()) kept.push_back(ref);
        }
      });
    }
  }

  // How many bytes more a layer may come to hold until the sequence has `length` tokens. Steps may
  // be of any size: `most` is while one is under way that takes all tokens, before its commit gives
  // up what is behind the window; `after` holds between steps.
  struct Growth {
    int64_t most = 0;
    int64_t after = 0;
  };
  Growth growth(size_t layer, int64_t length) const {
    const LayerPlan& plan = cache->layers[layer];
    Growth growth;
    for (size_t h = 0; h < plan.heads.size(); ++h) {
      const HeadPlan& head = plan.heads[h];
      const PageList& pages = layers[layer].pages[h];
      const int64_t end = cache->pages_written(plan, head, length);
      int64_t more = std::max<int64_t>(0, end - pages.last());
      for (const PageRef& page : pages.refs()) more += page.shared() ? 1 : 0;
      growth.most += more * head.page_bytes;
      if (plan.window > 0) {
        // What save points or forks hold on to does not come free. Steps that end at other lengths
        // may hold a page more than `length` does.
        const int64_t first = std::min(end, cache->pages_for(plan, head, length).first);
        for (int64_t p = pages.first(); p < first && more > 0; ++p) {
          more -= p >= pages.last() || !(pages.at(p).shared() || saved(layer, h, p)) ? 1 : 0;
        }
        more += first > pages.first() ? 1 : 0;
      }
      growth.after += more * head.page_bytes;
    }
    growth.most = std::max(growth.most, growth.after);
    return growth;
  }

  // Whether some save point comes back to a page that the sequence holds.
  bool saved(size_t layer, size_t h, int64_t page) const {
    const LayerPlan& plan = cache->layers[layer];
    return std::any_of(save_points.begin(), save_points.end(), [&](const SavePoint& point) {
      return page < cache->pages_for(plan, plan.heads[h], point.length).last;
    });
  }

  // Whether the state after `length` tokens can be rebuilt from what one side still holds: its
  // packed tokens are all there if its pages are, so it comes down to the exact ones.
  bool side_holds(const LayerPlan& plan, const SidePlan& side, int64_t length,
                  int64_t present) const {
    const int64_t then = cache->after_prefix(length);
    const int64_t stored = stored_tokens(side.window, plan.residual_length, then);
    if (stored == then) return true;
    return stored == stored_tokens(side.window, plan.residual_length, cache->after_prefix(present));
  }

  const SavePoint* find_save_point(int64_t length) const {
    for (const SavePoint& point : save_points) {
      if (point.length == length) return &point;
    }
    return nullptr;
  }

  bool restorable(int64_t length) const {
    if (length < cache->given_tokens() || length > min_length()) return false;
    if (find_save_point(length)) return true;
    for (size_t l = 0; l < layers.size(); ++l) {
      const LayerPlan& plan = cache->layers[l];
      for (size_t h = 0; h < plan.heads.size(); ++h) {
        const HeadPlan& head = plan.heads[h];
        const PageSpan span = cache->pages_for(plan, head, length);
        if (span.count() > 0 && span.first < layers[l].pages[h].first()) return false;
        if (!side_holds(plan, head.k, length, layers[l].length)) return false;
        if (!side_holds(plan, head.v, length, layers[l].length)) return false;
      }
    }
    return true;
  }
};

KvSequence::KvSequence(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KvSequence::KvSequence(KvSequence&&) noexcept = default;
KvSequence& KvSequence::operator=(KvSequence&&) noexcept = default;
KvSequence::~KvSequence() = default;

const KvCache& KvSequence::cache() const {
  return *impl_->owner;
}
int64_t KvSequence::length(int32_t first_layer) const {
  return impl_->min_length(static_cast<size_t>(first_layer));
}

namespace {

// Rounds [n, heads, head_dim] floats to exact rows [heads, n, head_dim] of f16, or keeps them as
// f32 where `bits` says so per head. Rows of all heads have the same stride: the largest of them.
struct RoundingContext {
  int32_t layer;
  int64_t position;
  Side side;
};

[[noreturn]] void fail_numeric(const RoundingContext& where, int64_t token, int64_t head,
                               float value) {
  if (std::isfinite(value)) {
    fail(ErrorCode::kNumeric,
         "layer {}, position {}, head {}: {} value {} is beyond f16's 65504; store this layer with "
         "32 bits",
         where.layer, where.position + token, head, side_name(where.side), value);
  }
  fail(ErrorCode::kNumeric, "layer {}, position {}, head {}: {} holds {}", where.layer,
       where.position + token, head, side_name(where.side), value);
}

// Rounds one row; reports the first value that is no finite number of the target type.
void round_row(const float* x, int32_t head_dim, bool keep_float, std::byte* out,
               const RoundingContext& where, int64_t token, int64_t head) {
  // 65520 and above rounds to infinity in f16. NaN fails the comparison too.
  const float limit = keep_float ? std::numeric_limits<float>::max() : 65519.996f;
  bool fine = true;
  for (int32_t i = 0; i < head_dim; ++i) fine &= std::abs(x[i]) <= limit;
  if (!fine) {
    for (int32_t i = 0; i < head_dim; ++i) {
      if (!(std::abs(x[i]) <= limit)) fail_numeric(where, token, head, x[i]);
    }
  }
  if (keep_float) {
    std::memcpy(out, x, sizeof(float) * static_cast<size_t>(head_dim));
  } else {
    float_to_half(x, reinterpret_cast<Half*>(out), head_dim);
  }
}

}  // namespace

const LayerView& KvSequence::append(int32_t layer, const float* k, const float* v, int64_t n,
                                    AppendStage& stage, ThreadPool* pool) {
  Impl& s = *impl_;
  KvCache::Impl& cache = *s.cache;
  LOWKEY_CHECK(layer >= 0 && layer < cache.recipe.shape.num_layers && n > 0, "layer {}, {} tokens",
               layer, n);
  const LayerPlan& plan = cache.layers[static_cast<size_t>(layer)];
  LayerState& state = s.layers[static_cast<size_t>(layer)];
  const auto num_heads = static_cast<int64_t>(plan.heads.size());
  const int32_t head_dim = cache.recipe.shape.head_dim;
  const int64_t head_stride = n * head_dim * static_cast<int64_t>(sizeof(float));

  // Exact rows of the step, per head. Sized for f32 rows: the most any head needs.
  stage.layer_ = -1;
  stage.k_.resize(static_cast<size_t>(num_heads * head_stride));
  stage.v_.resize(static_cast<size_t>(num_heads * head_stride));
  const bool shared_out = pool != nullptr && n >= kTokensToShareOut;
  const auto threads = static_cast<size_t>(shared_out ? pool->num_threads() : 1);
  if (stage.unpacked_.size() < threads) stage.unpacked_.resize(threads);
  // work(head, whether of its keys, thread), for both sides of all heads.
  const auto for_each_side = [&](const auto& work) {
    const auto job = [&](int64_t task, int thread) {
      work(task % num_heads, task < num_heads, thread);
    };
    if (shared_out) {
      pool->run(2 * num_heads, std::ref(job));
    } else {
      for (int64_t task = 0; task < 2 * num_heads; ++task) job(task, 0);
    }
  };
  for_each_side([&](int64_t h, bool key, int) {
    const RoundingContext where{layer, state.length, key ? Side::kKey : Side::kValue};
    const HeadPlan& head = plan.heads[static_cast<size_t>(h)];
    const SidePlan& side = key ? head.k : head.v;
    const float* in = key ? k : v;
    std::byte* out = key ? stage.k_.data() : stage.v_.data();
    for (int64_t t = 0; t < n; ++t) {
      round_row(in + (t * num_heads + h) * head_dim, head_dim, side.layout.bits() == 32,
                out + h * head_stride + t * side.row_bytes, where, t, h);
    }
  });

  s.prepare_pages(plan, state, state.length + n);
  const int64_t prefix_limit = cache.recipe.intact_prefix;
  const int64_t into_prefix = std::clamp<int64_t>(prefix_limit - state.length, 0, n);
  if (into_prefix > 0) s.make_prefix_private();

  LayerView& view = stage.view_;
  view.position = state.length;
  view.num_tokens = n;
  view.intact_prefix = prefix_limit;
  view.residual_length = plan.residual_length;
  view.window = plan.window;
  view.prefill = cache.recipe.prefill;
  view.head_dim = head_dim;
  view.heads.resize(plan.heads.size());

  const int64_t before = cache.after_prefix(state.length);
  const int64_t after = cache.after_prefix(state.length + n);
  for_each_side([&](int64_t h, bool key, int thread) {
    const HeadPlan& head = plan.heads[static_cast<size_t>(h)];
    PageList& pages = state.pages[static_cast<size_t>(h)];
    HeadView& head_view = view.heads[static_cast<size_t>(h)];
    const SidePlan& side = key ? head.k : head.v;
    const std::byte* rows = (key ? stage.k_ : stage.v_).data() + h * head_stride;
    if (into_prefix > 0) {
      std::memcpy(s.prefix->data() + side.prefix_offset + state.length * side.row_bytes, rows,
                  static_cast<size_t>(into_prefix * side.row_bytes));
    }
    const SideStep step{&side, plan.residual_length, before, s.ring(side),
                        rows + into_prefix * side.row_bytes};
    s.store(step, pages, stored_tokens(side.window, plan.residual_length, before),
            stored_tokens(side.window, plan.residual_length, after),
            stage.unpacked_[static_cast<size_t>(thread)]);
    s.fill_side_view(key ? head_view.k : head_view.v, step, state.length, n);
    if (!key) return;
    head_view.pages = pages.data();
    head_view.num_pages = pages.last() - pages.first();
    head_view.first_page = pages.first();
  });
  stage.layer_ = layer;
  return view;
}

void KvSequence::commit(int32_t layer, AppendStage& stage) {
  Impl& s = *impl_;
  LOWKEY_CHECK(stage.layer_ == layer, "commit of layer {} after append to layer {}", layer,
               stage.layer_);
  stage.layer_ = -1;
  const LayerPlan& plan = s.cache->layers[static_cast<size_t>(layer)];
  LayerState& state = s.layers[static_cast<size_t>(layer)];
  const LayerView& view = stage.view_;
  LOWKEY_CHECK(view.position == state.length, "commit at {} after append at {}", state.length,
               view.position);
  const int64_t after = s.cache->after_prefix(state.length + view.num_tokens);
  for (size_t h = 0; h < plan.heads.size(); ++h) {
    for (const bool key : {true, false}) {
      const SidePlan& side = key ? plan.heads[h].k : plan.heads[h].v;
      if (side.window == SideWindow::kNone) continue;
      const ExactRows& fresh = (key ? view.heads[h].k : view.heads[h].v).exact[2];
      const int64_t keep_from =
          std::max(fresh.first, stored_tokens(side.window, plan.residual_length, after));
      for (int64_t t = keep_from; t < fresh.first + fresh.count; ++t) {
        std::memcpy(s.ring(side) + t % plan.residual_length * side.row_bytes,
                    fresh.rows + (t - fresh.first) * side.row_bytes,
                    static_cast<size_t>(side.row_bytes));
      }
    }
  }
  state.length += view.num_tokens;
  if (plan.window > 0) s.give_up_pages(static_cast<size_t>(layer));
}

KvSequence KvSequence::fork() const {
  auto copy = std::make_unique<Impl>();
  copy->cache = impl_->cache;
  copy->owner = impl_->owner;
  copy->layers = impl_->layers;
  copy->windows = impl_->windows.copy(BufferUse::kWindow);
  copy->prefix = impl_->prefix;
  for (const SavePoint& point : impl_->save_points) copy->save_points.push_back(point.copy());
  return KvSequence(std::move(copy));
}

void KvSequence::save_point() {
  Impl& s = *impl_;
  const int64_t length = s.min_length();
  for (const LayerState& layer : s.layers) {
    LOWKEY_CHECK(layer.length == length, "save_point in the middle of a step");
  }
  if (s.find_save_point(length)) return;
  SavePoint point{length, s.windows.copy(BufferUse::kSavePoint), {}};
  for (const LayerPlan& plan : s.cache->layers) {
    std::vector<PageList>& heads = point.behind.emplace_back();
    if (plan.window == 0) continue;
    for (const HeadPlan& head : plan.heads) {
      heads.emplace_back(s.cache->pages_for(plan, head, length).first);
    }
  }
  s.save_points.push_back(std::move(point));
}

void KvSequence::drop_save_points(size_t keep) {
  auto& points = impl_->save_points;
  if (points.size() <= keep) return;
  points.erase(points.begin(), points.end() - static_cast<std::ptrdiff_t>(keep));
}

int64_t KvSequence::nearest_restorable(int64_t length) const {
  const int64_t least = impl_->cache->given_tokens();
  length = std::min(length, impl_->min_length());
  while (length > least && !impl_->restorable(length)) --length;
  return std::max(least, length);
}

bool KvSequence::truncate(int64_t length) {
  Impl& s = *impl_;
  if (!s.restorable(length)) return false;
  const SavePoint* point = s.find_save_point(length);
  if (point) {
    if (point->windows.size() > 0) {
      std::memcpy(s.windows.data(), point->windows.data(),
                  static_cast<size_t>(point->windows.size()));
    }
  }
  for (size_t l = 0; l < s.layers.size(); ++l) {
    const LayerPlan& plan = s.cache->layers[l];
    for (size_t h = 0; h < plan.heads.size(); ++h) {
      const PageSpan span = s.cache->pages_for(plan, plan.heads[h], length);
      PageList& pages = s.layers[l].pages[h];
      if (pages.first() == span.first) {
        pages.shrink(span.last);
        continue;
      }
      PageList before(span.first);
      for (int64_t p = span.first; p < span.last; ++p) {
        before.push_back(pages.holds(p) ? pages.at(p) : point->behind[l][h].at(p));
      }
      pages = std::move(before);
    }
    s.layers[l].length = length;
  }
  // Last, for `point` is one of them.
  std::erase_if(s.save_points, [&](const SavePoint& later) { return later.length > length; });
  return true;
}

std::string KvSequence::state_bytes(int32_t layer, int32_t head, Side which) const {
  const Impl& s = *impl_;
  const LayerPlan& plan = s.cache->layers[static_cast<size_t>(layer)];
  const LayerState& state = s.layers[static_cast<size_t>(layer)];
  const HeadPlan& head_plan = plan.heads[static_cast<size_t>(head)];
  const SidePlan& side = which == Side::kKey ? head_plan.k : head_plan.v;
  const PageList& pages = state.pages[static_cast<size_t>(head)];
  const int32_t head_dim = side.layout.head_dim();
  const int64_t tokens = s.cache->after_prefix(state.length);
  const int64_t stored = stored_tokens(side.window, plan.residual_length, tokens);

  const int64_t first = std::min(stored, pages.first() * kPageTokens);

  std::string bytes = fmt::format("{} {} {}", state.length, stored, tokens - stored);
  if (plan.window > 0) bytes += fmt::format(" from {}", first);
  bytes += '\n';
  auto append_raw = [&](const void* data, int64_t size) {
    bytes.append(static_cast<const char*>(data), static_cast<size_t>(size));
  };
  const int64_t prefix_tokens = std::min<int64_t>(s.cache->recipe.intact_prefix, state.length);
  if (prefix_tokens > 0) {
    append_raw(s.prefix_rows(side), prefix_tokens * side.row_bytes);
  }
  for (int64_t t = first; t < stored; ++t) {
    const std::byte* page_side = pages.at(t / kPageTokens).data() + side.page_offset;
    const auto in_page = static_cast<int32_t>(t % kPageTokens);
    if (!side.layout.packed()) {
      append_raw(page_side + in_page * side.row_bytes, side.row_bytes);
      continue;
    }
    const auto* halves = reinterpret_cast<const Half*>(page_side);
    for (int32_t c = 0; c < head_dim; ++c) {
      bytes.push_back(static_cast<char>(read_code(side.layout, page_side, in_page, c)));
      const Half* scale = halves + side.layout.scale_index(in_page, c);
      append_raw(scale, sizeof(Half));
      append_raw(scale + side.layout.zero_point_stride(), sizeof(Half));
    }
  }
  if (side.window == SideWindow::kNone) return bytes;
  for (int64_t t = stored; t < tokens; ++t) {
    append_raw(s.ring(side) + t % plan.residual_length * side.row_bytes, side.row_bytes);
  }
  return bytes;
}

KvCache::KvCache(CacheSpec spec, int64_t max_bytes)
    : impl_(std::make_unique<Impl>(std::move(spec), max_bytes)) {}
KvCache::~KvCache() = default;

KvSequence KvCache::new_sequence() {
  auto sequence = std::make_unique<KvSequence::Impl>();
  sequence->cache = impl_.get();
  sequence->owner = this;
  for (const LayerPlan& plan : impl_->layers) {
    LayerState state;
    state.length = impl_->given_tokens();
    state.pages.resize(plan.heads.size());
    sequence->layers.push_back(std::move(state));
  }
  sequence->windows = CountedBuffer(impl_->pool, BufferUse::kWindow, impl_->windows_bytes);
  if (impl_->given_tokens() > 0 && impl_->given_tokens() == impl_->recipe.intact_prefix) {
    return KvSequence(std::move(sequence));
  }
  sequence->prefix =
      std::make_shared<CountedBuffer>(impl_->pool, BufferUse::kPrefix, impl_->prefixes_bytes);
  if (impl_->prefix) {
    impl_->for_each_given_side([&](const SidePlan& side, const Half* rows) {
      impl_->copy_given_rows(side, rows, sequence->prefix->data() + side.prefix_offset);
    });
  }
  return KvSequence(std::move(sequence));
}

const ResolvedRecipe& KvCache::recipe() const {
  return impl_->recipe;
}

const std::shared_ptr<const IntactPrefix>& KvCache::prefix() const {
  return impl_->prefix;
}

const PageLayout& KvCache::page_layout(int32_t layer, int32_t head) const {
  return impl_->layers[static_cast<size_t>(layer)].layouts[static_cast<size_t>(head)];
}

bool KvCache::try_reserve(const KvSequence& sequence, int64_t tokens) const {
  const int64_t limit = impl_->pool.max_bytes();
  if (limit == 0) return true;
  const KvSequence::Impl& s = *sequence.impl_;
  const int64_t length = s.min_length() + tokens;
  int64_t after = 0;
  int64_t in_step = 0;  // of one layer at a time
  for (size_t l = 0; l < s.layers.size(); ++l) {
    const KvSequence::Impl::Growth growth = s.growth(l, length);
    after += growth.after;
    in_step = std::max(in_step, growth.most - growth.after);
  }
  return usage().in_use() + after + in_step <= limit;
}

CacheUsage KvCache::usage() const {
  return impl_->pool.usage();
}

}  // namespace lowkey
