#pragma once
// The model that is planned, and what every kind of plan says of it. Torch-free.
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "load/model_file.h"
#include "terminal.h"
#include "verbs.h"

namespace lowkey {

// A file's configuration, or a well-known one.
struct PlannedModel {
  std::string source;     // the file, or where the figures are from
  std::string file_name;  // as fronts name it (front_model_name); empty for a well-known one
  ModelConfig config;
  int64_t weight_bytes = 0;
  std::string weights_text;
};

// Throws Error as ModelFile::open; kInvalidArgument for an unknown --arch.
PlannedModel planned_model(const PlanOptions& options);

// --ctx, else 4096 or the model's own context if that is less.
int64_t planned_context(const PlannedModel& model, const PlanOptions& options);

// Above the tables, below them, and both in JSON.
std::string planned_model_text(const PlannedModel& model, const Terminal& terminal);
std::string planned_total_text(const PlannedModel& model, int64_t ctx);
nlohmann::ordered_json planned_model_json(const PlannedModel& model, const PlanOptions& options,
                                          int64_t ctx);

}  // namespace lowkey
