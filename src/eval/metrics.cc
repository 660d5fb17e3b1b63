#include "eval/metrics.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace lowkey {
namespace {

// A vocabulary has 50,000 to 250,000 logits, and a trial of tune thousands of positions: four
// floats at a time, in four independent sums (GCC's and Clang's vector extensions, which every
// target has).
typedef float F32x4 __attribute__((vector_size(16)));
typedef float F32x4U __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t I32x4 __attribute__((vector_size(16)));
constexpr size_t kVector = 4;
constexpr size_t kSums = 4;

inline F32x4 load(const float* p) {
  return *reinterpret_cast<const F32x4U*>(p);
}
inline F32x4 splat(float x) {
  return F32x4{x, x, x, x};
}

// exp(x) for x <= 0, to 2e-7 of the result; 0 below -87. Cephes' polynomial on [-ln 2 / 2, ln 2 /
// 2].
inline F32x4 exp_nonpositive(F32x4 x) {
  constexpr float kAlign = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const I32x4 counts = x > -87.0f;
  const F32x4 clamped = counts ? x : splat(-87.0f);
  const F32x4 n = (clamped * 1.44269504f + kAlign) - kAlign;
  const F32x4 r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  F32x4 p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const F32x4 y = p * r * r + r + 1.0f;
  const auto power = reinterpret_cast<F32x4>((__builtin_convertvector(n, I32x4) + 127) << 23);
  return counts ? y * power : splat(0);
}

// The largest logit. Throws on NaN.
float largest(std::span<const float> logits) {
  LOWKEY_CHECK(!logits.empty());
  F32x4 top = splat(logits[0]);
  I32x4 nan = {0, 0, 0, 0};
  size_t i = 0;
  for (; i + kVector <= logits.size(); i += kVector) {
    const F32x4 x = load(logits.data() + i);
    nan |= x != x;
    top = x > top ? x : top;
  }
  float best = std::max({top[0], top[1], top[2], top[3]});
  bool found = (nan[0] | nan[1] | nan[2] | nan[3]) != 0;
  for (; i < logits.size(); ++i) {
    found |= std::isnan(logits[i]);
    best = std::max(best, logits[i]);
  }
  if (found) fail(ErrorCode::kNumeric, "the model's logits hold NaN");
  return best;
}

// Index of the largest logit, lowest among equals.
int32_t index_of(std::span<const float> logits, float top) {
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), top) - logits.begin());
}

// Sums term(i), four values for i to i + 3: in floats over a few thousand terms, in doubles beyond.
template <typename Term>
double sum_of(size_t count, const Term& term) {
  constexpr size_t kBlock = 256 * kVector * kSums;
  double total = 0;
  for (size_t first = 0; first < count; first += kBlock) {
    const size_t end = std::min(count, first + kBlock);
    F32x4 sums[kSums] = {splat(0), splat(0), splat(0), splat(0)};
    size_t i = first;
    for (; i + kVector * kSums <= end; i += kVector * kSums) {
      for (size_t part = 0; part < kSums; ++part) sums[part] += term(i + part * kVector);
    }
    const F32x4 sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    total += static_cast<double>(sum[0]) + sum[1] + sum[2] + sum[3];
    for (; i < end; i += kVector) {
      const F32x4 last = term(i);
      for (size_t lane = 0; lane < std::min(kVector, end - i); ++lane) total += last[lane];
    }
  }
  return total;
}

// Four floats from `x`, of which only those before `end` exist; the others are `filler`.
inline F32x4 load_before(const float* x, const float* end, float filler) {
  if (x + kVector <= end) return load(x);
  F32x4 part = splat(filler);
  for (size_t lane = 0; x + lane < end; ++lane) part[lane] = x[lane];
  return part;
}

double log_sum_exp(std::span<const float> logits, float top) {
  const float *x = logits.data(), *end = x + logits.size();
  return top + std::log(sum_of(logits.size(), [=](size_t i) {
           return exp_nonpositive(load_before(x + i, end, top) - top);
         }));
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
  const float *x = logits.data(), *end = x + logits.size();
  float *p = probabilities_.data(), *p_end = p + logits.size();
  const double sum = sum_of(logits.size(), [=](size_t i) {
    const F32x4 e = exp_nonpositive(load_before(x + i, end, top) - top);
    for (size_t lane = 0; lane < kVector && p + i + lane < p_end; ++lane) p[i + lane] = e[lane];
    return e;
  });
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
  const size_t count = logits.size();
  const float *p = probabilities_.data(), *x = logits_.data(), *y = logits.data();
  const double difference = sum_of(count, [=](size_t i) {
    const F32x4 weight = load_before(p + i, p + count, 0);
    const F32x4 term =
        weight * (load_before(x + i, x + count, 0) - load_before(y + i, y + count, 0));
    return weight == 0.0f ? splat(0) : term;
  });
  PositionScore score;
  score.nll = log_sum - logits[static_cast<size_t>(target)];
  score.kl =
      std::max(0.0, difference + log_sum - log_sum_);  // rounding may take equal ones below 0
  score.same_top = index_of(logits, top) == top_;
  return score;
}

Summary summarize(const std::vector<PositionScore>& scores) {
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
