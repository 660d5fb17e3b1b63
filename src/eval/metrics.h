#pragma once
// What quantizing a cache did to the model's predictions, from the logits of both. Torch-free,
// pure.
#include <cstdint>
#include <span>
#include <vector>

namespace lowkey {

// One position: the reference's (16-bit) logits against a recipe's.
struct PositionScore {
  double nll = 0;        // -log p(target) under the recipe, nats
  double kl = 0;         // KL(reference || recipe), nats
  bool same_top = true;  // both rank the same token first
};

// The reference's prediction at one position, prepared once for all recipes.
class ReferencePrediction {
 public:
  // Throws Error kNumeric on NaN.
  void assign(std::span<const float> logits);
  double nll(int32_t target) const;
  PositionScore compare(std::span<const float> logits, int32_t target) const;

 private:
  std::span<const float> logits_;
  std::vector<float> probabilities_;
  double log_sum_ = 0;  // log sum exp of the logits
  int32_t top_ = 0;
};

// log of the sum of exp, nats; throws Error kNumeric on NaN.
double log_sum_exp(std::span<const float> logits);

struct Summary {
  double perplexity = 0;
  double kl_mean = 0;
  double kl_p999 = 0;         // 99.9th percentile over positions (nearest rank)
  double top1_agreement = 0;  // share of positions, 0..1
  int64_t positions = 0;
};
Summary summarize(const std::vector<PositionScore>& scores);

}  // namespace lowkey
