#pragma once
// Models of loss with sensitivities that a test plants, and interactions that no additive surrogate
// knows.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/rng.h"
#include "tune/search.h"

namespace lowkey::tune::test {

struct PlantedModel {
  SearchSpace space;
  std::vector<std::vector<double>>
      alone;  // [variable][choice]: the loss when it alone is perturbed
  // Coherent pairs: what is lost beside the sum, as a multiple of sqrt(alone_i * alone_j).
  struct Pair {
    size_t i, j;
    double strength;  // below 0: the errors cancel in part
  };
  std::vector<Pair> pairs;
  double saturation = 0;  // the loss is bent by this much: loss / (1 + saturation * loss)

  double loss(const Assignment& assignment) const {
    double sum = 0;
    const auto term = [&](size_t i) { return alone[i][static_cast<size_t>(assignment[i])]; };
    for (size_t i = 0; i < alone.size(); ++i) sum += term(i);
    for (const Pair& pair : pairs) sum += pair.strength * std::sqrt(term(pair.i) * term(pair.j));
    return sum / (1 + saturation * sum);
  }

  std::vector<double> losses(const std::vector<Assignment>& batch) const {
    std::vector<double> result;
    for (const Assignment& assignment : batch) result.push_back(loss(assignment));
    return result;
  }

  // Single perturbations as one measures them: each off by up to `error`, relatively.
  std::vector<std::vector<double>> measured_alone(double error, uint64_t seed) const {
    SplitMix64 rng(seed);
    std::vector<std::vector<double>> prior = alone;
    for (auto& row : prior) {
      for (double& loss : row) {
        loss = loss / (1 + saturation * loss) * (1 + error * (2 * rng.uniform() - 1));
      }
    }
    return prior;
  }
};

// Bits 8, 6, 4, 3, 2 per variable. Sensitivities spread over two orders of magnitude; a bit less
// costs about as much loss as it does in a cache (four times), but not on every variable.
inline PlantedModel planted_model(size_t variables, uint64_t seed) {
  SplitMix64 rng(seed);
  PlantedModel model;
  const double bits[] = {8, 6, 4, 3, 2};
  double layers = 0;
  std::vector<double> weight;
  for (size_t i = 0; i < variables; ++i) {
    weight.push_back(1 + static_cast<double>(rng.below(7)));  // layers of a group
    layers += weight.back();
  }
  for (size_t i = 0; i < variables; ++i) {
    const double sensitivity = 0.02 * std::pow(100.0, rng.uniform() - 1) * weight[i];
    const double decay = 0.5 + 0.7 * rng.uniform();  // log loss per bit
    model.space.variables.emplace_back();
    model.alone.emplace_back();
    for (double b : bits) {
      model.space.variables.back().push_back({b * weight[i] / layers});
      model.alone.back().push_back(sensitivity * std::exp(-decay * (b - 2)) *
                                   (0.7 + 0.6 * rng.uniform()));
    }
  }
  // A third of the pairs of near layers interact, mostly for the worse.
  for (size_t i = 0; i < variables; ++i) {
    for (size_t j = i + 1; j < std::min(variables, i + 6); ++j) {
      if (rng.below(3) == 0) model.pairs.push_back({i, j, 2 * rng.uniform() - 0.6});
    }
  }
  model.saturation = 0.8;
  return model;
}

}  // namespace lowkey::tune::test
