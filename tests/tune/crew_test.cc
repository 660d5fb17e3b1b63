#include "tune/crew.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"

namespace lowkey::tune {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

// One dictionary for all threads; a store of it that dies takes its worker with it.
struct Shared {
  std::mutex mutex;
  std::map<std::string, std::string> values;
};

class MemoryStore : public KeyStore {
 public:
  explicit MemoryStore(Shared& shared, std::atomic<bool>* dead = nullptr)
      : shared_(shared), dead_(dead) {}
  void set(const std::string& key, const std::string& value) override {
    check();
    const std::lock_guard lock(shared_.mutex);
    shared_.values[key] = value;
  }
  std::optional<std::string> get(const std::string& key) override {
    check();
    const std::lock_guard lock(shared_.mutex);
    const auto found = shared_.values.find(key);
    if (found == shared_.values.end()) return std::nullopt;
    return found->second;
  }
  int64_t add(const std::string& key, int64_t amount) override {
    check();
    const std::lock_guard lock(shared_.mutex);
    std::string& value = shared_.values[key];
    const int64_t sum = (value.empty() ? 0 : std::stoll(value)) + amount;
    value = std::to_string(sum);
    return sum;
  }

 private:
  void check() const {
    if (dead_ && dead_->load()) fail(ErrorCode::kIo, "killed");
  }
  Shared& shared_;
  std::atomic<bool>* dead_;
};

CrewOptions quick(int32_t rank) {
  return {.rank = rank,
          .world_size = 3,
          .beat = 5ms,
          .lost_after = 150ms,
          .poll = 1ms,
          .latecomers = 0ms,
          .start_within = 2s};
}

Measurement measure_planted(const Job& job) {
  const double kl = static_cast<double>(job.recipe.size()) +
                    (job.set == DataSet::kHeldout ? 0.5 : 0) + std::stod(job.recipe) / 1000;
  return {.kl = kl,
          .kl_ci = 0.1,
          .kl_p999 = 3,
          .ppl = 20.25,
          .top1_agreement = 1 / 3.0,
          .task_accuracy = {}};
}

std::vector<Job> some_jobs(int count, int from = 0) {
  std::vector<Job> jobs;
  for (int i = 0; i < count; ++i) {
    jobs.push_back(
        {i % 3 == 0 ? DataSet::kHeldout : DataSet::kCalibration, std::to_string(from + i)});
  }
  return jobs;
}

const nlohmann::json kSettings = {{"model", "m"}, {"isa", "avx2"}};

std::vector<Measurement> run_all(CrewLeader& leader, const std::vector<Job>& jobs) {
  std::vector<Measurement> results(jobs.size());
  std::vector<int> times(jobs.size());
  leader.run(jobs,
             [&](size_t index, const Measurement& measurement) {
               results[index] = measurement;
               ++times[index];
             },
             {});
  for (int count : times) EXPECT_EQ(count, 1);
  return results;
}

std::vector<Measurement> alone(const std::vector<Job>& jobs) {
  std::vector<Measurement> results;
  for (const Job& job : jobs) results.push_back(measure_planted(job));
  return results;
}

class CrewTest : public testing::Test {
 protected:
  // A worker in a thread of its own; `stops_at`: it is killed while it measures that job.
  std::thread worker(int32_t rank, int64_t stops_at = -1, std::chrono::milliseconds per_job = 1ms) {
    return std::thread([this, rank, stops_at, per_job] {
      std::atomic<bool> dead{false};
      MemoryStore store(shared_, &dead), beats(shared_, &dead);
      try {
        CrewWorker worker(store, beats, quick(rank));
        task_[rank] = worker.join(kSettings);
        int64_t taken = 0;
        done_[rank] = worker.work([&](const Job& job, const ProgressFn&) {
          if (taken++ == stops_at) dead = true;
          std::this_thread::sleep_for(per_job);
          return measure_planted(job);
        });
      } catch (const Error& error) {
        error_[rank] = error.what();
      }
    });
  }

  Shared shared_;
  std::array<std::string, 4> task_, error_;
  std::array<int64_t, 4> done_{};
};

TEST_F(CrewTest, SharesTheWorkAndGetsTheSameResults) {
  std::thread first = worker(1), second = worker(2);
  const auto jobs = some_jobs(60), more = some_jobs(7, 100);
  int64_t by_others = 0;
  {
    MemoryStore store(shared_);
    CrewLeader leader(store, quick(0), kSettings, "the task",
                      [](const Job& job, const ProgressFn&) {
                        std::this_thread::sleep_for(1ms);
                        return measure_planted(job);
                      });
    EXPECT_EQ(run_all(leader, jobs), alone(jobs));
    EXPECT_EQ(run_all(leader, more), alone(more));
    by_others = leader.done_by_others();
    EXPECT_EQ(leader.done_again(), 0);
  }
  first.join();
  second.join();
  EXPECT_EQ(task_[1], "the task");
  EXPECT_EQ(error_[1] + error_[2], "");
  EXPECT_GT(done_[1], 0);
  EXPECT_GT(done_[2], 0);
  EXPECT_EQ(done_[1] + done_[2], by_others);
}

TEST_F(CrewTest, AKilledWorkersJobIsDoneAgain) {
  std::thread dies = worker(1, 2, 20ms), lives = worker(2, -1, 20ms);
  const auto jobs = some_jobs(30);
  {
    MemoryStore store(shared_);
    CrewLeader leader(store, quick(0), kSettings, "", [](const Job& job, const ProgressFn&) {
      std::this_thread::sleep_for(20ms);
      return measure_planted(job);
    });
    EXPECT_EQ(run_all(leader, jobs), alone(jobs));
    EXPECT_EQ(leader.done_again(), 1);
  }
  dies.join();
  lives.join();
  EXPECT_THAT(error_[1], HasSubstr("killed"));
  EXPECT_EQ(error_[2], "");
}

// Between taking a ticket and writing its name, or before there is a job for it.
TEST_F(CrewTest, ALostTicketIsNoLostJob) {
  MemoryStore store(shared_);
  store.add("tickets", 1);                            // nobody's
  const int64_t named = store.add("tickets", 1) - 1;  // of a worker that never beats again
  store.set("owner/" + std::to_string(named), "3");
  const auto jobs = some_jobs(5);
  CrewLeader leader(store, quick(0), kSettings, "",
                    [](const Job& job, const ProgressFn&) { return measure_planted(job); });
  EXPECT_EQ(run_all(leader, jobs), alone(jobs));
  EXPECT_EQ(leader.done_again(), 2);
}

TEST_F(CrewTest, OtherSettingsAreRefusedByName) {
  MemoryStore store(shared_);
  const CrewLeader leader(store, quick(0), kSettings, "",
                          [](const Job& job, const ProgressFn&) { return measure_planted(job); });
  try {
    MemoryStore beats(shared_);
    CrewWorker(store, beats, quick(2)).join({{"model", "m"}, {"isa", "avx512"}});
    FAIL() << "joined";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr(R"(rank 2: 'isa' is "avx512" here and "avx2" for rank 0)"));
  }
}

TEST_F(CrewTest, AWorkersErrorEndsTheSearch) {
  std::thread fails([this] {
    MemoryStore store(shared_), beats(shared_);
    CrewWorker worker(store, beats, quick(1));
    worker.join(kSettings);
    EXPECT_THROW(worker.work([](const Job&, const ProgressFn&) -> Measurement {
      fail(ErrorCode::kNumeric, "layer 3: NaN");
    }),
                 Error);
  });
  MemoryStore store(shared_);
  CrewLeader leader(store, quick(0), kSettings, "", [](const Job& job, const ProgressFn&) {
    std::this_thread::sleep_for(5ms);
    return measure_planted(job);
  });
  try {
    run_all(leader, some_jobs(200));
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "rank 1: layer 3: NaN");
  }
  fails.join();
}

TEST_F(CrewTest, AWorkerWithoutALeaderGivesUp) {
  MemoryStore store(shared_);
  CrewOptions options = quick(1);
  options.start_within = 30ms;
  MemoryStore beats(shared_);
  CrewWorker worker(store, beats, options);
  EXPECT_THROW(worker.join(kSettings), Error);
}

}  // namespace
}  // namespace lowkey::tune
