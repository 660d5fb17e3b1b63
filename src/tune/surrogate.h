#pragma once
// A cheap guess at the loss of an assignment, from what its choices cost one at a time and from
// what was measured since. It only proposes: nothing it says is ever published. Torch-free. Const
// member functions may run concurrently.
#include <cstdint>
#include <span>
#include <vector>

namespace lowkey::tune {

// The choice of every variable: a layer's candidate, or a group's, or that of one layer's keys.
using Assignment = std::vector<int32_t>;

// An assignment whose loss was measured.
struct Trial {
  Assignment assignment;
  double cost = 0;
  double loss = 0;
  friend bool operator==(const Trial&, const Trial&) = default;
};

struct SurrogateOptions {
  // How far a cost may be from its prior: one standard deviation is relative * prior + floor.
  double prior_relative_sd = 0.3;
  double prior_floor = 0;  // in units of loss; 0: a thousandth of the largest prior cost
};

// loss(x) = (sum over i of a[i][x[i]] + sum over i < j of s[i][j] r[i][x[i]] r[j][x[j]])^gamma
//   The prior of a is what each choice costs alone, to the power 1 / gamma, so that an assignment
// with one perturbed variable is predicted as it was measured, whatever gamma is: 1 when errors
// add, above 1 when they make each other worse, below 1 when they saturate. All of a are at least
// 0; that a variable's dearer choice costs less loss is not forced, because on some layers it does
// not.
//   The second sum is how the errors of two variables meet. Near the 16-bit model, divergence is
// quadratic in the errors: what beside squares |e_i|^2 = a is left is 2 rho_ij |e_i||e_j|, so r is
// the root of a's prior, and s has the prior 0.
//   fit() is the Gaussian posterior of a and s given the trials; gamma, a common scale of the
//   prior,
// the spread of s and the trials' own unexplained share are those that make the trials likeliest,
// with a mild preference for gamma and scale 1. Errors count relative to a trial's loss.
class Surrogate {
 public:
  // prior[i][c]: the loss when variable i alone takes choice c and all others cost nothing; values
  // below 0 count as 0. Throws Error kInvalidArgument for no variables, or one without choices, and
  // kNumeric for NaN and infinity.
  explicit Surrogate(std::vector<std::vector<double>> prior, const SurrogateOptions& options = {});

  // Replaces what earlier trials taught. Losses below the floor count as the floor. Throws Error
  // kNumeric for losses that are not finite.
  void fit(std::span<const Trial> trials);

  // At least 0, finite. Same trials in the same order: the same bits.
  double predict(std::span<const int32_t> assignment) const;

  size_t num_variables() const { return prior_.size(); }
  size_t num_choices(size_t variable) const { return prior_[variable].size(); }
  // a[variable][choice].
  double share(size_t variable, int32_t choice) const {
    return model_.shares[at(variable, choice)];
  }
  double gamma() const { return gamma_; }
  double floor() const { return floor_; }

 private:
  struct Model {
    std::vector<double> shares;  // a, flat
    std::vector<double> roots;   // r, flat
    std::vector<double> pairs;   // s, [variable, variable], below the diagonal; empty: none
  };
  struct Fit;
  size_t at(size_t variable, int32_t choice) const {
    return first_[variable] + static_cast<size_t>(choice);
  }
  double sum_of(std::span<const double> values, std::span<const int32_t> assignment) const;
  double pairs_of(const Model& model, std::span<const int32_t> assignment) const;
  double log_scale_of(std::span<const Trial> trials, double gamma) const;
  Fit fit_model(std::span<const Trial> trials, double gamma, double noise, double pair_sd) const;
  void keep_shares_positive(std::span<const Trial> trials, std::span<const double> mean,
                            std::span<const double> variance, std::span<const double> targets,
                            std::span<const double> trial_variance, Model& model) const;

  std::vector<std::vector<double>> prior_;
  SurrogateOptions options_;
  double floor_ = 0;
  std::vector<size_t> first_;  // of a variable's choices in flat vectors
  std::vector<double> alone_;  // the prior, flat
  double gamma_ = 1;
  Model model_;
};

// Of two lists of equal length; equal values share the mean of their ranks. 0 where a list is
// constant or has fewer than two values: nothing is ranked then.
double spearman(std::span<const double> a, std::span<const double> b);

}  // namespace lowkey::tune
