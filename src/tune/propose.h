#pragma once
// What to measure next: candidates from several sources, chosen by the area that they would add to
// the measured front if the surrogate were right. Torch-free.
#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "core/rng.h"
#include "tune/pareto.h"
#include "tune/search.h"

namespace lowkey::tune {

// Cost and loss as the search weighs them: cost from 0 to 1 over the range that may be measured,
// and the log of loss, so that every bit width counts alike, from 0 to 1 too.
class Yardstick {
 public:
  // Throws Error kInvalidArgument for bounds that nothing fits.
  Yardstick(const SearchSpace& space, const Surrogate& prior, const SearchOptions& options);

  // Losses turned out larger than the prior's: they count too.
  void cover(double loss);

  bool allows_cost(double cost) const;
  // On the front: both bounds are kept.
  bool allows(double cost, double loss) const;
  CostLoss measure(double cost, double loss) const;
  // Beyond all that counts.
  CostLoss reference() const { return reference_; }
  // How far it is from keeping the bounds; 0: it keeps them.
  double violation(double cost, double loss) const;

 private:
  double low_cost_ = 0, high_cost_ = 0, slack_ = 0;
  double negligible_ = 0, low_level_ = 0, level_range_ = 1;
  double max_loss_ = 0;
  CostLoss reference_;
};

class Proposer {
 public:
  // Borrows all of them.
  Proposer(const SearchSpace& space, const SearchOptions& options, const Yardstick& yardstick);

  // Up to `count` assignments not in `measured`, best first, all within the bounds on cost. Fewer
  // only when it finds no others.
  std::vector<Assignment> propose(const Surrogate& surrogate, std::span<const Trial> trials,
                                  const std::set<Assignment>& measured, int32_t count,
                                  SplitMix64& rng) const;

  // The assignment of least or of most cost; of equal ones that with the least loss.
  Assignment extreme(const Surrogate& surrogate, bool dearest) const;

 private:
  struct Pool;
  void add_hull(const Surrogate& surrogate, Pool& pool) const;
  void add_evolved(const Surrogate& surrogate, std::span<const Assignment> front, uint64_t seed,
                   Pool& pool) const;
  void add_neighbours(const Surrogate& surrogate, const Assignment& from, Pool& pool) const;
  Assignment mutate(const Assignment& from, SplitMix64& rng) const;
  std::vector<Assignment> choose(Pool& pool, std::vector<CostLoss> front, int32_t count) const;

  const SearchSpace* space_;
  const SearchOptions* options_;
  const Yardstick* yardstick_;
  std::vector<std::vector<int32_t>> by_cost_;  // choices of a variable, ascending cost
  std::vector<std::vector<int32_t>> rank_;     // the inverse
};

}  // namespace lowkey::tune
