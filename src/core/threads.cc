#include "core/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lowkey {
namespace {

// About 20 us at 4 GHz: longer than the gap between two layers of a decode step, far shorter than a
// scheduler tick.
constexpr int kSpins = 2000;

void cpu_relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int cores_allowed() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<bool> stopping{false};

  const std::function<void(int64_t, int)>* job = nullptr;
  int64_t num_tasks = 0;
  std::atomic<int64_t> next_task{0};
  std::atomic<int> active{0};  // workers that have not yet left the current job
  std::mutex error_mutex;
  std::exception_ptr error;

  void work(int thread) {
    for (;;) {
      const int64_t task = next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks) return;
      try {
        (*job)(task, thread);
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next_task.store(num_tasks, std::memory_order_relaxed);  // nobody starts another task
      }
    }
  }

  void worker_loop(int thread) {
    uint64_t seen = 0;
    for (;;) {
      int spins = 0;
      while (generation.load(std::memory_order_acquire) == seen &&
             !stopping.load(std::memory_order_relaxed)) {
        if (++spins < kSpins) {
          cpu_relax();
          continue;
        }
        std::unique_lock lock(mutex);
        wake.wait(lock,
                  [&] { return generation.load(std::memory_order_acquire) != seen || stopping; });
      }
      if (stopping) return;
      seen = generation.load(std::memory_order_acquire);
      work(thread);
      active.fetch_sub(1, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  if (num_threads <= 0) num_threads = cores_allowed();
  for (int i = 1; i < num_threads; ++i)
    state_->workers.emplace_back([this, i] { state_->worker_loop(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::num_threads() const {
  return static_cast<int>(state_->workers.size()) + 1;
}

void ThreadPool::run(int64_t num_tasks, const std::function<void(int64_t, int)>& job) {
  State& s = *state_;
  if (num_tasks <= 0) return;
  if (num_tasks == 1 || s.workers.empty()) {
    for (int64_t task = 0; task < num_tasks; ++task) job(task, 0);
    return;
  }
  LOWKEY_CHECK(s.active.load() == 0,
               "ThreadPool::run called from two threads or from inside a job");
  s.job = &job;
  s.num_tasks = num_tasks;
  s.error = nullptr;
  s.next_task.store(0, std::memory_order_relaxed);
  s.active.store(static_cast<int>(s.workers.size()), std::memory_order_relaxed);
  {
    // The lock orders this with a worker between its check and its wait; without it the wake-up
    // could be lost.
    std::lock_guard lock(s.mutex);
    s.generation.fetch_add(1, std::memory_order_release);
  }
  s.wake.notify_all();
  s.work(0);
  int spins = 0;
  while (s.active.load(std::memory_order_acquire) != 0) {
    if (++spins < kSpins) {
      cpu_relax();
    } else {
      std::this_thread::yield();
    }
  }
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace lowkey
