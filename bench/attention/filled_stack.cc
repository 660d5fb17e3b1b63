#include "attention/filled_stack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention/stream_read.h"
#include "core/error.h"
#include "core/rng.h"
#include "recipe/bytes.h"

namespace lowkey::bench {
namespace {

// Prompts are stored in pieces of this many tokens (kPrefillChunk of the engine): it decides which
// pages are neighbours in memory.
constexpr int64_t kChunkTokens = 512;

std::vector<float> random_floats(int64_t count, uint64_t seed) {
  SplitMix64 rng(seed);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) {
    value = static_cast<float>(rng.uniform() + rng.uniform() + rng.uniform() - 1.5);
  }
  return x;
}

int64_t row_bytes(const SideLayout& layout) {
  return int64_t{layout.head_dim()} * (layout.bits() == 32 ? 4 : 2);
}

}  // namespace

FilledStack::FilledStack(const ResolvedRecipe& recipe, int64_t context, int64_t batch,
                         ThreadPool& pool)
    : shape_(recipe.shape),
      cache_(recipe),
      source_(cache_.new_sequence()),
      stages_(static_cast<size_t>(shape_.num_layers)) {
  append_source(context, pool);
  for (int64_t s = 1; s < batch; ++s) copies_.push_back(allocate_copy());
  pool.run(std::ssize(copies_),
           [&](int64_t i, int) { fill_copy(copies_[static_cast<size_t>(i)]); });
  kv_bytes_ = cache_.usage().in_use() + pool_.usage().in_use();
  const int64_t expected = bytes_at(recipe, context).total() * batch;
  LOWKEY_CHECK(kv_bytes_ == expected, "{} bytes filled, a cache would take {}", kv_bytes_,
               expected);
  const int64_t width = int64_t{shape_.num_kv_heads} * shape_.head_dim;
  q_ = random_floats(batch * width, 8);
  for (float& value : q_) value *= 2;  // so that the softmax is no mere average
  out_.resize(q_.size());
  items_.resize(static_cast<size_t>(batch));
}

void FilledStack::append_source(int64_t context, ThreadPool& pool) {
  const int64_t width = int64_t{shape_.num_kv_heads} * shape_.head_dim;
  const int64_t longest = std::min(kChunkTokens, context);
  const std::vector<float> k = random_floats(longest * width, 6);
  const std::vector<float> v = random_floats(longest * width, 7);
  while (source_.length() < context - 1) {
    const int64_t n = std::min(kChunkTokens, context - 1 - source_.length());
    for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
      AppendStage& stage = stages_[static_cast<size_t>(layer)];
      source_.append(layer, k.data(), v.data(), n, stage, &pool);
      source_.commit(layer, stage);
    }
  }
  // The step's own token, which every layer's stage then holds: it is never committed.
  for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
    source_.append(layer, k.data(), v.data(), 1, stages_[static_cast<size_t>(layer)]);
  }
}

FilledStack::Copy FilledStack::allocate_copy() {
  Copy copy;
  copy.pages.resize(stages_.size());
  for (auto& heads : copy.pages) heads.resize(static_cast<size_t>(shape_.num_kv_heads));
  copy.windows = CountedBuffer(pool_, BufferUse::kWindow, bytes_at(cache_.recipe(), 0).windows);
  // As appending piece by piece does: pieces outside, then layers, then heads.
  bool more = true;
  for (int64_t first = 0; more; first += kChunkTokens / kPageTokens) {
    more = false;
    for (size_t layer = 0; layer < stages_.size(); ++layer) {
      const LayerView& view = stages_[layer].view();
      for (size_t head = 0; head < view.heads.size(); ++head) {
        const int64_t last = first + kChunkTokens / kPageTokens;
        const int64_t bytes =
            cache_.page_layout(static_cast<int32_t>(layer), static_cast<int32_t>(head)).bytes;
        for (int64_t p = first; p < std::min(last, view.heads[head].num_pages); ++p) {
          copy.pages[layer][head].push_back(pool_.allocate(bytes));
        }
        more = more || view.heads[head].num_pages > last;
      }
    }
  }
  return copy;
}

void FilledStack::fill_copy(Copy& copy) const {
  int64_t fresh_bytes = 0;
  for (const AppendStage& stage : stages_) {
    for (const HeadView& head : stage.view().heads) {
      for (const SideView* side : {&head.k, &head.v}) {
        fresh_bytes += side->exact[2].count * row_bytes(*side->layout);
      }
    }
  }
  copy.fresh.resize(static_cast<size_t>(fresh_bytes));
  std::byte* fresh = copy.fresh.data();
  std::byte* ring = copy.windows.data();
  for (size_t layer = 0; layer < stages_.size(); ++layer) {
    LayerView view = stages_[layer].view();
    LOWKEY_CHECK(view.intact_prefix == 0, "a stack with an intact prefix");
    for (size_t h = 0; h < view.heads.size(); ++h) {
      HeadView& head = view.heads[h];
      const int64_t page_bytes =
          cache_.page_layout(static_cast<int32_t>(layer), static_cast<int32_t>(h)).bytes;
      std::vector<PageRef>& pages = copy.pages[layer][h];
      for (size_t p = 0; p < pages.size(); ++p) {
        std::memcpy(pages[p].mutable_data(), head.pages[p].data(), static_cast<size_t>(page_bytes));
      }
      head.pages = pages.data();
      for (SideView* side : {&head.k, &head.v}) {
        const int64_t bytes = row_bytes(*side->layout);
        const auto move_rows = [&](ExactRows& rows, std::byte* to) {
          if (rows.count == 0) return;
          std::memcpy(to, rows.rows, static_cast<size_t>(rows.count * bytes));
          rows.rows = to;
        };
        // The ring's two parts, each at its own slots.
        for (ExactRows* rows : {&side->exact[0], &side->exact[1]}) {
          if (rows->count > 0) move_rows(*rows, ring + rows->first % view.residual_length * bytes);
        }
        ring += window_capacity(side->window, view.residual_length) * bytes;
        move_rows(side->exact[2], fresh);
        fresh += side->exact[2].count * bytes;
      }
    }
    copy.views.push_back(std::move(view));
  }
}

void FilledStack::attend_layer(size_t layer, ThreadPool& pool, AttendWorkspace& workspace) {
  const size_t width = q_.size() / items_.size();
  for (size_t i = 0; i < items_.size(); ++i) {
    const LayerView& view = i == 0 ? stages_[layer].view() : copies_[i - 1].views[layer];
    items_[i] = {&view, q_.data() + i * width, out_.data() + i * width};
  }
  attend({.items = items_,
          .num_qo_heads = shape_.num_kv_heads,
          .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim))},
         pool, workspace);
}

double FilledStack::step(ThreadPool& pool, AttendWorkspace& workspace) {
  const double start = now_seconds();
  for (size_t layer = 0; layer < stages_.size(); ++layer) attend_layer(layer, pool, workspace);
  return now_seconds() - start;
}

double FilledStack::output_error(ThreadPool& pool, AttendWorkspace& workspace) {
  attend_layer(stages_.size() - 1, pool, workspace);
  const AttendItem& last = items_.back();
  const size_t width = q_.size() / items_.size();
  std::vector<float> expected(width);
  const AttendItem item{last.view, last.q, expected.data()};
  attend_ref({.items = {&item, 1},
              .num_qo_heads = shape_.num_kv_heads,
              .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim))});
  double error = 0, norm = 0;
  for (size_t i = 0; i < width; ++i) {
    error += std::pow(static_cast<double>(last.out[i]) - expected[i], 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(error / norm);
}

}  // namespace lowkey::bench
