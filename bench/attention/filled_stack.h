#pragma once
// A stack of layers whose cache is full: many sequences of one length, each in memory of its own.
#include <cstdint>
#include <memory>
#include <vector>

#include "attention/attend.h"
#include "cache/kv_cache.h"
#include "recipe/recipe.h"

namespace lowkey::bench {

// `batch` sequences of `context` tokens, the last of which is the one being decoded. The first is
// really appended, random keys and values in every layer; the others are copies of it, byte by byte
// and page by page in the order in which the cache would have allocated them, so that filling many
// gigabytes takes seconds and no byte that attention reads is read for two sequences. They take
// what the cache would take, which is checked.
class FilledStack {
 public:
  FilledStack(const ResolvedRecipe& recipe, int64_t context, int64_t batch, ThreadPool& pool);

  // One decode step of all sequences: every layer's attention, one after the other. Seconds.
  double step(ThreadPool& pool, AttendWorkspace& workspace);

  // Distance of the last sequence's last layer from attend_ref, relative.
  double output_error(ThreadPool& pool, AttendWorkspace& workspace);

  int64_t kv_bytes() const { return kv_bytes_; }

 private:
  struct Copy {
    std::vector<LayerView> views;                          // [layer]
    std::vector<std::vector<std::vector<PageRef>>> pages;  // [layer][head][page]
    CountedBuffer windows;
    std::vector<std::byte> fresh;  // the new token's exact rows
  };

  void append_source(int64_t context, ThreadPool& pool);
  Copy allocate_copy();
  void fill_copy(Copy& copy) const;
  void attend_layer(size_t layer, ThreadPool& pool, AttendWorkspace& workspace);

  KvShape shape_;
  KvCache cache_;
  KvSequence source_;
  std::vector<AppendStage> stages_;  // [layer], of the source
  PagePool pool_;
  std::vector<Copy> copies_;
  std::vector<float> q_, out_;  // [batch, heads, head_dim]
  std::vector<AttendItem> items_;
  int64_t kv_bytes_ = 0;
};

}  // namespace lowkey::bench
