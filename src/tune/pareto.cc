#include "tune/pareto.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace lowkey::tune {

bool dominates(const CostLoss& a, const CostLoss& b) {
  return a.cost <= b.cost && a.loss <= b.loss && (a.cost < b.cost || a.loss < b.loss);
}

std::vector<size_t> pareto_front(std::span<const CostLoss> points) {
  for (const CostLoss& point : points) {
    LOWKEY_CHECK(!std::isnan(point.cost) && !std::isnan(point.loss), "cost {}, loss {}", point.cost,
                 point.loss);
  }
  std::vector<size_t> order(points.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (points[a].cost != points[b].cost) return points[a].cost < points[b].cost;
    if (points[a].loss != points[b].loss) return points[a].loss < points[b].loss;
    return a < b;
  });
  std::vector<size_t> front;
  for (size_t i : order) {
    if (front.empty() || points[i].loss < points[front.back()].loss) front.push_back(i);
  }
  return front;
}

double hypervolume(std::span<const CostLoss> points, const CostLoss& reference) {
  double area = 0;
  double ceiling = reference.loss;
  for (size_t i : pareto_front(points)) {
    if (points[i].cost >= reference.cost) break;
    if (points[i].loss >= ceiling) continue;
    area += (reference.cost - points[i].cost) * (ceiling - points[i].loss);
    ceiling = points[i].loss;
  }
  return area;
}

}  // namespace lowkey::tune
