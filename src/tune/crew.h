#pragma once
// Several processes, perhaps on several machines, measuring one search's trials. The first (rank 0)
// decides, and measures too; the others take jobs, one ticket at a time. Nothing depends on who
// does what: results come back by job. Torch-free.
//
// Keys: "settings", what all must agree on; "task", what the leader sends along; "job/N" and
// "jobs", how many there are; "tickets", how many are taken; "owner/N", "result/N"; "beat/RANK",
// which grows as long as a worker lives; "failed"; "finished"; "joined" and "left", how many
// workers did.
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tune/key_store.h"
#include "tune/trials.h"

namespace lowkey::tune {

struct CrewOptions {
  int32_t rank = 0;
  int32_t world_size = 1;
  std::chrono::milliseconds beat{1000};
  // Without a sign of life for this long, a worker's job is done by the leader.
  std::chrono::milliseconds lost_after{20000};
  std::chrono::milliseconds poll{20};
  // A leader that is done this soon waits for those that have not arrived: they would look for it
  // for minutes.
  std::chrono::milliseconds latecomers{15000};
  // How long a worker waits for the leader to load its model and prepare.
  std::chrono::milliseconds start_within{std::chrono::minutes(30)};
};

// Rank 0. Announces settings when made, and the end when destroyed.
class CrewLeader : public JobRunner {
 public:
  // `task` goes to every worker whose settings agree. Store and measure must outlive this.
  CrewLeader(KeyStore& store, const CrewOptions& options, const nlohmann::json& settings,
             const std::string& task, LocalRunner::Measure measure);
  ~CrewLeader() override;

  // Throws Error: as measure; kIo when a worker failed, with its rank and message.
  void run(std::span<const Job> jobs, const DoneFn& done, const ProgressFn& progress) override;

  int64_t done_by_others() const { return done_by_others_; }
  int64_t done_again() const { return done_again_; }  // of lost workers

 private:
  struct Pending;
  bool is_silent(int32_t rank);
  bool take_job(std::vector<Pending>& pending);
  void check_workers();
  bool is_lost(const Pending& job);

  KeyStore& store_;
  const CrewOptions options_;
  LocalRunner::Measure measure_;
  const std::chrono::steady_clock::time_point made_ = std::chrono::steady_clock::now();
  int64_t posted_ = 0;
  int64_t ticket_ = -1;  // taken, its job not yet done
  int64_t done_by_others_ = 0;
  int64_t done_again_ = 0;
  struct Beat {
    int64_t count = -1;
    std::chrono::steady_clock::time_point since;
  };
  std::map<int32_t, Beat> beats_;
};

// Ranks above 0. Gives signs of life from the moment it is made: the leader does not end without
// telling those that live.
class CrewWorker {
 public:
  // `beats` is a connection of its own, for a thread of its own. All must outlive this.
  CrewWorker(KeyStore& store, KeyStore& beats, const CrewOptions& options);
  ~CrewWorker();
  CrewWorker(const CrewWorker&) = delete;
  CrewWorker& operator=(const CrewWorker&) = delete;

  // Waits for the leader's settings, refuses (Error kInvalidArgument, naming the first difference)
  // when they are not its own, and returns the leader's task.
  std::string join(const nlohmann::json& settings);

  // Takes jobs until the leader is finished; returns how many it did. Throws Error as measure,
  // having told the leader, and kIo when the leader is gone.
  int64_t work(const LocalRunner::Measure& measure);

 private:
  class Heart;
  KeyStore& store_;
  const CrewOptions options_;
  std::unique_ptr<Heart> heart_;
};

}  // namespace lowkey::tune
