#pragma once
// Ctrl-C while an answer is being written ends the answer, not the program; a second one, before
// the first was noticed, ends the program as usual.
#include <atomic>

namespace lowkey {

class InterruptGuard {
 public:
  InterruptGuard();   // from here on Ctrl-C sets the flag
  ~InterruptGuard();  // as before
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  const std::atomic<bool>& flag() const;
  void reset();
};

}  // namespace lowkey
