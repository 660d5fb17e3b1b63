#include "model/routing.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace lowkey {

void Routing::assign(const float* logits, int64_t rows, int32_t experts, int32_t chosen,
                     bool normalize) {
  LOWKEY_CHECK(chosen > 0 && chosen <= experts, "{} of {} experts", chosen, experts);
  const auto count = static_cast<size_t>(experts);
  probabilities_.resize(count);
  order_.resize(count);
  choices_.clear();
  first_.assign(count + 1, 0);
  for (int64_t row = 0; row < rows; ++row) {
    const float* const logit = logits + row * experts;
    const float largest = *std::max_element(logit, logit + experts);
    float sum = 0;
    for (size_t e = 0; e < count; ++e) {
      probabilities_[e] = std::exp(logit[e] - largest);
      sum += probabilities_[e];
      order_[e] = static_cast<int32_t>(e);
    }
    // By logits, whose order is that of the probabilities, and finer. NaN comes last.
    const auto key = [&](int32_t e) {
      return std::isnan(logit[e]) ? -std::numeric_limits<float>::infinity() : logit[e];
    };
    std::partial_sort(
        order_.begin(), order_.begin() + chosen, order_.end(),
        [&](int32_t a, int32_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; });
    float total = 0;
    for (int32_t i = 0; i < chosen; ++i) {
      const int32_t expert = order_[static_cast<size_t>(i)];
      const float weight = probabilities_[static_cast<size_t>(expert)] / sum;
      choices_.push_back({expert, weight});
      total += weight;
      ++first_[static_cast<size_t>(expert) + 1];
    }
    if (!normalize) continue;
    for (auto choice = choices_.end() - chosen; choice != choices_.end(); ++choice) {
      choice->weight /= total;
    }
  }

  for (size_t e = 0; e < count; ++e) first_[e + 1] += first_[e];
  next_.assign(first_.begin(), first_.end() - 1);
  rows_.resize(choices_.size());
  weights_.resize(choices_.size());
  for (size_t i = 0; i < choices_.size(); ++i) {
    const auto at = static_cast<size_t>(next_[static_cast<size_t>(choices_[i].expert)]++);
    rows_[at] = static_cast<int64_t>(i) / chosen;
    weights_[at] = choices_[i].weight;
  }
}

Router::Router(const ModelConfig& config, ThreadPool& pool)
    : chosen_(config.experts_per_token), normalize_(config.normalize_expert_weights), pool_(pool) {}

const Routing& Router::route(const float* x, int64_t rows, const Linear& router) {
  const int64_t experts = router.weight.rows();
  logits_.resize(static_cast<size_t>(rows * experts));
  const MatmulOutput output{&router.weight, router.bias_data(), logits_.data()};
  matmul({x, rows, {&output, 1}}, pool_, scratch_);
  routing_.assign(logits_.data(), rows, static_cast<int32_t>(experts), chosen_, normalize_);
  return routing_;
}

}  // namespace lowkey
