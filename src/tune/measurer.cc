#include "tune/measurer.h"

#include <algorithm>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/sha256.h"

namespace lowkey::tune {

MeasuredTask split_task(const Engine& engine, const Task& task, PromptForm form,
                        const TaskOptions& options) {
  TaskPrompts all = task_prompts(engine, task, form);
  if (all.prompts.size() < 2) {
    fail(ErrorCode::kInvalidArgument, "{}: one question is too few: every other one is held out",
         task.name);
  }
  MeasuredTask measured{.prompts = {}, .options = options};
  for (TaskPrompts& part : measured.prompts) {
    part.name = all.name;
    part.shared_tokens = all.shared_tokens;
  }
  for (size_t i = 0; i < all.prompts.size(); ++i) {
    measured.prompts[i % 2].prompts.push_back(std::move(all.prompts[i]));
  }
  return measured;
}

Measurer::Measurer(Engine& engine, CalibrationSets sets, std::optional<MeasuredTask> task)
    : engine_(engine), sets_(std::move(sets)), task_(std::move(task)) {}

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
  const ResolvedRecipe resolved = resolve_recipe(recipe, engine_.kv_shape());
  const bool plain = recipe == parse_recipe("16");
  Measurement measurement = measurement_of(plain ? on.reference() : on.score(resolved, progress));
  if (task_) {
    measurement.task_accuracy = answer_task(engine_.model(), engine_.tokenizer(),
                                            task_->prompts[static_cast<size_t>(job.set)], resolved,
                                            task_->options, progress)
                                    .accuracy();
  }
  return measurement;
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
