#include "cache/page_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "core/checked.h"
#include "core/error.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

// Chunks double from small to large: a short chat with a small model must not reserve 32 MiB, and a
// long one wants huge pages (reading pages from DRAM is a quarter faster on them: facts of the
// prototype, docs/formats/pages.md).
constexpr int64_t kFirstChunkBytes = int64_t{64} << 10;
constexpr int64_t kLargestChunkBytes = int64_t{32} << 20;
constexpr int64_t kHugePageBytes = int64_t{2} << 20;

int64_t& counter(CacheUsage& usage, BufferUse use) {
  switch (use) {
    case BufferUse::kWindow: return usage.window_bytes;
    case BufferUse::kPrefix: return usage.prefix_bytes;
    case BufferUse::kSavePoint: return usage.save_point_bytes;
  }
  return usage.window_bytes;
}

// Page-aligned memory straight from the system; chunks of whole huge pages are aligned to them.
std::span<std::byte> map_chunk(int64_t bytes) {
  const bool huge = bytes % kHugePageBytes == 0;
  const int64_t slack = huge ? kHugePageBytes : 0;
  void* address = ::mmap(nullptr, static_cast<size_t>(bytes + slack), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) {
    fail(ErrorCode::kResourceExhausted, "KV cache: the system has no {} bytes more", bytes);
  }
  auto* start = static_cast<std::byte*>(address);
  if (huge) {
    const auto misaligned =
        static_cast<int64_t>(reinterpret_cast<uintptr_t>(start) % kHugePageBytes);
    const int64_t skip = misaligned == 0 ? 0 : kHugePageBytes - misaligned;
    if (skip > 0) ::munmap(start, static_cast<size_t>(skip));
    if (slack > skip) ::munmap(start + skip + bytes, static_cast<size_t>(slack - skip));
    start += skip;
    ::madvise(start, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // advice: may be refused
  }
  return {start, static_cast<size_t>(bytes)};
}

}  // namespace

PageRef::PageRef(const PageRef& other) : page_(other.page_), data_(other.data_) {
  if (page_) page_->references.fetch_add(1, std::memory_order_relaxed);
}

PageRef::~PageRef() {
  if (page_ && page_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    page_->pool->release(page_);
  }
}

CountedBuffer::CountedBuffer(PagePool& pool, BufferUse use, int64_t bytes)
    : pool_(&pool), bytes_(bytes), use_(use) {
  if (bytes == 0) return;
  pool.account(use, bytes);
  const auto size = static_cast<size_t>(round_up<int64_t>(bytes, kPageAlignment));
  data_ = static_cast<std::byte*>(std::aligned_alloc(kPageAlignment, size));
  if (!data_) {
    pool.account(use, -bytes);
    fail(ErrorCode::kResourceExhausted, "KV cache: the system has no {} bytes more", bytes);
  }
  std::memset(data_, 0, size);
}

CountedBuffer CountedBuffer::elsewhere(PagePool& pool, BufferUse use, int64_t bytes) {
  pool.account(use, bytes);
  CountedBuffer result;
  result.pool_ = &pool;
  result.bytes_ = bytes;
  result.use_ = use;
  return result;
}

CountedBuffer& CountedBuffer::operator=(CountedBuffer&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(use_, other.use_);
  return *this;
}

CountedBuffer::~CountedBuffer() {
  if (!pool_) return;
  std::free(data_);
  pool_->account(use_, -bytes_);
}

CountedBuffer CountedBuffer::copy(BufferUse use) const {
  if (!pool_) return {};
  CountedBuffer result(*pool_, use, bytes_);
  if (data_) std::memcpy(result.data_, data_, static_cast<size_t>(bytes_));
  return result;
}

PagePool::~PagePool() {
  LOWKEY_CHECK(usage_.in_use() == 0, "{} bytes still in use: sequences must die before the cache",
               usage_.in_use());
  for (std::span<std::byte> chunk : chunks_) ::munmap(chunk.data(), chunk.size());
}

int32_t PagePool::find_class(int64_t bytes) {
  for (size_t i = 0; i < classes_.size(); ++i) {
    if (classes_[i].bytes == bytes) return static_cast<int32_t>(i);
  }
  classes_.push_back({});
  classes_.back().bytes = bytes;
  classes_.back().next_chunk_bytes = kFirstChunkBytes;
  return static_cast<int32_t>(classes_.size()) - 1;
}

void PagePool::grow(SizeClass& size_class, int32_t index) {
  const int64_t chunk_bytes =
      std::max(size_class.next_chunk_bytes, round_up<int64_t>(size_class.bytes, kFirstChunkBytes));
  const std::span<std::byte> chunk = map_chunk(chunk_bytes);
  chunks_.push_back(chunk);
  usage_.reserved_bytes += chunk_bytes;
  const int64_t count = chunk_bytes / size_class.bytes;
  auto headers = std::make_unique<Page[]>(static_cast<size_t>(count));
  size_class.free.reserve(size_class.free.size() + static_cast<size_t>(count));
  // Handed out from the back: pushed in reverse, so that neighbours in time are neighbours in
  // memory.
  for (int64_t i = count - 1; i >= 0; --i) {
    headers[static_cast<size_t>(i)].data = chunk.data() + i * size_class.bytes;
    headers[static_cast<size_t>(i)].pool = this;
    headers[static_cast<size_t>(i)].size_class = index;
    size_class.free.push_back(&headers[static_cast<size_t>(i)]);
  }
  size_class.headers.push_back(std::move(headers));
  size_class.next_chunk_bytes = std::min(kLargestChunkBytes, 2 * chunk_bytes);
}

// Pages that came back lie anywhere; those that go out together should be neighbours again. Once a
// quarter of the list is new, so that a page in, a page out does not sort each time.
void PagePool::put_in_order(SizeClass& size_class) {
  if (size_class.out_of_order * 4 <= size_class.free.size()) return;
  std::sort(size_class.free.begin(), size_class.free.end(),
            [](const Page* a, const Page* b) { return std::greater<>()(a->data, b->data); });
  size_class.out_of_order = 0;
}

PageRef PagePool::allocate(int64_t bytes) {
  LOWKEY_CHECK(bytes > 0 && bytes % kPageAlignment == 0, "page of {} bytes", bytes);
  Page* page = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (max_bytes_ > 0 && usage_.in_use() + bytes > max_bytes_) {
      fail(ErrorCode::kResourceExhausted,
           "KV cache: its {} bytes are used up; give it more, or use fewer bits", max_bytes_);
    }
    const int32_t index = find_class(bytes);
    SizeClass& size_class = classes_[static_cast<size_t>(index)];
    if (size_class.free.empty()) grow(size_class, index);
    put_in_order(size_class);
    page = size_class.free.back();
    size_class.free.pop_back();
    usage_.page_bytes += bytes;
  }
  std::memset(page->data, 0, static_cast<size_t>(bytes));
  page->references.store(1, std::memory_order_relaxed);
  return PageRef(page);
}

PageRef PagePool::copy(const PageRef& page) {
  int64_t bytes;
  {
    std::lock_guard lock(mutex_);
    bytes = classes_[static_cast<size_t>(page.page_->size_class)].bytes;
  }
  PageRef result = allocate(bytes);
  std::memcpy(result.mutable_data(), page.data(), static_cast<size_t>(bytes));
  return result;
}

void PagePool::release(Page* page) {
  std::lock_guard lock(mutex_);
  SizeClass& size_class = classes_[static_cast<size_t>(page->size_class)];
  size_class.free.push_back(page);  // capacity was reserved in grow(): cannot throw
  ++size_class.out_of_order;
  usage_.page_bytes -= size_class.bytes;
}

void PagePool::account(BufferUse use, int64_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes > 0 && max_bytes_ > 0 && usage_.in_use() + bytes > max_bytes_) {
    fail(ErrorCode::kResourceExhausted,
         "KV cache: its {} bytes are used up; give it more, or use fewer bits", max_bytes_);
  }
  counter(usage_, use) += bytes;
}

CacheUsage PagePool::usage() const {
  std::lock_guard lock(mutex_);
  return usage_;
}

}  // namespace lowkey
