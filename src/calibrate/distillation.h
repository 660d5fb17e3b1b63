#pragma once
// What a quantized model is trained towards: the outputs of the 16-bit model on the same tokens
// (IntactKV, arXiv 2403.01241 §3.3: half the mean squared difference of every decoder layer's
// output, summed over layers), its predictions, or the texts' own next tokens (prefix-tuning, arXiv
// 2101.00190). What is trained, Trainee says.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "calibrate/samples.h"
#include "calibrate/trainer.h"
#include "model/exact_ops.h"
#include "model/weights.h"

namespace lowkey::calibrate {

// Tensors and what the student makes of them. The functions are called on several threads.
struct Trainee {
  std::vector<at::Tensor> initial;  // float32
  // Empty: as they are.
  std::function<std::vector<at::Tensor>(std::span<const at::Tensor>)> stored;
  // What the student's tokens follow, and what changes its products; both may be empty.
  std::function<ExactPrefix(std::span<const at::Tensor>)> prefix;
  std::function<LinearHook(std::span<const at::Tensor>)> hook;
};

class Distillation : public Objective {
 public:
  // Both models stored as f32 or bf16 (ExactOps); they and the pool must outlive it. The teacher's
  // tokens follow teacher_prefix. Its outputs are kept while `target_bytes` last and computed again
  // otherwise; in the type that its weights are in, so that results do not depend on which.
  Distillation(const ModelWeights& teacher, const ModelWeights& student,
               const ExactPrefix& teacher_prefix, Trainee trainee, Samples samples, LossKind loss,
               int64_t target_bytes);

  std::vector<at::Tensor> initial() const override { return trainee_.initial; }
  std::vector<at::Tensor> stored(std::span<const at::Tensor> tensors) const override;
  int64_t num_samples(SampleSet set) const override { return std::ssize(samples(set)); }
  at::Tensor loss(std::span<const at::Tensor> tensors, SampleSet set,
                  int64_t sample) const override;

 private:
  using Targets = std::vector<at::Tensor>;  // [rows, hidden_size]: per layer, or the final norm's

  const std::vector<Sample>& samples(SampleSet set) const {
    return set == SampleSet::kTrain ? samples_.train : samples_.heldout;
  }
  Targets targets(SampleSet set, int64_t sample) const;
  Targets computed_targets(const Sample& sample) const;
  at::Tensor layers_loss(const std::vector<at::Tensor>& outputs, const Sample& sample,
                         const Targets& targets) const;
  at::Tensor logits_loss(const ExactOps& ops, const at::Tensor& hidden, const Sample& sample,
                         const Targets& targets) const;

  const ModelWeights& teacher_;
  const ModelWeights& student_;
  const ExactPrefix teacher_prefix_;
  const Trainee trainee_;
  const Samples samples_;
  const LossKind loss_;
  mutable std::mutex mutex_;  // of the two below
  mutable std::vector<Targets> kept_;
  mutable int64_t bytes_left_;
};

}  // namespace lowkey::calibrate
