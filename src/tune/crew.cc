#include "tune/crew.h"

#include <fmt/format.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"

namespace lowkey::tune {
namespace {

using Clock = std::chrono::steady_clock;

std::string numbered(const char* key, int64_t number) {
  return fmt::format("{}/{}", key, number);
}

std::string job_text(const Job& job) {
  return nlohmann::json({{"set", data_set_name(job.set)}, {"recipe", job.recipe}}).dump();
}

Job job_from_text(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("set") || !json.contains("recipe")) {
    fail(ErrorCode::kIo, "the leader sent what is no job: {}", text);
  }
  return {json["set"] == "heldout" ? DataSet::kHeldout : DataSet::kCalibration, json["recipe"]};
}

}  // namespace

struct CrewLeader::Pending {
  size_t index = 0;    // in this run
  int64_t number = 0;  // in all
  Job job;
  bool done = false;
  Clock::time_point posted = Clock::now();
};

CrewLeader::CrewLeader(KeyStore& store, const CrewOptions& options, const nlohmann::json& settings,
                       const std::string& task, LocalRunner::Measure measure)
    : store_(store), options_(options), measure_(std::move(measure)) {
  store_.set("task", task);
  store_.set("settings", settings.dump());
}

CrewLeader::~CrewLeader() {
  try {
    store_.set("finished", "1");
    // The store may live in this process: let the living read that first.
    for (int32_t rank = 1; rank < options_.world_size; ++rank) {
      while (!store_.get(numbered("arrived", rank)) && Clock::now() - made_ < options_.latecomers) {
        std::this_thread::sleep_for(options_.poll);
      }
      while (store_.get(numbered("arrived", rank)) && !store_.get(numbered("left", rank)) &&
             !is_silent(rank)) {
        std::this_thread::sleep_for(options_.poll);
      }
    }
  } catch (const Error&) {
    // Nobody is left to be told.
  }
}

void CrewLeader::check_workers() {
  if (const auto failed = store_.get("failed")) fail(ErrorCode::kIo, "{}", *failed);
}

// The leader takes a ticket like everybody; true when there is a job for it.
bool CrewLeader::take_job(std::vector<Pending>& pending) {
  if (ticket_ < 0) {
    ticket_ = store_.add("tickets", 1) - 1;
    store_.set(numbered("owner", ticket_), "0");
  }
  return ticket_ < posted_ && ticket_ >= pending.front().number;
}

// Whoever took the job gives no sign of life, or took a ticket and died before writing its name.
bool CrewLeader::is_lost(const Pending& job) {
  const auto owner = store_.get(numbered("owner", job.number));
  if (!owner) return Clock::now() - job.posted > options_.lost_after;
  return is_silent(static_cast<int32_t>(std::stol(*owner)));
}

// Its beat has not moved for longer than a living worker's would.
bool CrewLeader::is_silent(int32_t rank) {
  const auto now = Clock::now();
  const int64_t count = store_.add(numbered("beat", rank), 0);
  Beat& beat = beats_[rank];
  if (count != beat.count) {
    beat = {count, now};
    return false;
  }
  return now - beat.since > options_.lost_after;
}

void CrewLeader::run(std::span<const Job> jobs, const DoneFn& done, const ProgressFn& progress) {
  if (jobs.empty()) return;
  std::vector<Pending> pending;
  for (size_t i = 0; i < jobs.size(); ++i) {
    pending.push_back({.index = i, .number = posted_ + static_cast<int64_t>(i), .job = jobs[i]});
    store_.set(numbered("job", pending.back().number), job_text(jobs[i]));
  }
  posted_ += std::ssize(jobs);
  store_.set("jobs", fmt::format("{}", posted_));

  int64_t finished = 0;
  const auto finish = [&](Pending& job, const Measurement& measurement) {
    job.done = true;
    ++finished;
    done(job.index, measurement);
    report(progress, "", finished, std::ssize(jobs));
  };
  const auto collect = [&] {
    for (Pending& job : pending) {
      if (job.done) continue;
      const auto text = store_.get(numbered("result", job.number));
      if (!text) continue;
      const nlohmann::json json = nlohmann::json::parse(*text, nullptr, false);
      ++done_by_others_;
      finish(job, job_from_json(json, "a worker's result").second);
    }
  };
  const ProgressFn silent;
  while (finished < std::ssize(jobs)) {
    check_workers();
    if (take_job(pending)) {
      Pending& mine = pending[static_cast<size_t>(ticket_ - pending.front().number)];
      if (!mine.done) finish(mine, measure_(mine.job, silent));
      ticket_ = -1;
      collect();
      continue;
    }
    collect();
    bool again = false;
    for (Pending& job : pending) {
      if (job.done || !is_lost(job)) continue;
      ++done_again_;
      finish(job, measure_(job.job, silent));
      again = true;
      break;
    }
    if (!again && finished < std::ssize(jobs)) {
      report(progress, "", finished, std::ssize(jobs));
      std::this_thread::sleep_for(options_.poll);
    }
  }
}

// Lives beside a worker's loading and measuring, and says so.
class CrewWorker::Heart {
 public:
  Heart(KeyStore& store, const CrewOptions& options)
      : thread_([this, &store, options] {
          const std::string key = numbered("beat", options.rank);
          try {
            while (!stopped_.load()) {
              store.add(key, 1);
              for (auto slept = std::chrono::milliseconds(0);
                   slept < options.beat && !stopped_.load(); slept += options.poll) {
                std::this_thread::sleep_for(options.poll);
              }
            }
          } catch (const Error&) {
            // The leader is gone: the worker itself will notice.
          }
        }) {}
  ~Heart() {
    stopped_ = true;
    thread_.join();
  }
  Heart(const Heart&) = delete;
  Heart& operator=(const Heart&) = delete;

 private:
  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

CrewWorker::CrewWorker(KeyStore& store, KeyStore& beats, const CrewOptions& options)
    : store_(store), options_(options), heart_(std::make_unique<Heart>(beats, options)) {
  store_.set(numbered("arrived", options_.rank), "1");
}

CrewWorker::~CrewWorker() {
  heart_.reset();
  try {
    store_.set(numbered("left", options_.rank), "1");
  } catch (const Error&) {
    // The leader is gone already.
  }
}

std::string CrewWorker::join(const nlohmann::json& settings) {
  const auto start = Clock::now();
  std::optional<std::string> theirs;
  while (!(theirs = store_.get("settings"))) {
    if (Clock::now() - start > options_.start_within) {
      fail(ErrorCode::kIo, "rank {}: the leader (rank 0) has not begun within {} s", options_.rank,
           std::chrono::duration_cast<std::chrono::seconds>(options_.start_within).count());
    }
    std::this_thread::sleep_for(options_.poll);
  }
  const nlohmann::json leader = nlohmann::json::parse(*theirs, nullptr, false);
  for (const auto& [key, value] : settings.items()) {
    if (!leader.is_object() || !leader.contains(key) || leader[key] != value) {
      fail(ErrorCode::kInvalidArgument,
           "rank {}: '{}' is {} here and {} for rank 0: all processes of a search need the same "
           "model, instruction set, weights and settings",
           options_.rank, key, value.dump(),
           leader.is_object() && leader.contains(key) ? leader[key].dump() : "nothing");
    }
  }
  const auto task = store_.get("task");
  LOWKEY_CHECK(task.has_value(), "settings come after the task");
  return *task;
}

int64_t CrewWorker::work(const LocalRunner::Measure& measure) {
  int64_t done = 0;
  for (;;) {
    const int64_t ticket = store_.add("tickets", 1) - 1;
    store_.set(numbered("owner", ticket), fmt::format("{}", options_.rank));
    std::optional<std::string> text;
    for (;;) {
      if (store_.get("finished")) return done;
      const auto jobs = store_.get("jobs");
      if (jobs && ticket < std::stoll(*jobs)) {
        text = store_.get(numbered("job", ticket));
        break;
      }
      std::this_thread::sleep_for(options_.poll);
    }
    LOWKEY_CHECK(text.has_value(), "job {} was announced", ticket);
    const Job job = job_from_text(*text);
    Measurement measurement;
    try {
      measurement = measure(job, {});
    } catch (const Error& error) {
      store_.set("failed", fmt::format("rank {}: {}", options_.rank, error.what()));
      throw;
    }
    store_.set(numbered("result", ticket), to_json(job, measurement).dump());
    ++done;
  }
}

}  // namespace lowkey::tune
