#pragma once
// How long work takes, whatever else the machine is doing: processor time, where the clock on the
// wall also counts other processes.
#include <sys/resource.h>

#include <ctime>

namespace lowkey::test {

// Processor seconds of the calling thread.
inline double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Processor seconds of this process and of the children it has waited for.
inline double process_cpu_seconds() {
  double sum = 0;
  for (int who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage used{};
    ::getrusage(who, &used);
    for (const timeval& time : {used.ru_utime, used.ru_stime}) {
      sum += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    }
  }
  return sum;
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LOWKEY_TEST_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOWKEY_TEST_SANITIZED 1
#endif

// Sanitizers and unoptimized builds take longer; limits are stated for what users run.
#if defined(LOWKEY_TEST_SANITIZED) || !defined(NDEBUG)
inline constexpr double kSlowBuild = 20.0;
#else
inline constexpr double kSlowBuild = 1.0;
#endif

}  // namespace lowkey::test
