#include "tune/propose.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace lowkey::tune {
namespace {

// One proposal in so many is a mutation of a measured front point that is taken at better than its
// prediction, so that the surrogate's errors are found out.
constexpr int32_t kExploreOneIn = 6;
constexpr double kOptimism = 0.8;
constexpr int kMutantsPerExploration = 48;
constexpr int kMaxTries = 2000;
// Of a front point's moves up and moves down, those that are also tried together.
constexpr size_t kPairedMoves = 6;
constexpr double kMargin = 0.05;  // the ends of the front count for something too

// What `point` adds to the area that `front` (ascending cost, descending loss) dominates.
double gain(std::span<const CostLoss> front, const CostLoss& reference, const CostLoss& point) {
  if (point.cost >= reference.cost || point.loss >= reference.loss) return 0;
  const auto after =
      std::upper_bound(front.begin(), front.end(), point.cost,
                       [](double cost, const CostLoss& other) { return cost < other.cost; });
  double ceiling =
      after == front.begin() ? reference.loss : std::min(reference.loss, std::prev(after)->loss);
  double area = 0;
  double from = point.cost;
  for (auto next = after; ceiling > point.loss; ++next) {
    const double to = next == front.end() ? reference.cost : std::min(next->cost, reference.cost);
    area += (to - from) * (ceiling - point.loss);
    if (next == front.end() || next->cost >= reference.cost) break;
    from = to;
    ceiling = std::min(ceiling, next->loss);
  }
  return area;
}

void insert_point(std::vector<CostLoss>& front, const CostLoss& point) {
  front.push_back(point);
  std::vector<CostLoss> kept;
  for (size_t i : pareto_front(front)) kept.push_back(front[i]);
  front = std::move(kept);
}

// The lower convex hull of one variable's choices: what a weighted sum of cost and loss would take.
std::vector<int32_t> hull_of(const std::vector<Choice>& choices, const std::vector<int32_t>& order,
                             const Surrogate& surrogate, size_t variable) {
  const auto share = [&](int32_t c) { return surrogate.share(variable, c); };
  const auto cost = [&](int32_t c) { return choices[static_cast<size_t>(c)].cost; };
  std::vector<int32_t> hull;
  for (int32_t c : order) {
    if (!hull.empty() && share(c) >= share(hull.back())) continue;
    if (!hull.empty() && cost(c) == cost(hull.back())) hull.pop_back();
    while (hull.size() >= 2) {
      const int32_t a = hull[hull.size() - 2], b = hull.back();
      // b lies on or above the line from a to c.
      if ((share(b) - share(a)) * (cost(c) - cost(a)) < (share(c) - share(a)) * (cost(b) - cost(a)))
        break;
      hull.pop_back();
    }
    hull.push_back(c);
  }
  return hull;
}

}  // namespace

Yardstick::Yardstick(const SearchSpace& space, const Surrogate& prior,
                     const SearchOptions& options) {
  double least = 0, most = 0;
  double worst = 0;  // the prior's largest loss
  Assignment worst_choices;
  for (size_t i = 0; i < space.variables.size(); ++i) {
    const std::vector<Choice>& choices = space.variables[i];
    double low = choices[0].cost, high = choices[0].cost;
    int32_t worst_choice = 0;
    for (size_t c = 0; c < choices.size(); ++c) {
      low = std::min(low, choices[c].cost);
      high = std::max(high, choices[c].cost);
      const auto choice = static_cast<int32_t>(c);
      if (prior.share(i, choice) > prior.share(i, worst_choice)) worst_choice = choice;
    }
    least += low;
    most += high;
    worst_choices.push_back(worst_choice);
  }
  worst = std::max(prior.predict(worst_choices), prior.floor());
  slack_ = 1e-9 * std::max({std::abs(least), std::abs(most), 1e-300});
  low_cost_ = std::max(least, options.min_cost.value_or(least));
  high_cost_ = std::min(most, options.max_cost.value_or(most));
  if (low_cost_ > high_cost_ + slack_) {
    fail(ErrorCode::kInvalidArgument,
         "nothing costs between {:g} and {:g}: what there is to choose from costs {:g} to {:g}",
         options.min_cost.value_or(least), options.max_cost.value_or(most), least, most);
  }
  negligible_ = options.negligible_loss > 0 ? options.negligible_loss : 1e-3 * worst;
  max_loss_ = options.max_loss.value_or(std::numeric_limits<double>::infinity());
  low_level_ = std::log(negligible_);
  level_range_ = std::max(std::log(worst + negligible_) - low_level_, 1e-6);
  const double top = options.max_loss ? measure(low_cost_, *options.max_loss).loss : 1 + kMargin;
  reference_ = {1 + kMargin, top};
}

void Yardstick::cover(double loss) {
  if (std::isfinite(max_loss_)) return;
  reference_.loss = std::max(reference_.loss, measure(low_cost_, loss).loss + kMargin);
}

bool Yardstick::allows_cost(double cost) const {
  return cost >= low_cost_ - slack_ && cost <= high_cost_ + slack_;
}

bool Yardstick::allows(double cost, double loss) const {
  return allows_cost(cost) && loss <= max_loss_;
}

CostLoss Yardstick::measure(double cost, double loss) const {
  const double range = std::max(high_cost_ - low_cost_, slack_);
  return {(cost - low_cost_) / range,
          (std::log(std::max(loss, 0.0) + negligible_) - low_level_) / level_range_};
}

double Yardstick::violation(double cost, double loss) const {
  const double range = std::max(high_cost_ - low_cost_, slack_);
  double sum = 0;
  if (!allows_cost(cost)) sum += std::max(low_cost_ - cost, cost - high_cost_) / range;
  if (loss > max_loss_) sum += measure(cost, loss).loss - reference_.loss;
  return sum;
}

// Candidates and what they are expected to be worth.
struct Proposer::Pool {
  const Proposer* proposer;
  const Surrogate* surrogate;
  const std::set<Assignment>* measured;
  std::set<Assignment> seen;
  std::vector<Assignment> assignments;
  std::vector<CostLoss> expected;

  bool add(const Assignment& assignment, double optimism = 1) {
    const double cost = cost_of(*proposer->space_, assignment);
    if (!proposer->yardstick_->allows_cost(cost) || measured->contains(assignment)) return false;
    if (!seen.insert(assignment).second) return false;
    assignments.push_back(assignment);
    expected.push_back(
        proposer->yardstick_->measure(cost, optimism * surrogate->predict(assignment)));
    return true;
  }
};

Proposer::Proposer(const SearchSpace& space, const SearchOptions& options,
                   const Yardstick& yardstick)
    : space_(&space), options_(&options), yardstick_(&yardstick) {
  for (const std::vector<Choice>& choices : space.variables) {
    std::vector<int32_t> order(choices.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return choices[static_cast<size_t>(a)].cost < choices[static_cast<size_t>(b)].cost;
    });
    std::vector<int32_t> rank(order.size());
    for (size_t r = 0; r < order.size(); ++r) rank[static_cast<size_t>(order[r])] = int32_t(r);
    by_cost_.push_back(std::move(order));
    rank_.push_back(std::move(rank));
  }
}

Assignment Proposer::extreme(const Surrogate& surrogate, bool dearest) const {
  Assignment result;
  for (size_t i = 0; i < by_cost_.size(); ++i) {
    const std::vector<Choice>& choices = space_->variables[i];
    int32_t best = dearest ? by_cost_[i].back() : by_cost_[i].front();
    for (int32_t c : by_cost_[i]) {
      if (choices[size_t(c)].cost == choices[size_t(best)].cost &&
          surrogate.share(i, c) < surrogate.share(i, best)) {
        best = c;
      }
    }
    result.push_back(best);
  }
  return result;
}

// All corners of the additive model's front, exactly: from the cheapest assignment, the moves along
// every variable's hull in the order of what a unit of cost buys.
void Proposer::add_hull(const Surrogate& surrogate, Pool& pool) const {
  struct Move {
    double slope;  // change of share per cost: negative, steepest first
    size_t variable;
    int32_t to;
  };
  std::vector<Move> moves;
  Assignment current;
  for (size_t i = 0; i < by_cost_.size(); ++i) {
    const std::vector<Choice>& choices = space_->variables[i];
    const std::vector<int32_t> hull = hull_of(choices, by_cost_[i], surrogate, i);
    current.push_back(hull[0]);
    for (size_t h = 1; h < hull.size(); ++h) {
      const int32_t a = hull[h - 1], b = hull[h];
      const double slope = (surrogate.share(i, b) - surrogate.share(i, a)) /
                           (choices[size_t(b)].cost - choices[size_t(a)].cost);
      moves.push_back({slope, i, b});
    }
  }
  std::stable_sort(moves.begin(), moves.end(),
                   [](const Move& a, const Move& b) { return a.slope < b.slope; });
  pool.add(current);
  for (const Move& move : moves) {
    current[move.variable] = move.to;
    pool.add(current);
  }
}

// Seeded with what is known to be good; its last population goes into the pool.
void Proposer::add_evolved(const Surrogate& surrogate, std::span<const Assignment> front,
                           uint64_t seed, Pool& pool) const {
  const auto translate = [](std::span<const int32_t> from,
                            const std::vector<std::vector<int32_t>>& table) {
    Assignment to(from.begin(), from.end());
    for (size_t i = 0; i < to.size(); ++i) to[i] = table[i][static_cast<size_t>(to[i])];
    return to;
  };
  std::vector<int32_t> num_choices;
  for (const auto& order : by_cost_) num_choices.push_back(static_cast<int32_t>(order.size()));
  // At most half of the population: evenly from the pool's hull, and from the measured front.
  std::vector<Assignment> start;
  const auto add_evenly = [&](std::span<const Assignment> from, size_t limit) {
    const size_t count = std::min(limit, from.size());
    for (size_t i = 0; i < count; ++i) {
      start.push_back(translate(from[i * from.size() / count], rank_));
    }
  };
  const auto quarter = static_cast<size_t>(options_->population) / 4;
  add_evenly(front, quarter);
  add_evenly(pool.assignments, quarter);

  const auto objectives = [&](std::span<const int32_t> ranks) -> Objectives {
    const Assignment assignment = translate(ranks, by_cost_);
    const double cost = cost_of(*space_, assignment);
    const double loss = surrogate.predict(assignment);
    const CostLoss point = yardstick_->measure(cost, loss);
    const double violation = yardstick_->violation(cost, loss);
    // Whatever breaks a bound is behind all that keeps them, by how far it does.
    const double penalty = violation > 0 ? 1 + violation : 0;
    return {point.cost + penalty, point.loss + penalty};
  };
  const EvolveOptions evolution{.algorithm = options_->algorithm,
                                .seed = seed,
                                .population = options_->population,
                                .generations = options_->generations};
  for (const Assignment& ranks : evolve(num_choices, start, evolution, objectives)) {
    pool.add(translate(ranks, by_cost_));
  }
}

// One variable one step up or down; and the best of those moves in pairs, one up and one down,
// which keep the cost about where it is.
void Proposer::add_neighbours(const Surrogate& surrogate, const Assignment& from,
                              Pool& pool) const {
  struct Move {
    size_t variable;
    int32_t to;
    double slope;  // change of share per change of cost
  };
  std::vector<Move> up, down;
  Assignment next = from;
  for (size_t i = 0; i < from.size(); ++i) {
    const int32_t rank = rank_[i][static_cast<size_t>(from[i])];
    for (int32_t step : {-1, 1}) {
      if (rank + step < 0 || rank + step >= static_cast<int32_t>(by_cost_[i].size())) continue;
      const int32_t next_rank = rank + step;
      const int32_t to = by_cost_[i][static_cast<size_t>(next_rank)];
      next[i] = to;
      pool.add(next);
      next[i] = from[i];
      const double cost = space_->variables[i][size_t(to)].cost -
                          space_->variables[i][static_cast<size_t>(from[i])].cost;
      const double share = surrogate.share(i, to) - surrogate.share(i, from[i]);
      (step > 0 ? up : down).push_back({i, to, share / (cost != 0 ? cost : 1e-12)});
    }
  }
  // Up: most share saved per cost; down: least share lost.
  std::stable_sort(up.begin(), up.end(),
                   [](const Move& a, const Move& b) { return a.slope < b.slope; });
  std::stable_sort(down.begin(), down.end(),
                   [](const Move& a, const Move& b) { return a.slope > b.slope; });
  up.resize(std::min(up.size(), kPairedMoves));
  down.resize(std::min(down.size(), kPairedMoves));
  for (const Move& a : up) {
    for (const Move& b : down) {
      if (a.variable == b.variable) continue;
      next = from;
      next[a.variable] = a.to;
      next[b.variable] = b.to;
      pool.add(next);
    }
  }
}

// One or two variables take another choice.
Assignment Proposer::mutate(const Assignment& from, SplitMix64& rng) const {
  Assignment result = from;
  const uint64_t changes = 1 + rng.below(2);
  for (uint64_t change = 0; change < changes; ++change) {
    const size_t i = rng.below(from.size());
    result[i] = static_cast<int32_t>(rng.below(by_cost_[i].size()));
  }
  return result;
}

// Greedily by what each adds to the front, where those already chosen count as if measured.
std::vector<Assignment> Proposer::choose(Pool& pool, std::vector<CostLoss> front,
                                         int32_t count) const {
  std::vector<Assignment> chosen;
  std::vector<bool> taken(pool.assignments.size());
  while (static_cast<int32_t>(chosen.size()) < count) {
    double best_gain = 0;
    size_t best = pool.assignments.size();
    for (size_t i = 0; i < pool.assignments.size(); ++i) {
      if (taken[i]) continue;
      const double area = gain(front, yardstick_->reference(), pool.expected[i]);
      if (area > best_gain) {
        best_gain = area;
        best = i;
      }
    }
    if (best == pool.assignments.size()) break;
    taken[best] = true;
    insert_point(front, pool.expected[best]);
    chosen.push_back(pool.assignments[best]);
  }
  return chosen;
}

std::vector<Assignment> Proposer::propose(const Surrogate& surrogate, std::span<const Trial> trials,
                                          const std::set<Assignment>& measured, int32_t count,
                                          SplitMix64& rng) const {
  std::vector<CostLoss> points;
  std::vector<size_t> allowed;
  for (size_t t = 0; t < trials.size(); ++t) {
    if (!yardstick_->allows(trials[t].cost, trials[t].loss)) continue;
    points.push_back(yardstick_->measure(trials[t].cost, trials[t].loss));
    allowed.push_back(t);
  }
  std::vector<CostLoss> front;
  std::vector<Assignment> front_assignments;
  for (size_t i : pareto_front(points)) {
    front.push_back(points[i]);
    front_assignments.push_back(trials[allowed[i]].assignment);
  }

  Pool pool{this, &surrogate, &measured, {}, {}, {}};
  add_hull(surrogate, pool);
  add_evolved(surrogate, front_assignments, rng.next(), pool);
  for (const Assignment& from : front_assignments) add_neighbours(surrogate, from, pool);

  const int32_t explorations = front.empty() ? 0 : (count + kExploreOneIn / 2) / kExploreOneIn;
  std::vector<Assignment> chosen = choose(pool, front, count - explorations);
  // From here on, everything is taken at better than its prediction: what is left of the pool, if
  // nothing in it promised anything, and mutants.
  std::set<Assignment> excluded = measured;
  excluded.insert(chosen.begin(), chosen.end());
  Pool hopes{this, &surrogate, &excluded, {}, {}, {}};
  if (static_cast<int32_t>(chosen.size()) < count - explorations) {
    for (const Assignment& assignment : pool.assignments) hopes.add(assignment, kOptimism);
  }
  const int32_t wanted = count - static_cast<int32_t>(chosen.size());
  for (int64_t tries = 0; tries < int64_t{wanted} * kMutantsPerExploration; ++tries) {
    if (front_assignments.empty()) break;
    const size_t from = rng.below(front_assignments.size());
    hopes.add(mutate(front_assignments[from], rng), kOptimism);
  }
  for (Assignment& assignment : choose(hopes, front, wanted)) {
    excluded.insert(assignment);
    chosen.push_back(std::move(assignment));
  }
  // Nothing promises anything, even so: whatever is new.
  for (const Pool* rest : {&pool, &hopes}) {
    for (const Assignment& assignment : rest->assignments) {
      if (static_cast<int32_t>(chosen.size()) >= count) return chosen;
      if (excluded.insert(assignment).second) chosen.push_back(assignment);
    }
  }
  for (int tries = 0; tries < kMaxTries && static_cast<int32_t>(chosen.size()) < count; ++tries) {
    Assignment any;
    for (const auto& order : by_cost_) any.push_back(static_cast<int32_t>(rng.below(order.size())));
    if (!yardstick_->allows_cost(cost_of(*space_, any))) continue;
    if (excluded.insert(any).second) chosen.push_back(std::move(any));
  }
  return chosen;
}

}  // namespace lowkey::tune
