#include "tune/cluster.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"

namespace lowkey::tune {
namespace {

// Not the square against eps squared: 0.05 * 0.05 and a distance of 0.05 squared may round apart.
double distance(std::span<const double> a, std::span<const double> b) {
  LOWKEY_CHECK(a.size() == b.size(), "{} and {} dimensions", a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

// Points within eps, the point itself among them. Layers are some dozens: no index is worth it.
std::vector<std::vector<size_t>> neighbourhoods(std::span<const std::vector<double>> points,
                                                double eps) {
  std::vector<std::vector<size_t>> near(points.size());
  for (size_t i = 0; i < points.size(); ++i) {
    for (size_t j = 0; j < points.size(); ++j) {
      if (i == j || distance(points[i], points[j]) <= eps) near[i].push_back(j);
    }
  }
  return near;
}

void add_groups_of_like_sets(std::span<const std::vector<CandidateError>> tables,
                             const std::vector<int32_t>& layers, const std::vector<int32_t>& kept,
                             const ClusterOptions& options, std::vector<LayerGroup>& groups) {
  std::vector<std::vector<double>> points;
  for (int32_t layer : layers) {
    const std::vector<CandidateError>& table = tables[static_cast<size_t>(layer)];
    std::vector<double> point;
    for (int32_t candidate : kept) point.push_back(table.at(static_cast<size_t>(candidate)).e_o);
    points.push_back(std::move(point));
  }
  const std::vector<int32_t> labels = dbscan(points, options.eps, options.min_samples);
  std::map<int32_t, LayerGroup> clusters;
  for (size_t i = 0; i < layers.size(); ++i) {
    if (labels[i] == kNoise) {
      groups.push_back({.layers = {layers[i]}, .kept = kept});
      continue;
    }
    LayerGroup& group = clusters[labels[i]];
    group.layers.push_back(layers[i]);
    group.kept = kept;
  }
  for (auto& [label, group] : clusters) groups.push_back(std::move(group));
}

}  // namespace

std::vector<int32_t> dbscan(std::span<const std::vector<double>> points, double eps,
                            int32_t min_samples) {
  const std::vector<std::vector<size_t>> near = neighbourhoods(points, eps);
  const auto is_core = [&](size_t i) {
    return static_cast<int64_t>(near[i].size()) >= min_samples;
  };
  std::vector<int32_t> labels(points.size(), kNoise);
  int32_t clusters = 0;
  for (size_t first = 0; first < points.size(); ++first) {
    if (labels[first] != kNoise || !is_core(first)) continue;
    const int32_t cluster = clusters++;
    labels[first] = cluster;
    std::vector<size_t> to_grow = {first};
    while (!to_grow.empty()) {
      const size_t core = to_grow.back();
      to_grow.pop_back();
      for (size_t i : near[core]) {
        if (labels[i] != kNoise) continue;
        labels[i] = cluster;
        if (is_core(i)) to_grow.push_back(i);
      }
    }
  }
  return labels;
}

std::vector<LayerGroup> cluster_layers(std::span<const std::vector<CandidateError>> tables,
                                       std::span<const std::vector<int32_t>> kept,
                                       const ClusterOptions& options) {
  if (!(options.eps >= 0) || !std::isfinite(options.eps)) {
    fail(ErrorCode::kInvalidArgument, "cluster eps {}: a distance of 0 or more is meant",
         options.eps);
  }
  if (options.min_samples < 1) {
    fail(ErrorCode::kInvalidArgument, "cluster min_samples {}: at least 1", options.min_samples);
  }
  LOWKEY_CHECK(tables.size() == kept.size(), "{} tables, {} sets", tables.size(), kept.size());
  std::map<std::vector<int32_t>, std::vector<int32_t>> layers_of;
  for (size_t layer = 0; layer < kept.size(); ++layer) {
    layers_of[kept[layer]].push_back(static_cast<int32_t>(layer));
  }
  std::vector<LayerGroup> groups;
  for (const auto& [set, layers] : layers_of) {
    add_groups_of_like_sets(tables, layers, set, options, groups);
  }
  std::sort(groups.begin(), groups.end(), [](const LayerGroup& a, const LayerGroup& b) {
    return a.layers.front() < b.layers.front();
  });
  return groups;
}

std::string layers_text(std::span<const int32_t> layers) {
  std::vector<std::string> parts;
  for (size_t first = 0; first < layers.size();) {
    size_t last = first;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
    if (last - first >= 2) {
      parts.push_back(fmt::format("{}-{}", layers[first], layers[last]));
    } else {
      for (size_t i = first; i <= last; ++i) parts.push_back(fmt::format("{}", layers[i]));
    }
    first = last + 1;
  }
  return fmt::format("{{{}}}", fmt::join(parts, ","));
}

std::string candidates_text(std::span<const int32_t> kept, std::span<const std::string> labels) {
  std::vector<std::string_view> parts;
  for (int32_t candidate : kept) {
    LOWKEY_CHECK(candidate >= 0 && static_cast<size_t>(candidate) < labels.size());
    parts.push_back(labels[static_cast<size_t>(candidate)]);
  }
  return fmt::format("{{{}}}", fmt::join(parts, ", "));
}

std::string groups_text(std::span<const LayerGroup> groups) {
  std::vector<std::string> parts;
  for (const LayerGroup& group : groups) parts.push_back(layers_text(group.layers));
  return fmt::format("{}", fmt::join(parts, " "));
}

std::string groups_table(std::span<const LayerGroup> groups, std::span<const std::string> labels) {
  std::string text;
  for (const LayerGroup& group : groups) {
    text += layers_text(group.layers) + ": " + candidates_text(group.kept, labels) + "\n";
  }
  return text;
}

}  // namespace lowkey::tune
