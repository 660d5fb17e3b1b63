#include "tune/surrogate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "tune/cholesky.h"

namespace lowkey::tune {
namespace {

// Tried for the power of the sum; how much less likely than 1 the others are beforehand, as the
// standard deviation of log gamma.
constexpr std::array kGammas = {0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 1.8, 2.0};
constexpr double kLogGammaSd = 0.3;
// Tried for the share of a trial's loss that the sum does not explain, and with which gamma is
// chosen.
constexpr std::array kNoises = {0.01, 0.02, 0.05, 0.1, 0.2, 0.4};
constexpr double kUsualNoise = 0.05;
// Tried for the factor: its standard deviation, and by what power a difference in all variables
// lowers the kernel (exp(-decay * share of variables that differ)). What no kernel explains is
// this.
constexpr std::array kFactorSds = {0.05, 0.15, 0.4};
constexpr std::array kFactorDecays = {2.0, 6.0};
constexpr double kFactorNoise = 0.02;
constexpr int kMaxSweeps = 500;

size_t difference(std::span<const int32_t> a, std::span<const int32_t> b) {
  size_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += a[i] != b[i] ? 1 : 0;
  return count;
}

double dot(std::span<const double> a, std::span<const double> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// Log likelihood of residuals ~ N(0, matrix), but for a constant; `weights` is matrix^-1 residuals.
double log_likelihood(const Cholesky& matrix, std::span<const double> residuals,
                      std::span<const double> weights) {
  return -0.5 * (dot(residuals, weights) + matrix.log_determinant());
}

}  // namespace

struct Surrogate::Sums {
  std::vector<double> shares;
  double log_evidence = 0;
};

Surrogate::Surrogate(std::vector<std::vector<double>> prior, const SurrogateOptions& options)
    : prior_(std::move(prior)), options_(options) {
  if (prior_.empty()) fail(ErrorCode::kInvalidArgument, "there is nothing to choose: no variables");
  double largest = 0;
  for (size_t i = 0; i < prior_.size(); ++i) {
    if (prior_[i].empty()) fail(ErrorCode::kInvalidArgument, "variable {} has no choices", i);
    first_.push_back(alone_.size());
    for (double& loss : prior_[i]) {
      if (!std::isfinite(loss)) {
        fail(ErrorCode::kNumeric, "variable {}: its prior loss is {}", i, loss);
      }
      loss = std::max(loss, 0.0);
      largest = std::max(largest, loss);
      alone_.push_back(loss);
    }
  }
  floor_ = options.prior_floor > 0 ? options.prior_floor : 1e-3 * largest;
  if (floor_ <= 0) floor_ = 1e-9;  // every prior is 0: any positive number will do
  shares_ = alone_;
}

double Surrogate::sum_of(std::span<const double> values,
                         std::span<const int32_t> assignment) const {
  LOWKEY_CHECK(assignment.size() == prior_.size(), "{} choices for {} variables", assignment.size(),
               prior_.size());
  double sum = 0;
  for (size_t i = 0; i < assignment.size(); ++i) {
    LOWKEY_DCHECK(assignment[i] >= 0 && static_cast<size_t>(assignment[i]) < prior_[i].size());
    sum += values[at(i, assignment[i])];
  }
  return sum;
}

Surrogate::Sums Surrogate::fit_sums(std::span<const Trial> trials, double gamma,
                                    double noise) const {
  const size_t n = trials.size();
  // A scale for the whole prior first: it may come from another text than the trials. Its own prior
  // is 1, and weighs as much as two trials.
  std::vector<double> shares(alone_.size());
  for (size_t k = 0; k < alone_.size(); ++k) shares[k] = std::pow(alone_[k], 1 / gamma);
  double log_scale = 0;
  for (const Trial& trial : trials) {
    const double guess = std::pow(sum_of(shares, trial.assignment), gamma);
    log_scale += std::log(std::max(trial.loss, floor_) / std::max(guess, floor_));
  }
  const double scale = std::exp(log_scale / (static_cast<double>(n) + 2));

  std::vector<double> variance(alone_.size());
  for (size_t k = 0; k < alone_.size(); ++k) {
    const double loss = scale * alone_[k];
    const double sd = options_.prior_relative_sd * loss + floor_;
    shares[k] = std::pow(loss, 1 / gamma);
    const double width = std::pow(loss + sd, 1 / gamma) - shares[k];
    variance[k] = width * width;
  }
  // Residuals in the sum's units, whose relative errors are the loss's divided by gamma.
  std::vector<double> residuals(n), trial_variance(n), covariance(n * n);
  double log_jacobian = 0;
  for (size_t t = 0; t < n; ++t) {
    const double loss = std::max(trials[t].loss, floor_);
    const double target = std::pow(loss, 1 / gamma);
    residuals[t] = target - sum_of(shares, trials[t].assignment);
    const double sd = noise * target / gamma;
    trial_variance[t] = sd * sd;
    log_jacobian += std::log(target / (gamma * loss));
    for (size_t u = 0; u <= t; ++u) {
      double shared = u == t ? trial_variance[t] : 0;
      for (size_t i = 0; i < first_.size(); ++i) {
        if (trials[t].assignment[i] == trials[u].assignment[i]) {
          shared += variance[at(i, trials[t].assignment[i])];
        }
      }
      covariance[t * n + u] = shared;
    }
  }
  const Cholesky factor(std::move(covariance), n);
  const std::vector<double> weights = factor.solve(residuals);
  const double log_gamma = std::log(gamma) / kLogGammaSd;
  Sums sums{.shares = shares,
            .log_evidence = log_likelihood(factor, residuals, weights) + log_jacobian -
                            0.5 * log_gamma * log_gamma};
  for (size_t t = 0; t < n; ++t) {
    for (size_t i = 0; i < first_.size(); ++i) {
      const size_t k = at(i, trials[t].assignment[i]);
      sums.shares[k] += variance[k] * weights[t];
    }
  }
  if (std::all_of(sums.shares.begin(), sums.shares.end(), [](double a) { return a >= 0; })) {
    return sums;
  }

  // The most probable shares that are not negative: one coordinate at a time, until all stand
  // still.
  for (double& share : sums.shares) share = std::max(share, 0.0);
  std::vector<std::vector<size_t>> users(alone_.size());
  for (size_t t = 0; t < n; ++t) {
    residuals[t] = std::pow(std::max(trials[t].loss, floor_), 1 / gamma) -
                   sum_of(sums.shares, trials[t].assignment);
    for (size_t i = 0; i < first_.size(); ++i) users[at(i, trials[t].assignment[i])].push_back(t);
  }
  const double still = 1e-9 * *std::max_element(sums.shares.begin(), sums.shares.end());
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    double moved = 0;
    for (size_t k = 0; k < alone_.size(); ++k) {
      if (users[k].empty()) continue;
      double pull = (shares[k] - sums.shares[k]) / variance[k];
      double stiffness = 1 / variance[k];
      for (size_t t : users[k]) {
        pull += residuals[t] / trial_variance[t];
        stiffness += 1 / trial_variance[t];
      }
      const double next = std::max(0.0, sums.shares[k] + pull / stiffness);
      const double step = next - sums.shares[k];
      for (size_t t : users[k]) residuals[t] -= step;
      sums.shares[k] = next;
      moved = std::max(moved, std::abs(step));
    }
    if (moved <= still) break;
  }
  return sums;
}

void Surrogate::fit(std::span<const Trial> trials) {
  for (const Trial& trial : trials) {
    if (!std::isfinite(trial.loss)) {
      fail(ErrorCode::kNumeric, "a trial's loss is {}", trial.loss);
    }
  }
  gamma_ = 1;
  shares_ = alone_;
  seen_.clear();
  weights_.clear();
  if (trials.empty()) return;
  double best = -std::numeric_limits<double>::infinity();
  const auto take_better = [&](double gamma, double noise) {
    Sums sums = fit_sums(trials, gamma, noise);
    if (sums.log_evidence <= best) return;
    best = sums.log_evidence;
    gamma_ = gamma;
    shares_ = std::move(sums.shares);
  };
  for (double gamma : kGammas) take_better(gamma, kUsualNoise);
  const double gamma = gamma_;
  for (double noise : kNoises) take_better(gamma, noise);
  fit_factor(trials);
}

void Surrogate::fit_factor(std::span<const Trial> trials) {
  const size_t n = trials.size();
  const size_t variables = prior_.size();
  std::vector<double> residuals(n);
  std::vector<size_t> apart(n * n);
  for (size_t t = 0; t < n; ++t) {
    residuals[t] = std::log(std::max(trials[t].loss, floor_) /
                            std::max(predict_additive(trials[t].assignment), floor_));
    for (size_t u = 0; u <= t; ++u) {
      apart[t * n + u] = difference(trials[t].assignment, trials[u].assignment);
    }
  }
  double best = -std::numeric_limits<double>::infinity();
  for (double sd : kFactorSds) {
    for (double decay : kFactorDecays) {
      std::vector<double> similarity(variables + 1);
      for (size_t d = 0; d <= variables; ++d) {
        similarity[d] =
            sd * sd * std::exp(-decay * static_cast<double>(d) / static_cast<double>(variables));
      }
      std::vector<double> covariance(n * n);
      for (size_t t = 0; t < n; ++t) {
        for (size_t u = 0; u <= t; ++u) covariance[t * n + u] = similarity[apart[t * n + u]];
        covariance[t * n + t] += kFactorNoise * kFactorNoise;
      }
      const Cholesky factor(std::move(covariance), n);
      std::vector<double> weights = factor.solve(residuals);
      const double evidence = log_likelihood(factor, residuals, weights);
      if (evidence <= best) continue;
      best = evidence;
      weights_ = std::move(weights);
      similarity_ = std::move(similarity);
    }
  }
  for (const Trial& trial : trials) seen_.push_back(trial.assignment);
}

double Surrogate::predict_additive(std::span<const int32_t> assignment) const {
  return std::pow(sum_of(shares_, assignment), gamma_);
}

double Surrogate::predict(std::span<const int32_t> assignment) const {
  double log_factor = 0;
  for (size_t t = 0; t < seen_.size(); ++t) {
    log_factor += weights_[t] * similarity_[difference(assignment, seen_[t])];
  }
  return predict_additive(assignment) * std::exp(log_factor);
}

double spearman(std::span<const double> a, std::span<const double> b) {
  LOWKEY_CHECK(a.size() == b.size(), "{} and {} values", a.size(), b.size());
  const auto ranks_of = [](std::span<const double> values) {
    std::vector<size_t> order(values.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(),
              [&](size_t i, size_t j) { return values[i] < values[j]; });
    std::vector<double> ranks(values.size());
    for (size_t first = 0; first < order.size();) {
      size_t last = first;
      while (last + 1 < order.size() && values[order[last + 1]] == values[order[first]]) ++last;
      const double rank = static_cast<double>(first + last) / 2;
      for (size_t i = first; i <= last; ++i) ranks[order[i]] = rank;
      first = last + 1;
    }
    return ranks;
  };
  std::vector<double> x = ranks_of(a), y = ranks_of(b);
  const double middle = (static_cast<double>(a.size()) - 1) / 2;
  for (double& rank : x) rank -= middle;
  for (double& rank : y) rank -= middle;
  const double spread = dot(x, x) * dot(y, y);
  return spread > 0 ? dot(x, y) / std::sqrt(spread) : 0;
}

}  // namespace lowkey::tune
