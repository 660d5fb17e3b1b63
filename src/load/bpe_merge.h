#pragma once
// The merging at the heart of every BPE here: join the best pair of neighbours until none is left.
// O(n log n) with a heap over a linked list, so that a megabyte of one letter stays quick.
// Torch-free; a Merger is scratch space of one thread.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace lowkey {

struct BpeSymbol {
  uint32_t begin = 0, end = 0;  // bytes of the piece
  int32_t id = -1;              // -1: no token (it may still be part of one)
};

struct BpeCandidate {
  uint32_t priority = 0;  // smallest first; ties: leftmost first
  int32_t id = -1;        // of the joined token
};

class BpeMerger {
 public:
  // Merges `symbols`, neighbours in text, in place. find(left, right) answers
  // std::optional<BpeCandidate>; it must depend on nothing but the two.
  template <typename Find>
  void merge(std::vector<BpeSymbol>& symbols, Find&& find) {
    const auto count = static_cast<int32_t>(symbols.size());
    links_.resize(symbols.size());
    heap_.clear();
    for (int32_t i = 0; i < count; ++i) links_[at(i)] = {i - 1, i + 1 < count ? i + 1 : -1};
    for (int32_t i = 0; i + 1 < count; ++i) consider(symbols, i, i + 1, find);
    // The first fill is one heapify, not n insertions.
    std::make_heap(heap_.begin(), heap_.end(), Later{});
    filled_ = true;
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), Later{});
      const Entry entry = heap_.back();
      heap_.pop_back();
      BpeSymbol& left = symbols[at(entry.left)];
      const BpeSymbol& right = symbols[at(entry.right)];
      // Stale: one of the two has been joined with something since. Spans only ever grow (to the
      // right) or die, so equal ends mean equal symbols.
      if (dead(left) || dead(right) || left.end != right.begin || right.end != entry.end) continue;
      left.end = right.end;
      left.id = entry.id;
      const int32_t next = links_[at(entry.right)].next;
      symbols[at(entry.right)].end = symbols[at(entry.right)].begin;
      links_[at(entry.left)].next = next;
      if (next >= 0) links_[at(next)].previous = entry.left;
      if (const int32_t previous = links_[at(entry.left)].previous; previous >= 0) {
        consider(symbols, previous, entry.left, find);
      }
      if (next >= 0) consider(symbols, entry.left, next, find);
    }
    filled_ = false;
    std::erase_if(symbols, dead);
  }

 private:
  struct Link {
    int32_t previous, next;
  };
  struct Entry {
    uint64_t order;  // priority, then position
    int32_t left, right;
    uint32_t end;
    int32_t id;
  };
  struct Later {
    bool operator()(const Entry& a, const Entry& b) const { return a.order > b.order; }
  };

  static size_t at(int32_t i) { return static_cast<size_t>(i); }
  static bool dead(const BpeSymbol& symbol) { return symbol.begin == symbol.end; }

  template <typename Find>
  void consider(const std::vector<BpeSymbol>& symbols, int32_t left, int32_t right, Find& find) {
    const std::optional<BpeCandidate> found = find(symbols[at(left)], symbols[at(right)]);
    if (!found) return;
    const uint64_t order =
        uint64_t{found->priority} << 32 | static_cast<uint64_t>(static_cast<uint32_t>(left));
    heap_.push_back({order, left, right, symbols[at(right)].end, found->id});
    if (filled_) std::push_heap(heap_.begin(), heap_.end(), Later{});
  }

  std::vector<Link> links_;
  std::vector<Entry> heap_;
  bool filled_ = false;
};

}  // namespace lowkey
