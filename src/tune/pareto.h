#pragma once
// What "better" means when two things are to be small: fronts and the area they dominate.
// Torch-free, pure. No number here may be NaN.
#include <cstddef>
#include <span>
#include <vector>

namespace lowkey::tune {

struct CostLoss {
  double cost = 0;  // bits, bytes: whatever is paid
  double loss = 0;  // what is lost for it
  friend bool operator==(const CostLoss&, const CostLoss&) = default;
};

// a is no worse than b in both, and better in one.
bool dominates(const CostLoss& a, const CostLoss& b);

// Indices of the points that no other dominates, by ascending cost (so by descending loss). Of
// equal points the first stays.
std::vector<size_t> pareto_front(std::span<const CostLoss> points);

// The area between the points and `reference`: what lies at or beyond it in cost or loss adds
// nothing.
double hypervolume(std::span<const CostLoss> points, const CostLoss& reference);

}  // namespace lowkey::tune
