#pragma once
// Evolutionary search over assignments with pagmo2; the only file that sees pagmo is evolve.cc.
// Torch-free. One thread; results depend on the arguments alone.
#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "tune/surrogate.h"

namespace lowkey::tune {

enum class Algorithm : uint8_t {
  kNsga2,  // genes are integers
  kMoead,  // genes are reals, rounded down: MOEA/D-DE has no integers
};

// Both to be made small; of the size of 1, so that MOEA/D may weigh them against each other.
using Objectives = std::array<double, 2>;

struct EvolveOptions {
  Algorithm algorithm = Algorithm::kNsga2;
  uint64_t seed = 0;
  int32_t population = 100;  // at least 8
  int32_t generations = 100;
};

// The last population, without repeats, in its order. num_choices[i]: how many a variable has; they
// should be in an order in which neighbours are alike. `start` is the first population's part that
// is not random; what is more than fits is left out.
std::vector<Assignment> evolve(
    std::span<const int32_t> num_choices, std::span<const Assignment> start,
    const EvolveOptions& options,
    const std::function<Objectives(std::span<const int32_t>)>& objectives);

}  // namespace lowkey::tune
