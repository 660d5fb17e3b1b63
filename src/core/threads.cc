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

// 20 to 100 us, by processor: longer than the gap between two layers of a decode step, far shorter
// than a scheduler tick.
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

// A job is an epoch. One word holds the epoch and the next task to claim, so a claim succeeds only
// in the epoch it was meant for: a worker that arrives late finds nothing to claim, and run() waits
// for tasks, never for workers. (Waiting until every worker has passed by cost 130 to 190 us per
// job of two tasks on two cores shared with six builds; this costs 0.4.)
struct ThreadPool::State {
  using Job = std::function<void(int64_t, int)>;

  // What is left of one thread's part in run_in_parts; on a line of memory of its own.
  struct alignas(64) Part {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::vector<Part> parts;  // one per thread

  static constexpr uint64_t kIndexMask = 0xffffffffu;  // as an index: closed
  static uint64_t epoch_of(uint64_t ticket) { return ticket >> 32; }

  std::vector<std::thread> workers;
  std::mutex mutex;  // guards sleeping and the condition variable
  std::condition_variable wake;
  int sleeping = 0;
  std::atomic<bool> stopping{false};

  // A late worker may read these while the next job is being set up. It uses them only if its claim
  // then succeeds, and it cannot: run() closes the ticket before it changes them, and a reader of
  // what was changed has seen the closing (release and acquire).
  // Each on lines of memory of its own: the ticket is what idle workers look at, and every store to
  // the same line would wait for them to give it back.
  alignas(64) std::atomic<const Job*> job{nullptr};
  std::atomic<uint64_t> num_tasks{0};
  alignas(64) std::atomic<uint64_t> ticket{0};  // epoch << 32 | next task
  alignas(64) std::atomic<uint64_t> unfinished{0};
  alignas(64) std::mutex error_mutex;
  std::exception_ptr error;

  void work(int thread) {
    uint64_t seen = ticket.load(std::memory_order_acquire);
    const uint64_t epoch = epoch_of(seen);
    for (;;) {
      const uint64_t tasks = num_tasks.load(std::memory_order_acquire);
      const Job* const current = job.load(std::memory_order_acquire);
      const uint64_t task = seen & kIndexMask;
      if (epoch_of(seen) != epoch || task >= tasks) return;
      if (!ticket.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
        continue;
      }
      try {
        (*current)(static_cast<int64_t>(task), thread);
      } catch (...) {
        give_up(epoch, tasks);
      }
      unfinished.fetch_sub(1, std::memory_order_release);
      seen = ticket.load(std::memory_order_acquire);
    }
  }

  // Keeps the first exception and takes back what nobody has claimed. The caller's own task is
  // still unfinished, so the epoch cannot end meanwhile.
  void give_up(uint64_t epoch, uint64_t tasks) {
    std::lock_guard lock(error_mutex);
    if (!error) error = std::current_exception();
    const uint64_t before = ticket.exchange(epoch << 32 | tasks, std::memory_order_acq_rel);
    unfinished.fetch_sub(tasks - (before & kIndexMask), std::memory_order_release);
  }

  bool idle(uint64_t seen) const {
    return epoch_of(ticket.load(std::memory_order_acquire)) == seen &&
           !stopping.load(std::memory_order_relaxed);
  }

  void worker_loop(int thread) {
    uint64_t seen = 0;
    for (;;) {
      for (int spins = 0; spins < kSpins && idle(seen); ++spins) cpu_relax();
      if (idle(seen)) {
        std::unique_lock lock(mutex);
        ++sleeping;
        wake.wait(lock, [&] { return !idle(seen); });
        --sleeping;
      }
      if (stopping) return;
      seen = epoch_of(ticket.load(std::memory_order_acquire));
      work(thread);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  if (num_threads <= 0) num_threads = cores_allowed();
  state_->parts = std::vector<State::Part>(static_cast<size_t>(num_threads));
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
  const auto tasks = static_cast<uint64_t>(num_tasks);
  LOWKEY_CHECK(tasks < State::kIndexMask, "{} tasks", tasks);
  LOWKEY_CHECK(s.unfinished.load() == 0,
               "ThreadPool::run called from two threads or from inside a job");
  const uint64_t epoch = State::epoch_of(s.ticket.load(std::memory_order_relaxed));
  s.ticket.store(epoch << 32 | State::kIndexMask, std::memory_order_relaxed);
  s.job.store(&job, std::memory_order_release);
  s.num_tasks.store(tasks, std::memory_order_release);
  s.unfinished.store(tasks, std::memory_order_relaxed);
  bool wake = false;
  {
    // The lock orders this with a worker between its check and its wait; without it the wake-up
    // could be lost.
    std::lock_guard lock(s.mutex);
    s.ticket.store((epoch + 1) << 32, std::memory_order_release);
    wake = s.sleeping > 0;
  }
  if (wake) s.wake.notify_all();
  s.work(0);
  for (int spins = 0; s.unfinished.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpins) {
      cpu_relax();
    } else {
      std::this_thread::yield();
    }
  }
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

void ThreadPool::run_in_parts(int64_t num_tasks, const std::function<void(int64_t, int)>& job) {
  std::vector<State::Part>& parts = state_->parts;
  const auto num_parts = static_cast<int64_t>(parts.size());
  for (int64_t i = 0; i < num_parts; ++i) {
    State::Part& part = parts[static_cast<size_t>(i)];
    part.next.store(num_tasks * i / num_parts, std::memory_order_relaxed);
    part.end = num_tasks * (i + 1) / num_parts;
  }
  const auto work = [&](int64_t own, int thread) {
    for (int64_t i = 0; i < num_parts; ++i) {
      State::Part& part = parts[static_cast<size_t>((own + i) % num_parts)];
      for (;;) {
        const int64_t task = part.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= part.end) break;
        job(task, thread);
      }
    }
  };
  run(std::min(num_parts, num_tasks), std::ref(work));  // by reference: a copy would allocate
}

}  // namespace lowkey
