#include "core/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace lowkey {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      pool.run(tasks, [&](int64_t task, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, threads);
        ++runs[static_cast<size_t>(task)];
      });
      for (const auto& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, ZeroMeansTheCoresAllowed) {
  EXPECT_GE(ThreadPool().num_threads(), 1);
  EXPECT_LE(ThreadPool().num_threads(), static_cast<int>(std::thread::hardware_concurrency()));
}

// A thread's index is its own while it works: scratch per thread needs no lock.
TEST(ThreadPool, ScratchByThreadIndexIsNeverShared) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  pool.run(2000, [&](int64_t, int thread) {
    auto& mine = inside[static_cast<size_t>(thread)];
    EXPECT_EQ(mine.fetch_add(1), 0);
    std::this_thread::yield();
    mine.fetch_sub(1);
  });
}

TEST(ThreadPool, UsesItsThreads) {
  ThreadPool pool(3);
  std::atomic<int> waiting{0};
  // Each task waits for the two others: only possible on three threads at once.
  pool.run(3, [&](int64_t, int) {
    ++waiting;
    while (waiting < 3) std::this_thread::yield();
  });
  EXPECT_EQ(waiting, 3);
}

TEST(ThreadPool, RethrowsTheFirstExceptionAndWorksOn) {
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      std::atomic<int64_t> started{0};
      try {
        pool.run(1000, [&](int64_t task, int) {
          ++started;
          if (task == 10) throw std::runtime_error("task 10");
        });
        ADD_FAILURE() << "no exception";
      } catch (const std::runtime_error& error) {
        EXPECT_STREQ(error.what(), "task 10");
      }
      EXPECT_GE(started, 1);
      std::atomic<int64_t> sum{0};
      pool.run(100, [&](int64_t task, int) { sum += task; });
      ASSERT_EQ(sum, 4950) << "the pool is whole after an exception";
    }
  }
}

TEST(ThreadPool, OneOfManyExceptionsArrives) {
  ThreadPool pool(4);
  for (int round = 0; round < 100; ++round) {
    EXPECT_THROW(pool.run(64, [](int64_t, int) { throw std::runtime_error("all"); }),
                 std::runtime_error);
  }
}

TEST(ThreadPool, PartsCoverEveryTaskOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      pool.run_in_parts(tasks, [&](int64_t task, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, threads);
        ++runs[static_cast<size_t>(task)];
      });
      for (const auto& count : runs) EXPECT_EQ(count, 1) << threads << " threads, " << tasks;
    }
  }
}

// Two threads that keep pace read two contiguous parts; one that is alone does everything, in
// order.
TEST(ThreadPool, PartsAreContiguousAndNobodyWaitsForALateThread) {
  ThreadPool pool(2);
  std::atomic<int> started{0};
  std::vector<int64_t> tasks_of[2];
  pool.run_in_parts(100, [&](int64_t task, int thread) {
    auto& mine = tasks_of[thread];
    if (mine.empty()) {
      ++started;
      while (started < 2) std::this_thread::yield();  // only possible with both at work
    }
    mine.push_back(task);
  });
  EXPECT_EQ(tasks_of[0].size() + tasks_of[1].size(), 100u);
  EXPECT_EQ(std::min(tasks_of[0][0], tasks_of[1][0]), 0);
  EXPECT_EQ(std::max(tasks_of[0][0], tasks_of[1][0]), 50);

  ThreadPool alone(1);
  std::vector<int64_t> order;
  alone.run_in_parts(5, [&](int64_t task, int) { order.push_back(task); });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

TEST(ThreadPool, PartsRethrowAndWorkOn) {
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    for (int i = 0; i < 50; ++i) {
      EXPECT_THROW(pool.run_in_parts(100,
                                     [&](int64_t task, int) {
                                       if (task % 7 == 3) throw std::runtime_error("no");
                                     }),
                   std::runtime_error);
      std::atomic<int64_t> sum{0};
      pool.run_in_parts(100, [&](int64_t task, int) { sum += task; });
      EXPECT_EQ(sum, 4950);
    }
  }
}

TEST(ThreadPool, AHundredThousandTinyJobs) {
  ThreadPool pool(2);
  std::atomic<int64_t> sum{0};
  for (int i = 0; i < 100'000; ++i) {
    pool.run(2, [&](int64_t task, int) { sum.fetch_add(task + 1, std::memory_order_relaxed); });
  }
  EXPECT_EQ(sum, 300'000);
}

// A worker that arrives late must find neither a task of the job that ended nor one of the next,
// longer job before that has begun.
TEST(ThreadPool, LateWorkersMixNoJobsUp) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> runs(64);
  for (int i = 0; i < 100'000; ++i) {
    const int64_t tasks = 2 + i * 7 % 61;
    pool.run(tasks, [&, i](int64_t task, int) {
      // Each job adds its number: a stray task of another job would show in the sum.
      runs[static_cast<size_t>(task)].fetch_add(i + 1, std::memory_order_relaxed);
    });
    for (int64_t task = 0; task < 64; ++task)
      ASSERT_EQ(runs[static_cast<size_t>(task)].exchange(0), task < tasks ? i + 1 : 0)
          << "job " << i;
  }
}

TEST(ThreadPool, WakesWorkersThatWentToSleep) {
  ThreadPool pool(3);
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // far beyond the spinning
    std::atomic<int> waiting{0};
    pool.run(3, [&](int64_t, int) {
      ++waiting;
      while (waiting < 3) std::this_thread::yield();
    });
  }
}

TEST(ThreadPool, WhatTasksWroteIsSeenAfterRun) {
  ThreadPool pool(4);
  std::vector<int64_t> squares(10'000);
  for (int round = 1; round < 50; ++round) {
    pool.run(10'000, [&](int64_t task, int) { squares[static_cast<size_t>(task)] = task * round; });
    ASSERT_EQ(std::accumulate(squares.begin(), squares.end(), int64_t{0}),
              int64_t{49'995'000} * round);
  }
}

TEST(ThreadPool, ManyPoolsComeAndGo) {
  for (int i = 0; i < 200; ++i) {
    ThreadPool pool(3);
    if (i % 2) pool.run(3, [](int64_t, int) {});
  }
}

}  // namespace
}  // namespace lowkey
