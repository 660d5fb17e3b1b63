#pragma once
// How much memory a piece of work takes at its highest.
#include <cstdint>
#include <functional>

namespace lowkey::test {

struct PeakMemory {
  uint64_t bytes = 0;  // resident beyond what was resident before
};

// Runs `work` and measures (Linux: VmHWM, reset first). Under a sanitizer the figure would be that
// of its shadow and quarantine, so it is 0 there: the limits are checked in ordinary builds.
PeakMemory peak_memory_of(const std::function<void()>& work);

}  // namespace lowkey::test
