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
// Tried for the share of a trial's loss that the model does not explain.
constexpr std::array kNoises = {0.01, 0.02, 0.05, 0.1, 0.2, 0.4};
constexpr double kUsualNoise = 0.05;
// Tried for how strongly two variables interact: the standard deviation of their correlation.
constexpr std::array kPairSds = {0.0, 0.1, 0.3, 0.6};
constexpr double kUsualPairSd = 0.1;
// However much the pairs' errors seem to cancel, this share of the sum stays.
constexpr double kLeastLeft = 0.1;
constexpr int kMaxSweeps = 500;

double dot(std::span<const double> a, std::span<const double> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

}  // namespace

// The model under one gamma, and how well it explains the trials.
struct Surrogate::Fit {
  double gamma = 1;
  Model model;
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
  model_.shares = alone_;
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

double Surrogate::pairs_of(const Model& model, std::span<const int32_t> assignment) const {
  if (model.pairs.empty()) return 0;
  const size_t n = assignment.size();
  std::vector<double> roots(n);
  for (size_t i = 0; i < n; ++i) roots[i] = model.roots[at(i, assignment[i])];
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    double row = 0;
    for (size_t j = 0; j < i; ++j) row += model.pairs[i * n + j] * roots[j];
    sum += roots[i] * row;
  }
  return sum;
}

// Log of the scale of the whole prior, which may come from another text than the trials. Its own
// prior is 1, and weighs as much as two trials.
double Surrogate::log_scale_of(std::span<const Trial> trials, double gamma) const {
  std::vector<double> shares;
  for (double loss : alone_) shares.push_back(std::pow(loss, 1 / gamma));
  double sum = 0;
  for (const Trial& trial : trials) {
    const double guess = std::pow(sum_of(shares, trial.assignment), gamma);
    sum += std::log(std::max(trial.loss, floor_) / std::max(guess, floor_));
  }
  return sum / (static_cast<double>(trials.size()) + 2);
}

Surrogate::Fit Surrogate::fit_model(std::span<const Trial> trials, double gamma, double noise,
                                    double pair_sd) const {
  const size_t n = trials.size(), variables = first_.size();
  const double scale = std::exp(log_scale_of(trials, gamma));
  Fit fit;
  fit.gamma = gamma;
  Model& model = fit.model;
  std::vector<double> mean, variance;
  for (double alone : alone_) {
    const double loss = scale * alone;
    const double sd = options_.prior_relative_sd * loss + floor_;
    mean.push_back(std::pow(loss, 1 / gamma));
    const double width = std::pow(loss + sd, 1 / gamma) - mean.back();
    variance.push_back(width * width);
    model.roots.push_back(std::sqrt(mean.back()));
  }
  // All in the sum's units, where relative errors are the loss's divided by gamma. As a Gaussian
  // process over trials: there are fewer of them than pairs of variables.
  std::vector<double> targets(n), trial_variance(n), residuals(n), covariance(n * n);
  double log_jacobian = 0;
  for (size_t t = 0; t < n; ++t) {
    const double loss = std::max(trials[t].loss, floor_);
    targets[t] = std::pow(loss, 1 / gamma);
    residuals[t] = targets[t] - sum_of(mean, trials[t].assignment);
    const double sd = noise * targets[t] / gamma;
    trial_variance[t] = sd * sd;
    log_jacobian += std::log(targets[t] / (gamma * loss));
    for (size_t u = 0; u <= t; ++u) {
      double shared = u == t ? trial_variance[t] : 0;
      double products = 0, squares = 0;
      for (size_t i = 0; i < variables; ++i) {
        const size_t a = at(i, trials[t].assignment[i]), b = at(i, trials[u].assignment[i]);
        if (a == b) shared += variance[a];
        const double product = model.roots[a] * model.roots[b];
        products += product;
        squares += product * product;
      }
      // The sum over all pairs i < j of product_i * product_j.
      covariance[t * n + u] = shared + pair_sd * pair_sd * (products * products - squares) / 2;
    }
  }
  const Cholesky factor(std::move(covariance), n);
  const std::vector<double> weights = factor.solve(residuals);
  const double log_gamma = std::log(gamma) / kLogGammaSd;
  fit.log_evidence = -0.5 * (dot(residuals, weights) + factor.log_determinant()) + log_jacobian -
                     0.5 * log_gamma * log_gamma;

  model.shares = mean;
  if (pair_sd > 0) model.pairs.assign(variables * variables, 0);
  for (size_t t = 0; t < n; ++t) {
    for (size_t i = 0; i < variables; ++i) {
      const size_t k = at(i, trials[t].assignment[i]);
      model.shares[k] += variance[k] * weights[t];
      if (pair_sd == 0) continue;
      const double part = pair_sd * pair_sd * weights[t] * model.roots[k];
      for (size_t j = 0; j < i; ++j) {
        model.pairs[i * variables + j] += part * model.roots[at(j, trials[t].assignment[j])];
      }
    }
  }
  for (size_t t = 0; t < n; ++t) targets[t] -= pairs_of(model, trials[t].assignment);
  keep_shares_positive(trials, mean, variance, targets, trial_variance, model);
  return fit;
}

// The most probable shares that are not negative: one coordinate at a time, until all stand still.
void Surrogate::keep_shares_positive(std::span<const Trial> trials, std::span<const double> mean,
                                     std::span<const double> variance,
                                     std::span<const double> targets,
                                     std::span<const double> trial_variance, Model& model) const {
  std::vector<double>& shares = model.shares;
  if (std::all_of(shares.begin(), shares.end(), [](double a) { return a >= 0; })) return;
  for (double& share : shares) share = std::max(share, 0.0);
  std::vector<std::vector<size_t>> users(shares.size());
  std::vector<double> residuals;
  for (size_t t = 0; t < trials.size(); ++t) {
    residuals.push_back(targets[t] - sum_of(shares, trials[t].assignment));
    for (size_t i = 0; i < first_.size(); ++i) users[at(i, trials[t].assignment[i])].push_back(t);
  }
  const double still = 1e-9 * *std::max_element(mean.begin(), mean.end());
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    double moved = 0;
    for (size_t k = 0; k < shares.size(); ++k) {
      if (users[k].empty()) continue;
      double pull = (mean[k] - shares[k]) / variance[k];
      double stiffness = 1 / variance[k];
      for (size_t t : users[k]) {
        pull += residuals[t] / trial_variance[t];
        stiffness += 1 / trial_variance[t];
      }
      const double next = std::max(0.0, shares[k] + pull / stiffness);
      const double step = next - shares[k];
      for (size_t t : users[k]) residuals[t] -= step;
      shares[k] = next;
      moved = std::max(moved, std::abs(step));
    }
    if (moved <= still) break;
  }
}

void Surrogate::fit(std::span<const Trial> trials) {
  for (const Trial& trial : trials) {
    if (!std::isfinite(trial.loss)) {
      fail(ErrorCode::kNumeric, "a trial's loss is {}", trial.loss);
    }
  }
  gamma_ = 1;
  model_ = {.shares = alone_, .roots = {}, .pairs = {}};
  if (trials.empty()) return;
  Fit best;
  best.log_evidence = -std::numeric_limits<double>::infinity();
  double best_noise = kNoises[0], best_pair_sd = 0;
  const auto take_better = [&](double gamma, double noise, double pair_sd) {
    Fit fit = fit_model(trials, gamma, noise, pair_sd);
    if (fit.log_evidence <= best.log_evidence) return;
    best = std::move(fit);
    best_noise = noise;
    best_pair_sd = pair_sd;
  };
  // One after another: they hardly depend on each other.
  for (double gamma : kGammas) take_better(gamma, kUsualNoise, kUsualPairSd);
  const double gamma = best.gamma;
  for (double pair_sd : kPairSds) take_better(gamma, best_noise, pair_sd);
  for (double noise : kNoises) take_better(gamma, noise, best_pair_sd);
  gamma_ = best.gamma;
  model_ = std::move(best.model);
}

double Surrogate::predict(std::span<const int32_t> assignment) const {
  const double sum = sum_of(model_.shares, assignment);
  return std::pow(std::max(sum + pairs_of(model_, assignment), kLeastLeft * sum), gamma_);
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
