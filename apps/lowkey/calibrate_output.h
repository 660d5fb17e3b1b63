#pragma once
// What `lowkey calibrate` prints and writes down besides the prefix itself. Torch-free.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "calibrate/calibrate.h"
#include "verbs.h"

namespace lowkey {

struct CalibrateOutcome {
  CalibrateVerbOptions options;
  std::string model, student;  // names of files; student: empty if nothing was trained
  std::string prefix_name;
  std::string prefix_text;  // the tokens as text
  int64_t tokens = 0;       // of the prefix
  uint64_t file_bytes = 0;
  std::string products;  // "bf16": what training computed in
  std::string source;    // "chats.jsonl": what it was trained on
  calibrate::Samples samples;
  calibrate::CalibratedPrefix trained;  // prefix and curve; of use if there is a student
};

// docs/formats/calibration.md: also what the page is made of.
nlohmann::json calibrate_json(const CalibrateOutcome& outcome);
// A few lines of at most 100 columns.
std::string calibrate_text(const CalibrateOutcome& outcome);

}  // namespace lowkey
