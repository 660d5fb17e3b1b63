#pragma once
// Memory of the cache: reference-counted pages of a few sizes out of huge-page chunks, and counted
// buffers for windows and prefixes. Everything the accounting reports comes from here. Torch-free.
// Thread-safe.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

namespace lowkey {

struct CacheUsage {
  int64_t page_bytes = 0;        // pages in use, each counted once however many sequences share it
  int64_t window_bytes = 0;      // exact windows
  int64_t prefix_bytes = 0;      // intact prefixes, each counted once, wherever they lie
  int64_t save_point_bytes = 0;  // windows set aside
  int64_t reserved_bytes = 0;    // what the pool holds of the system for pages, free ones included
  int64_t in_use() const { return page_bytes + window_bytes + prefix_bytes + save_point_bytes; }
};

class PagePool;

struct Page {
  std::byte* data = nullptr;
  PagePool* pool = nullptr;
  std::atomic<int32_t> references{0};
  int32_t size_class = 0;
};

// Owns one reference to a page. Where its bytes lie is known without looking at the page's header:
// between two pages of a decode step, that look would be a read from memory that everything waits
// for.
class PageRef {
 public:
  PageRef() = default;
  PageRef(const PageRef& other);
  PageRef(PageRef&& other) noexcept
      : page_(std::exchange(other.page_, nullptr)), data_(std::exchange(other.data_, nullptr)) {}
  PageRef& operator=(PageRef other) noexcept {
    std::swap(page_, other.page_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~PageRef();

  const std::byte* data() const { return data_; }
  std::byte* mutable_data() const { return data_; }
  bool shared() const { return page_->references.load(std::memory_order_acquire) > 1; }
  explicit operator bool() const { return page_ != nullptr; }

 private:
  friend class PagePool;
  explicit PageRef(Page* page) : page_(page), data_(page->data) {}
  Page* page_ = nullptr;
  std::byte* data_ = nullptr;
};

enum class BufferUse : uint8_t { kWindow, kPrefix, kSavePoint };

// A zeroed, 64-byte aligned buffer whose bytes are counted under its use.
class CountedBuffer {
 public:
  CountedBuffer() = default;
  CountedBuffer(PagePool& pool, BufferUse use, int64_t bytes);
  // Counts bytes that lie elsewhere: data() is null.
  static CountedBuffer elsewhere(PagePool& pool, BufferUse use, int64_t bytes);
  CountedBuffer(CountedBuffer&& other) noexcept { *this = std::move(other); }
  CountedBuffer& operator=(CountedBuffer&& other) noexcept;
  ~CountedBuffer();
  CountedBuffer copy(BufferUse use) const;
  std::byte* data() const { return data_; }
  int64_t size() const { return bytes_; }

 private:
  PagePool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  BufferUse use_ = BufferUse::kWindow;
};

class PagePool {
 public:
  // max_bytes bounds in_use(); 0 means no bound.
  explicit PagePool(int64_t max_bytes = 0) : max_bytes_(max_bytes) {}
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // A zeroed page of `bytes` (a multiple of 64). Throws Error kResourceExhausted when max_bytes
  // would be passed.
  PageRef allocate(int64_t bytes);
  PageRef copy(const PageRef& page);  // a private copy, for copy on write
  CacheUsage usage() const;
  int64_t max_bytes() const { return max_bytes_; }

 private:
  friend class PageRef;
  friend class CountedBuffer;
  struct SizeClass {
    int64_t bytes = 0;
    int64_t next_chunk_bytes = 0;
    std::vector<Page*> free;  // handed out from the back
    size_t out_of_order = 0;  // pages that came back since `free` was last in order
    std::vector<std::unique_ptr<Page[]>> headers;
  };
  void release(Page* page);
  int32_t find_class(int64_t bytes);
  void grow(SizeClass& size_class, int32_t index);
  static void put_in_order(SizeClass& size_class);
  void account(BufferUse use, int64_t bytes);

  const int64_t max_bytes_;
  mutable std::mutex mutex_;
  std::vector<SizeClass> classes_;
  std::vector<std::span<std::byte>> chunks_;
  CacheUsage usage_;
};

}  // namespace lowkey
