#include "calibrate/calibrate.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "calibrate/distillation.h"
#include "calibrate/prefix_trainee.h"
#include "calibrate/trainer.h"
#include "core/error.h"
#include "core/half.h"

namespace lowkey::calibrate {
namespace {

void round_row(std::span<Half> row, int32_t bits) {
  float least = half_to_float(row[0]), greatest = least;
  for (Half number : row) {
    least = std::min(least, half_to_float(number));
    greatest = std::max(greatest, half_to_float(number));
  }
  const auto top = static_cast<float>((1 << bits) - 1);
  const float scale = (greatest - least) / top;
  if (scale == 0) return;
  for (Half& number : row) {
    const float code = std::clamp(std::round((half_to_float(number) - least) / scale), 0.0f, top);
    number = float_to_half(code * scale + least);
  }
}

}  // namespace

void round_prefix(IntactPrefix& prefix, int32_t bits) {
  if (bits >= 16) return;
  for (std::vector<Half>* all : {&prefix.k, &prefix.v}) {
    const auto dim = static_cast<size_t>(prefix.head_dim);
    for (size_t first = 0; first < all->size(); first += dim) {
      round_row(std::span(*all).subspan(first, dim), bits);
    }
  }
}

CalibratedPrefix calibrate_prefix(const PrefixTraining& training, ThreadPool& pool,
                                  const ProgressFn& progress) {
  at::set_num_threads(1);  // whole samples are what our threads share out
  try {
    const Distillation objective(
        training.teacher, training.student,
        exact_prefix(prefix_tensors(training.prefix), training.teacher.config),
        prefix_trainee(training.prefix, training.student.config, training.bits), training.samples,
        training.loss, training.target_bytes);
    TrainResult trained =
        train(objective, training.options, training.checkpoint, training.settings, pool, progress);
    return {.prefix = to_prefix(training.prefix, trained.tensors),
            .curve = std::move(trained.curve),
            .best_step = trained.best_step,
            .first_heldout = trained.first_heldout,
            .best_heldout = trained.best_heldout,
            .stopped_early = trained.stopped_early,
            .resumed_at = trained.resumed_at};
  } catch (const c10::Error& error) {
    const std::string_view what = error.what_without_backtrace();
    fail(ErrorCode::kUnsupported, "libtorch: {}", what.substr(0, what.find('\n')));
  }
}

}  // namespace lowkey::calibrate
