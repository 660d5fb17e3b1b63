#pragma once
// Counts calls of operator new in the whole process. A test binary that uses it names
// allocations.cc among its sources: that replaces the global operator.
#include <cstdint>

namespace lowkey::test {

class AllocationCount {
 public:
  AllocationCount();
  int64_t since() const;  // allocations since construction, on all threads

 private:
  int64_t start_;
};

}  // namespace lowkey::test
