#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace lowkey {

int32_t argmax(std::span<const float> logits) {
  size_t best = 0;
  bool any = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) {
      fail(ErrorCode::kNumeric, "the model's logits hold NaN (token {})", i);
    }
    if (!any || logits[i] > logits[best]) best = i;
    any = true;
  }
  if (!any || logits[best] == -INFINITY) fail(ErrorCode::kNumeric, "no token has a finite logit");
  return static_cast<int32_t>(best);
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), rng_(options.seed) {
  auto require = [](bool fine, const char* name, double value, const char* range) {
    if (!fine) fail(ErrorCode::kInvalidArgument, "{} {}: must be {}", name, value, range);
  };
  require(options.temperature >= 0 && std::isfinite(options.temperature), "temperature",
          options.temperature, "0 or more");
  require(options.top_k >= 0, "top-k", options.top_k, "0 (all tokens) or more");
  require(options.top_p > 0 && options.top_p <= 1, "top-p", options.top_p, "above 0, at most 1");
  require(options.min_p >= 0 && options.min_p <= 1, "min-p", options.min_p, "between 0 and 1");
}

int32_t Sampler::sample(std::span<const float> logits) {
  const int32_t best = argmax(logits);
  if (options_.temperature == 0) return best;

  const float top = logits[static_cast<size_t>(best)];
  const float floor =
      options_.min_p > 0 ? top + static_cast<float>(std::log(options_.min_p)) : -INFINITY;
  candidates_.clear();
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == -INFINITY) continue;
    total += std::exp(static_cast<double>(logits[i]) - top);
    candidates_.push_back({static_cast<int32_t>(i), logits[i]});
  }
  auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    const auto end = candidates_.begin() + options_.top_k;
    std::partial_sort(candidates_.begin(), end, candidates_.end(), likelier);
    candidates_.erase(end, candidates_.end());
    total = 0;
    for (const Candidate& c : candidates_) {
      total += std::exp(static_cast<double>(c.logit) - top);
    }
  } else {
    std::sort(candidates_.begin(), candidates_.end(), likelier);
  }
  if (options_.top_p < 1) {
    double mass = 0;
    size_t keep = 0;
    while (keep < candidates_.size() && mass < options_.top_p * total) {
      mass += std::exp(static_cast<double>(candidates_[keep++].logit) - top);
    }
    candidates_.resize(keep);
  }
  while (candidates_.size() > 1 && candidates_.back().logit < floor) candidates_.pop_back();

  weights_.clear();
  double sum = 0;
  for (const Candidate& c : candidates_) {
    sum += std::exp((static_cast<double>(c.logit) - top) / options_.temperature);
    weights_.push_back(sum);
  }
  const double draw = rng_.uniform() * sum;
  const auto chosen = std::upper_bound(weights_.begin(), weights_.end(), draw);
  const auto index =
      std::min<size_t>(static_cast<size_t>(chosen - weights_.begin()), candidates_.size() - 1);
  return candidates_[index].id;
}

}  // namespace lowkey
