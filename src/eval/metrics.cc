#include "eval/metrics.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "core/error.h"

namespace lowkey {
namespace {

// A vocabulary has 50,000 to 250,000 logits, and a trial of tune thousands of positions: the loops
// below keep this many independent sums, which compilers turn into vectors of any width.
constexpr size_t kLanes = 16;

// exp(x) for x <= 0, to 2e-7 of the result; 0 below -87. Cephes' polynomial on [-ln 2 / 2, ln 2 /
// 2].
inline float exp_nonpositive(float x) {
  constexpr float kAlign = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float clamped = x > -87.0f ? x : -87.0f;
  const float n = (clamped * 1.44269504f + kAlign) - kAlign;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * r * r + r + 1.0f;
  const auto power = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x > -87.0f ? y * power : 0.0f;
}

// The largest logit. Throws on NaN.
float largest(std::span<const float> logits) {
  LOWKEY_CHECK(!logits.empty());
  std::array<float, kLanes> top;
  std::array<int32_t, kLanes> nan{};
  top.fill(logits[0]);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float x = logits[i + lane];
      nan[lane] |= x != x;
      top[lane] = x > top[lane] ? x : top[lane];
    }
  }
  for (; i < logits.size(); ++i) {
    nan[0] |= logits[i] != logits[i];
    top[0] = std::max(top[0], logits[i]);
  }
  if (std::any_of(nan.begin(), nan.end(), [](int32_t flag) { return flag != 0; })) {
    fail(ErrorCode::kNumeric, "the model's logits hold NaN");
  }
  return *std::max_element(top.begin(), top.end());
}

// Index of the largest logit, lowest among equals.
int32_t index_of(std::span<const float> logits, float top) {
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), top) - logits.begin());
}

// Calls term(i) for every i and sums what it returns: floats in kLanes sums over a few thousand
// terms, doubles beyond.
template <typename Term>
double sum_of(size_t count, const Term& term) {
  constexpr size_t kBlock = 256 * kLanes;
  double total = 0;
  size_t i = 0;
  while (i + kLanes <= count) {
    std::array<float, kLanes> sums{};
    const size_t end = std::min(count, i + kBlock);
    for (; i + kLanes <= end; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += term(i + lane);
    }
    for (const float sum : sums) total += sum;
  }
  for (; i < count; ++i) total += term(i);
  return total;
}

double log_sum_exp(std::span<const float> logits, float top) {
  const float* x = logits.data();
  return top +
         std::log(sum_of(logits.size(), [=](size_t i) { return exp_nonpositive(x[i] - top); }));
}

}  // namespace

double log_sum_exp(std::span<const float> logits) {
  return log_sum_exp(logits, largest(logits));
}

void ReferencePrediction::assign(std::span<const float> logits) {
  logits_ = logits;
  const float top = largest(logits);
  top_ = index_of(logits, top);
  probabilities_.resize(logits.size());
  const float* x = logits.data();
  float* p = probabilities_.data();
  const double sum =
      sum_of(logits.size(), [=](size_t i) { return p[i] = exp_nonpositive(x[i] - top); });
  log_sum_ = top + std::log(sum);
  const auto scale = static_cast<float>(1 / sum);
  for (float& probability : probabilities_) probability *= scale;
}

double ReferencePrediction::nll(int32_t target) const {
  return log_sum_ - logits_[static_cast<size_t>(target)];
}

PositionScore ReferencePrediction::compare(std::span<const float> logits, int32_t target) const {
  LOWKEY_CHECK(logits.size() == logits_.size());
  const float top = largest(logits);
  const double log_sum = log_sum_exp(logits, top);
  // sum p (log p - log q) = sum p (x - y) + log_sum_q - log_sum_p, the differences of logits being
  // small. A probability of 0 covers logits of -infinity on both sides.
  const float *p = probabilities_.data(), *x = logits_.data(), *y = logits.data();
  const double difference =
      sum_of(logits.size(), [=](size_t i) { return p[i] == 0 ? 0.0f : p[i] * (x[i] - y[i]); });
  PositionScore score;
  score.nll = log_sum - logits[static_cast<size_t>(target)];
  score.kl =
      std::max(0.0, difference + log_sum - log_sum_);  // rounding may take equal ones below 0
  score.same_top = index_of(logits, top) == top_;
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
