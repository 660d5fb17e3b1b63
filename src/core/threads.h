#pragma once
// A small fork-join thread pool. Workers spin briefly (microseconds) for the next job of a decode
// step, then sleep: libgomp's spinning makes tiny jobs up to 100x slower on a busy machine,
// sleeping at once costs a wake-up per job.
#include <cstdint>
#include <functional>
#include <memory>

namespace lowkey {

class ThreadPool {
 public:
  // num_threads counts the calling thread; 0 means one per core the process may use.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Runs job(task, thread) for every task in [0, num_tasks); thread < num_threads() indexes
  // per-thread scratch. Returns when all have finished. Tasks are claimed dynamically, so results
  // must not depend on who ran them. The first exception thrown by a job is rethrown here, after
  // all threads have left the job. One caller at a time; a job must not call run() on the same
  // pool.
  void run(int64_t num_tasks, const std::function<void(int64_t task, int thread)>& job);

  // The same, but each thread is given a contiguous part of the tasks, in order, and helps with the
  // others' when it has finished its own: for tasks that read memory front to back. (Two threads
  // that take turns read DRAM at the speed of one.)
  void run_in_parts(int64_t num_tasks, const std::function<void(int64_t task, int thread)>& job);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lowkey
