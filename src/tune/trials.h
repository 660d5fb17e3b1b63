#pragma once
// Everything a search measures goes through here: a trial is measured once, written to the journal,
// and never again. Torch-free. Belongs to one thread.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/progress.h"
#include "eval/metrics.h"
#include "tune/journal.h"

namespace lowkey::tune {

enum class DataSet : uint8_t { kCalibration, kHeldout };
const char* data_set_name(DataSet set);

// One recipe on one set of documents.
struct Job {
  DataSet set = DataSet::kCalibration;
  std::string recipe;  // short form, or JSON text
  friend bool operator==(const Job&, const Job&) = default;
  friend auto operator<=>(const Job&, const Job&) = default;
};

struct Measurement {
  double kl = 0;     // mean over scored tokens, nats
  double kl_ci = 0;  // half of its 95% interval
  double kl_p999 = 0;
  double ppl = 0;
  double top1_agreement = 0;
  std::optional<double> task_accuracy;  // exact match, where the loss is a task's
  friend bool operator==(const Measurement&, const Measurement&) = default;
};

// The interval counts runs of 32 neighbouring tokens as one observation each: errors of neighbours
// go together.
Measurement measurement_of(const std::vector<PositionScore>& scores);

// Doubles survive the trip unchanged.
nlohmann::json to_json(const Job& job, const Measurement& measurement);
std::pair<Job, Measurement> job_from_json(const nlohmann::json& json, const std::string& source);

// Measures jobs, in any order and anywhere, and calls `done` once for each, from the caller's
// thread. The same job has the same measurement, whoever does it. Progress counts jobs in
// thousandths.
using DoneFn = std::function<void(size_t index, const Measurement&)>;
class JobRunner {
 public:
  virtual ~JobRunner() = default;
  virtual void run(std::span<const Job> jobs, const DoneFn& done, const ProgressFn& progress) = 0;
};

// In this process, one after the other.
class LocalRunner : public JobRunner {
 public:
  using Measure = std::function<Measurement(const Job&, const ProgressFn&)>;
  explicit LocalRunner(Measure measure) : measure_(std::move(measure)) {}
  void run(std::span<const Job> jobs, const DoneFn& done, const ProgressFn& progress) override;

 private:
  Measure measure_;
};

class Trials {
 public:
  // With a journal: its records of jobs are known already. Both must outlive this; no journal:
  // nothing is kept.
  Trials(JobRunner& runner, Journal* journal);

  // What was measured, in the order of `jobs`, which may repeat themselves. Throws Error as the
  // runner; what was done until then is in the journal.
  std::vector<Measurement> measure(std::span<const Job> jobs, std::string_view what,
                                   const ProgressFn& progress);

  size_t known() const { return known_.size(); }
  size_t resumed() const { return resumed_; }  // of them, from the journal
  const std::map<Job, Measurement>& all() const { return known_; }

 private:
  JobRunner& runner_;
  Journal* journal_;
  std::map<Job, Measurement> known_;
  size_t resumed_ = 0;
};

}  // namespace lowkey::tune
