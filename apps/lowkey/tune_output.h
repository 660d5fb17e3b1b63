#pragma once
// What `lowkey tune` leaves behind and prints. Torch-free.
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "terminal.h"
#include "tune/tune.h"

namespace lowkey {

struct TuneSetSize {
  int64_t documents = 0, scored_tokens = 0;
};

struct TuneOutcome {
  tune::TuneResult result;  // its front complete with model and command
  tune::TuneOptions options;
  KvShape shape;
  std::string model_argument;  // as the user wrote it: for commands to copy
  std::string engine;          // kernels and weights
  TuneSetSize calibration, heldout;
  std::string probe_json;  // probe.json, or empty
  std::optional<double> budget;
};

// What the report page is made of (docs/formats/report.md).
nlohmann::ordered_json tune_report_json(const TuneOutcome& outcome, const std::string& folder);

// front.json, recipe-<bits>.json, kvtuner-<bits>.yaml where KVTuner can say it, report.json,
// report.html. Each is written beside its place and renamed; what an earlier run left under other
// names is removed. Nothing in them depends on when or on how many machines they were made.
void write_tune_files(const TuneOutcome& outcome, const std::filesystem::path& folder);

// Groups, the front as a table, what to use.
std::string tune_text(const TuneOutcome& outcome, const std::string& folder,
                      const Terminal& terminal);

}  // namespace lowkey
