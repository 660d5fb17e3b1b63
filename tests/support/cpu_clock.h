#pragma once
// How long work takes, whatever else the machine is doing.
#include <ctime>

namespace lowkey::test {

// Processor seconds of the calling thread.
inline double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Sanitizers and unoptimized builds take longer; limits are stated for what users run.
#if defined(__SANITIZE_ADDRESS__) || !defined(NDEBUG)
inline constexpr double kSlowBuild = 20.0;
#else
inline constexpr double kSlowBuild = 1.0;
#endif

}  // namespace lowkey::test
