#pragma once
// Measures a search's jobs on a real model. Belongs to the engine's thread.
#include <array>
#include <filesystem>
#include <optional>
#include <string>

#include "core/progress.h"
#include "engine/engine.h"
#include "eval/scorer.h"
#include "tune/calibration.h"
#include "tune/trials.h"

namespace lowkey::tune {

class Measurer {
 public:
  // The engine must outlive this. A set's 16-bit run is made when it is first asked about.
  Measurer(Engine& engine, CalibrationSets sets);

  // Throws Error as resolve_recipe and Scorer.
  Measurement measure(const Job& job, const ProgressFn& progress);

 private:
  Scorer& scorer(DataSet set, const ProgressFn& progress);

  Engine& engine_;
  CalibrationSets sets_;
  std::array<std::optional<Scorer>, 2> scorers_;
};

// Of the bytes of a GGUF file, or of a Hugging Face folder's config, tokenizer and weights (names
// and bytes, in the order of names). Throws Error as map_file.
std::string model_sha256(const std::filesystem::path& model, const ProgressFn& progress);

}  // namespace lowkey::tune
