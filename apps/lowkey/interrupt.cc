#include "interrupt.h"

#include <csignal>

namespace lowkey {
namespace {

std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler touches it");
struct sigaction g_previous;

void on_interrupt(int signal) {
  if (g_interrupted.exchange(true)) {
    ::sigaction(SIGINT, &g_previous, nullptr);
    ::raise(signal);
  }
}

}  // namespace

InterruptGuard::InterruptGuard() {
  g_interrupted = false;
  struct sigaction action {};
  action.sa_handler = on_interrupt;  // without SA_RESTART: a read at the prompt returns
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &g_previous);
}

InterruptGuard::~InterruptGuard() {
  ::sigaction(SIGINT, &g_previous, nullptr);
}

const std::atomic<bool>& InterruptGuard::flag() const {
  return g_interrupted;
}
void InterruptGuard::reset() {
  g_interrupted = false;
}

}  // namespace lowkey
