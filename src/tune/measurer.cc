#include "tune/measurer.h"

#include <algorithm>
#include <span>
#include <vector>

#include "core/mapped_file.h"
#include "core/sha256.h"

namespace lowkey::tune {

Measurer::Measurer(Engine& engine, CalibrationSets sets)
    : engine_(engine), sets_(std::move(sets)) {}

Scorer& Measurer::scorer(DataSet set, const ProgressFn& progress) {
  std::optional<Scorer>& made = scorers_[static_cast<size_t>(set)];
  if (!made) {
    const bool calibration = set == DataSet::kCalibration;
    // Layers are perturbed one at a time on the calibration set alone.
    made.emplace(engine_.model(), calibration ? sets_.calibration : sets_.heldout, engine_.pool(),
                 ScorerOptions{.keep_residuals = calibration}, progress);
  }
  return *made;
}

Measurement Measurer::measure(const Job& job, const ProgressFn& progress) {
  Scorer& on = scorer(job.set, progress);
  const KvRecipe recipe = parse_recipe(job.recipe);
  if (recipe == parse_recipe("16")) return measurement_of(on.reference());
  return measurement_of(on.score(resolve_recipe(recipe, engine_.kv_shape()), progress));
}

std::string model_sha256(const std::filesystem::path& model, const ProgressFn& progress) {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(model)) {
    for (const auto& entry : std::filesystem::directory_iterator(model)) {
      const std::string extension = entry.path().extension().string();
      if (extension == ".json" || extension == ".safetensors" || extension == ".model") {
        files.push_back(entry.path());
      }
    }
    std::sort(files.begin(), files.end());
  } else {
    files.push_back(model);
  }
  int64_t total = 0, done = 0;
  for (const auto& file : files) total += static_cast<int64_t>(std::filesystem::file_size(file));
  Sha256 sha;
  constexpr size_t kPiece = size_t{16} << 20;
  for (const auto& file : files) {
    if (files.size() > 1 || std::filesystem::is_directory(model)) {
      sha.update(file.filename().string() + "\n");
    }
    const MappedFile map(file);
    for (size_t at = 0; at < map.bytes().size(); at += kPiece) {
      report(progress, "reading the model's bytes", done, total);
      const auto piece = map.bytes().subspan(at, std::min(kPiece, map.bytes().size() - at));
      sha.update(piece);
      done += static_cast<int64_t>(piece.size());
    }
  }
  return to_hex(sha.finish());
}

}  // namespace lowkey::tune
