#include "tune/evolve.h"

#include <algorithm>
#include <cmath>
#include <pagmo/algorithm.hpp>
#include <pagmo/algorithms/moead.hpp>
#include <pagmo/algorithms/nsga2.hpp>
#include <pagmo/population.hpp>
#include <pagmo/problem.hpp>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/rng.h"

namespace lowkey::tune {
namespace {

// What pagmo's genes stand for: one per variable that has a choice at all.
struct Genes {
  std::vector<size_t> variables;
  std::vector<int32_t> num_choices;  // of those
  size_t num_variables = 0;
  bool integers = true;

  Assignment assignment(const pagmo::vector_double& genes) const {
    Assignment choices(num_variables, 0);
    for (size_t g = 0; g < variables.size(); ++g) {
      choices[variables[g]] =
          std::clamp(static_cast<int32_t>(std::floor(genes[g])), 0, num_choices[g] - 1);
    }
    return choices;
  }

  // A real gene lies in the middle of its choice.
  pagmo::vector_double genes(const Assignment& choices) const {
    pagmo::vector_double values;
    for (size_t variable : variables) {
      values.push_back(choices[variable] + (integers ? 0.0 : 0.5));
    }
    return values;
  }
};

// pagmo copies its problems: this one borrows.
struct Problem {
  const Genes* genes = nullptr;
  const std::function<Objectives(std::span<const int32_t>)>* objectives = nullptr;

  // NOLINTNEXTLINE(readability-convert-member-functions-to-static)
  pagmo::vector_double::size_type get_nobj() const { return std::tuple_size_v<Objectives>; }
  pagmo::vector_double::size_type get_nix() const {
    return genes->integers ? genes->variables.size() : 0;
  }
  std::pair<pagmo::vector_double, pagmo::vector_double> get_bounds() const {
    pagmo::vector_double low(genes->variables.size(), 0), high;
    for (int32_t count : genes->num_choices) high.push_back(genes->integers ? count - 1 : count);
    return {low, high};
  }
  pagmo::vector_double fitness(const pagmo::vector_double& values) const {
    const Objectives both = (*objectives)(genes->assignment(values));
    return {both.begin(), both.end()};
  }
};

pagmo::algorithm make_algorithm(const EvolveOptions& options, size_t population, size_t genes,
                                unsigned seed) {
  const auto generations = static_cast<unsigned>(options.generations);
  // One gene in `genes` mutates, on average: the usual rate.
  const double mutation = std::clamp(1.0 / static_cast<double>(genes), 0.01, 0.5);
  if (options.algorithm == Algorithm::kNsga2) {
    return pagmo::algorithm(pagmo::nsga2(generations, 0.9, 10, mutation, 20, seed));
  }
  const size_t neighbours = std::min<size_t>(20, population - 1);
  return pagmo::algorithm(pagmo::moead(generations, "grid", "tchebycheff", neighbours, 1.0, 0.5, 20,
                                       0.9, 2, true, seed));
}

}  // namespace

std::vector<Assignment> evolve(
    std::span<const int32_t> num_choices, std::span<const Assignment> start,
    const EvolveOptions& options,
    const std::function<Objectives(std::span<const int32_t>)>& objectives) {
  LOWKEY_CHECK(options.population >= 8 && options.generations >= 0, "population {}, generations {}",
               options.population, options.generations);
  Genes genes;
  genes.num_variables = num_choices.size();
  genes.integers = options.algorithm == Algorithm::kNsga2;
  for (size_t i = 0; i < num_choices.size(); ++i) {
    if (num_choices[i] < 2) continue;
    genes.variables.push_back(i);
    genes.num_choices.push_back(num_choices[i]);
  }
  if (genes.variables.empty()) return {Assignment(num_choices.size(), 0)};

  // pagmo's seeds have 32 bits, and some defaults ask the clock: every one is given.
  SplitMix64 rng(options.seed);
  const auto next_seed = [&] { return static_cast<unsigned>(rng.next() >> 32); };
  const size_t size = (static_cast<size_t>(options.population) + 3) / 4 * 4;  // NSGA-II's wish
  pagmo::population population(pagmo::problem(Problem{&genes, &objectives}), 0, next_seed());
  for (const Assignment& choices : start) {
    if (population.size() == size) break;
    population.push_back(genes.genes(choices));
  }
  while (population.size() < size) {
    Assignment choices(num_choices.size(), 0);
    for (size_t g = 0; g < genes.variables.size(); ++g) {
      const auto bound = static_cast<uint64_t>(genes.num_choices[g]);
      choices[genes.variables[g]] = static_cast<int32_t>(rng.below(bound));
    }
    population.push_back(genes.genes(choices));
  }
  population =
      make_algorithm(options, size, genes.variables.size(), next_seed()).evolve(population);

  std::vector<Assignment> result;
  std::set<Assignment> seen;
  for (const pagmo::vector_double& values : population.get_x()) {
    Assignment choices = genes.assignment(values);
    if (seen.insert(choices).second) result.push_back(std::move(choices));
  }
  return result;
}

}  // namespace lowkey::tune
