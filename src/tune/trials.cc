#include "tune/trials.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"

namespace lowkey::tune {
namespace {

constexpr int64_t kJobUnits = 1000;  // of progress
constexpr size_t kNeighbours = 32;

}  // namespace

const char* data_set_name(DataSet set) {
  return set == DataSet::kCalibration ? "calibration" : "heldout";
}

Measurement measurement_of(const std::vector<PositionScore>& scores) {
  const Summary summary = summarize(scores);
  Measurement result{.kl = summary.kl_mean,
                     .kl_p999 = summary.kl_p999,
                     .ppl = summary.perplexity,
                     .top1_agreement = summary.top1_agreement,
                     .task_accuracy = {}};
  std::vector<double> means;
  for (size_t first = 0; first < scores.size(); first += kNeighbours) {
    const size_t count = std::min(kNeighbours, scores.size() - first);
    double sum = 0;
    for (size_t i = 0; i < count; ++i) sum += scores[first + i].kl;
    means.push_back(sum / static_cast<double>(count));
  }
  const auto runs = static_cast<double>(means.size());
  if (means.size() > 1) {
    double mean = 0, squares = 0;
    for (double x : means) mean += x / runs;
    for (double x : means) squares += (x - mean) * (x - mean);
    result.kl_ci = 1.96 * std::sqrt(squares / (runs - 1) / runs);
  }
  return result;
}

nlohmann::json to_json(const Job& job, const Measurement& m) {
  nlohmann::json json = {{"set", data_set_name(job.set)},
                         {"recipe", job.recipe},
                         {"kl", m.kl},
                         {"kl_ci", m.kl_ci},
                         {"kl_p999", m.kl_p999},
                         {"ppl", m.ppl},
                         {"top1_agreement", m.top1_agreement}};
  if (m.task_accuracy) json["task_accuracy"] = *m.task_accuracy;
  return json;
}

std::pair<Job, Measurement> job_from_json(const nlohmann::json& json, const std::string& source) {
  try {
    const auto set = json.at("set").get<std::string>();
    Job job{set == "heldout" ? DataSet::kHeldout : DataSet::kCalibration, json.at("recipe")};
    Measurement m{.kl = json.at("kl"),
                  .kl_ci = json.at("kl_ci"),
                  .kl_p999 = json.at("kl_p999"),
                  .ppl = json.at("ppl"),
                  .top1_agreement = json.at("top1_agreement"),
                  .task_accuracy = {}};
    if (json.contains("task_accuracy")) m.task_accuracy = json["task_accuracy"].get<double>();
    return {std::move(job), m};
  } catch (const nlohmann::json::exception&) {
    fail(ErrorCode::kCorruptFile, "{}: not the record of a trial: {}", source, json.dump());
  }
}

void LocalRunner::run(std::span<const Job> jobs, const DoneFn& done, const ProgressFn& progress) {
  const int64_t total = std::ssize(jobs) * kJobUnits;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const int64_t before = static_cast<int64_t>(i) * kJobUnits;
    report(progress, "", before, total);
    const Measurement measurement =
        measure_(jobs[i], [&](std::string_view, int64_t part, int64_t of) {
          report(progress, "", before + (of > 0 ? part * kJobUnits / of : 0), total);
        });
    done(i, measurement);
  }
}

Trials::Trials(JobRunner& runner, Journal* journal) : runner_(runner), journal_(journal) {
  if (!journal_) return;
  for (const nlohmann::json& record : journal_->records()) {
    if (record.contains("recipe")) known_.insert(job_from_json(record, "the journal"));
  }
  resumed_ = known_.size();
}

std::vector<Measurement> Trials::measure(std::span<const Job> jobs, std::string_view what,
                                         const ProgressFn& progress) {
  std::vector<Job> missing;
  std::set<Job> seen;
  for (const Job& job : jobs) {
    if (!known_.contains(job) && seen.insert(job).second) missing.push_back(job);
  }
  if (!missing.empty()) {
    runner_.run(
        missing,
        [&](size_t index, const Measurement& measurement) {
          if (journal_) journal_->append(to_json(missing[index], measurement));
          known_.emplace(missing[index], measurement);
        },
        [&](std::string_view, int64_t done, int64_t total) {
          report(progress, what, done, total);
        });
  }
  std::vector<Measurement> results;
  for (const Job& job : jobs) {
    const auto known = known_.find(job);
    LOWKEY_CHECK(known != known_.end(), "a job was not done: {}", job.recipe);
    results.push_back(known->second);
  }
  return results;
}

}  // namespace lowkey::tune
