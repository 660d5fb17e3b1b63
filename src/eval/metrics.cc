#include "eval/metrics.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace lowkey {
namespace {

// Index of the largest logit, lowest among equals. Throws on NaN.
int32_t top_index(std::span<const float> logits) {
  LOWKEY_CHECK(!logits.empty());
  size_t top = 0;
  bool nan = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    nan |= std::isnan(logits[i]);
    if (logits[i] > logits[top]) top = i;
  }
  if (nan) fail(ErrorCode::kNumeric, "the model's logits hold NaN");
  return static_cast<int32_t>(top);
}

}  // namespace

double log_sum_exp(std::span<const float> logits) {
  const float top = logits[static_cast<size_t>(top_index(logits))];
  double sum = 0;
  for (float x : logits) sum += std::exp(x - top);
  return top + std::log(sum);
}

void ReferencePrediction::assign(std::span<const float> logits) {
  logits_ = logits;
  top_ = top_index(logits);
  log_sum_ = log_sum_exp(logits);
  probabilities_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    probabilities_[i] = static_cast<float>(std::exp(logits[i] - log_sum_));
  }
}

double ReferencePrediction::nll(int32_t target) const {
  return log_sum_ - logits_[static_cast<size_t>(target)];
}

PositionScore ReferencePrediction::compare(std::span<const float> logits, int32_t target) const {
  LOWKEY_CHECK(logits.size() == logits_.size());
  const double log_sum = log_sum_exp(logits);
  // sum p (log p - log q) = sum p (x - y) + log_sum_q - log_sum_p, the differences of logits being
  // small.
  double difference = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (probabilities_[i] == 0) continue;  // covers logits of -infinity on both sides
    difference += static_cast<double>(probabilities_[i]) * (logits_[i] - logits[i]);
  }
  PositionScore score;
  score.nll = log_sum - logits[static_cast<size_t>(target)];
  score.kl =
      std::max(0.0, difference + log_sum - log_sum_);  // rounding may take equal ones below 0
  score.same_top = top_index(logits) == top_;
  return score;
}

Summary summarize(std::vector<PositionScore> scores) {
  Summary summary;
  summary.positions = static_cast<int64_t>(scores.size());
  if (scores.empty()) return summary;
  double nll = 0;
  std::vector<double> kl;
  kl.reserve(scores.size());
  for (const PositionScore& score : scores) {
    nll += score.nll;
    summary.kl_mean += score.kl;
    summary.top1_agreement += score.same_top ? 1 : 0;
    kl.push_back(score.kl);
  }
  const auto count = static_cast<double>(scores.size());
  summary.perplexity = std::exp(nll / count);
  summary.kl_mean /= count;
  summary.top1_agreement /= count;
  // Nearest rank: the smallest value that at least 99.9% of positions do not exceed.
  const auto rank = static_cast<size_t>(std::ceil(0.999 * count)) - 1;
  std::nth_element(kl.begin(), kl.begin() + static_cast<std::ptrdiff_t>(rank), kl.end());
  summary.kl_p999 = kl[rank];
  return summary;
}

}  // namespace lowkey
