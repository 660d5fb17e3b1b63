#pragma once
// Vectors that begin on a line of the cache (64 bytes): kernels' loads and stores of 64 bytes then
// never straddle two, which halves their rate and keeps a load from taking what was just stored.
#include <cstddef>
#include <new>
#include <vector>

namespace lowkey {

template <typename T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};

  LineAllocator() = default;
  template <typename U>
  explicit LineAllocator(const LineAllocator<U>& /*other*/) {}
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), kAlignment));
  }
  void deallocate(T* p, size_t /*count*/) { ::operator delete(p, kAlignment); }
  friend bool operator==(LineAllocator /*a*/, LineAllocator /*b*/) { return true; }
};

template <typename T>
using AlignedVector = std::vector<T, LineAllocator<T>>;

}  // namespace lowkey
