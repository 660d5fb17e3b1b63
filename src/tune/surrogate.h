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

// loss(x) = (sum over variables i of a[i][x[i]])^gamma, times a factor that is near 1 except beside
// trials that the sum cannot explain.
//   The prior of a is what each choice costs alone, to the power 1 / gamma, so that an assignment
// with one perturbed variable is predicted as it was measured, whatever gamma is: 1 when errors
// add, above 1 when they make each other worse, below 1 when they saturate. All of a are at least
// 0; that a variable's dearer choice costs less loss is not forced, because on some layers it does
// not.
//   fit() is the Gaussian posterior of a given the trials; gamma, a common scale of the prior and
// the trials' own unexplained share are those that make the trials likeliest, with a mild
// preference for 1, 1 and little. Errors count relative to a trial's loss.
//   The factor is a Gaussian process on the log of what is left, with a kernel that falls with the
// number of variables in which two assignments differ: variables whose errors interact.
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
  // What the sum alone says, without the factor; cheaper.
  double predict_additive(std::span<const int32_t> assignment) const;

  size_t num_variables() const { return prior_.size(); }
  size_t num_choices(size_t variable) const { return prior_[variable].size(); }
  // The share of one choice, in units of the sum.
  double share(size_t variable, int32_t choice) const { return shares_[at(variable, choice)]; }
  double gamma() const { return gamma_; }
  double floor() const { return floor_; }

 private:
  struct Sums;  // the linear model under one gamma
  size_t at(size_t variable, int32_t choice) const {
    return first_[variable] + static_cast<size_t>(choice);
  }
  double sum_of(std::span<const double> values, std::span<const int32_t> assignment) const;
  Sums fit_sums(std::span<const Trial> trials, double gamma, double noise) const;
  void fit_factor(std::span<const Trial> trials);

  std::vector<std::vector<double>> prior_;
  SurrogateOptions options_;
  double floor_ = 0;
  std::vector<size_t> first_;   // of a variable's choices in the vectors below
  std::vector<double> alone_;   // prior loss, flat
  std::vector<double> shares_;  // a, flat
  double gamma_ = 1;
  // The factor: trials it remembers, and their weights.
  std::vector<Assignment> seen_;
  std::vector<double> weights_;
  std::vector<double> similarity_;  // by the number of variables that differ
};

// Of two lists of equal length; equal values share the mean of their ranks. 0 where a list is
// constant or has fewer than two values: nothing is ranked then.
double spearman(std::span<const double> a, std::span<const double> b);

}  // namespace lowkey::tune
