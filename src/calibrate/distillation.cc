#include "calibrate/distillation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace lowkey::calibrate {
namespace {

// Logits are large: rows that are turned into them at a time.
constexpr int64_t kLogitRows = 128;

at::Tensor index_of(const std::vector<int64_t>& rows) {
  return at::from_blob(const_cast<int64_t*>(rows.data()), {std::ssize(rows)}, at::kLong);
}

at::Tensor rows_of(const at::Tensor& x, const std::vector<int64_t>& rows) {
  return std::ssize(rows) == x.size(0) ? x : x.index_select(0, index_of(rows));
}

at::ScalarType target_type(const ModelWeights& weights) {
  return weights.storage == WeightStorage::kBF16 ? at::kBFloat16 : at::kFloat;
}

int64_t bytes_of(const std::vector<at::Tensor>& tensors) {
  int64_t bytes = 0;
  for (const at::Tensor& tensor : tensors) bytes += static_cast<int64_t>(tensor.nbytes());
  return bytes;
}

}  // namespace

Distillation::Distillation(const ModelWeights& teacher, const ModelWeights& student,
                           const ExactPrefix& teacher_prefix, Trainee trainee, Samples samples,
                           LossKind loss, int64_t target_bytes)
    : teacher_(teacher),
      student_(student),
      teacher_prefix_(teacher_prefix),
      trainee_(std::move(trainee)),
      samples_(std::move(samples)),
      loss_(loss),
      kept_(samples_.train.size() + samples_.heldout.size()),
      bytes_left_(target_bytes) {
  for (const auto* set : {&samples_.train, &samples_.heldout}) {
    for (const Sample& sample : *set) {
      LOWKEY_CHECK(!sample.rows.empty() && sample.rows.back() < std::ssize(sample.tokens),
                   "a sample of {} tokens, {} of which count", sample.tokens.size(),
                   sample.rows.size());
      LOWKEY_CHECK(loss_ != LossKind::kAnswers || sample.next.size() == sample.rows.size());
    }
  }
}

std::vector<at::Tensor> Distillation::stored(std::span<const at::Tensor> tensors) const {
  if (trainee_.stored) return trainee_.stored(tensors);
  return {tensors.begin(), tensors.end()};
}

Distillation::Targets Distillation::computed_targets(const Sample& sample) const {
  ExactOps ops(teacher_.config);
  std::vector<at::Tensor> outputs = layer_outputs(ops, teacher_, sample.tokens, teacher_prefix_);
  if (loss_ == LossKind::kLogits) outputs = {ops.norm(outputs.back(), teacher_.final_norm)};
  for (at::Tensor& output : outputs) {
    output = rows_of(output, sample.rows).to(target_type(teacher_));
  }
  return outputs;
}

Distillation::Targets Distillation::targets(SampleSet set, int64_t sample) const {
  if (loss_ == LossKind::kAnswers) return {};
  const auto slot =
      static_cast<size_t>(sample) + (set == SampleSet::kTrain ? 0 : samples_.train.size());
  {
    const std::lock_guard lock(mutex_);
    if (!kept_[slot].empty()) return kept_[slot];
  }
  Targets targets = computed_targets(samples(set)[static_cast<size_t>(sample)]);
  const std::lock_guard lock(mutex_);
  const int64_t bytes = bytes_of(targets);
  if (kept_[slot].empty() && bytes <= bytes_left_) {
    bytes_left_ -= bytes;
    kept_[slot] = targets;
  }
  return targets;
}

at::Tensor Distillation::layers_loss(const std::vector<at::Tensor>& outputs, const Sample& sample,
                                     const Targets& targets) const {
  at::Tensor sum = at::zeros({}, at::kFloat);
  for (size_t layer = 0; layer < outputs.size(); ++layer) {
    const at::Tensor goal = targets[layer].to(at::kFloat);
    sum = sum + 0.5 * at::mse_loss(rows_of(outputs[layer], sample.rows), goal);
  }
  return sum;
}

at::Tensor Distillation::logits_loss(const ExactOps& ops, const at::Tensor& hidden,
                                     const Sample& sample, const Targets& targets) const {
  const auto count = std::ssize(sample.rows);
  at::Tensor sum = at::zeros({}, at::kFloat);
  for (int64_t first = 0; first < count; first += kLogitRows) {
    const int64_t rows = std::min(kLogitRows, count - first);
    const at::Tensor ours =
        at::log_softmax(ops.logits(student_.head(), hidden.narrow(0, first, rows)), -1);
    if (loss_ == LossKind::kAnswers) {
      const at::Tensor next =
          at::from_blob(const_cast<int32_t*>(sample.next.data() + first), {rows, 1}, at::kInt)
              .to(at::kLong);
      sum = sum - ours.gather(1, next).sum();
      continue;
    }
    const at::Tensor hidden_there = targets[0].narrow(0, first, rows).to(at::kFloat);
    // As capped as ours are: both models are of one configuration.
    const at::Tensor theirs = at::log_softmax(ops.logits(teacher_.head(), hidden_there), -1);
    sum = sum + (theirs.exp() * (theirs - ours)).sum();
  }
  return sum / static_cast<double>(count);
}

at::Tensor Distillation::loss(std::span<const at::Tensor> tensors, SampleSet set,
                              int64_t index) const {
  const Sample& sample = samples(set)[static_cast<size_t>(index)];
  const Targets goal = targets(set, index);
  ExactOps ops(student_.config, trainee_.hook ? trainee_.hook(tensors) : LinearHook());
  const std::vector<at::Tensor> outputs = layer_outputs(
      ops, student_, sample.tokens, trainee_.prefix ? trainee_.prefix(tensors) : ExactPrefix());
  if (loss_ == LossKind::kLayers) return layers_loss(outputs, sample, goal);
  const at::Tensor hidden = rows_of(ops.norm(outputs.back(), student_.final_norm), sample.rows);
  return logits_loss(ops, hidden, sample, goal);
}

}  // namespace lowkey::calibrate
