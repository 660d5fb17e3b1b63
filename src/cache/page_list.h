#pragma once
// The pages one head holds: a run of them, for those behind its layer's window are given up.
// Not thread-safe.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "cache/page_pool.h"
#include "core/error.h"

namespace lowkey {

// Page p holds tokens [p * kPageTokens, ...) after the prefix; pages [first(), last()) are here.
class PageList {
 public:
  PageList() = default;
  explicit PageList(int64_t first) : first_(first) {}

  int64_t first() const { return first_; }
  int64_t last() const { return first_ + std::ssize(refs_); }
  bool holds(int64_t page) const { return page >= first_ && page < last(); }
  PageRef& at(int64_t page) { return refs_[index(page)]; }
  const PageRef& at(int64_t page) const { return refs_[index(page)]; }
  const PageRef* data() const { return refs_.data(); }  // of page first()
  const std::vector<PageRef>& refs() const { return refs_; }

  void push_back(PageRef page) { refs_.push_back(std::move(page)); }

  // Gives up pages from `last` on.
  void shrink(int64_t last) {
    refs_.resize(static_cast<size_t>(std::clamp(last, first_, this->last()) - first_));
  }

  // Gives up pages before `first`, where the list begins from then on; each goes to
  // take(page, reference).
  template <typename Take>
  void give_up_before(int64_t first, const Take& take) {
    if (first <= first_) return;
    const int64_t end = std::min(first, last());
    for (int64_t page = first_; page < end; ++page) take(page, std::move(at(page)));
    refs_.erase(refs_.begin(), refs_.begin() + static_cast<std::ptrdiff_t>(end - first_));
    first_ = first;
  }

 private:
  size_t index(int64_t page) const {
    LOWKEY_DCHECK(holds(page), "page {} of [{}, {})", page, first_, last());
    return static_cast<size_t>(page - first_);
  }

  int64_t first_ = 0;
  std::vector<PageRef> refs_;
};

}  // namespace lowkey
