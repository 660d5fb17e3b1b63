#pragma once
// Processor time of this process and of the children it has waited for: what a bound on work should
// be held to, where the clock on the wall also counts what else the machine does.
#include <sys/resource.h>

namespace lowkey::test {

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

}  // namespace lowkey::test
