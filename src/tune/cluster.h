#pragma once
// Inter-layer clustering (arXiv 2502.04420, section 4): layers that kept the same candidates and
// suffer alike from them are searched as one. Torch-free, pure, the same result on every machine.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tune/prune.h"

namespace lowkey::tune {

constexpr int32_t kNoise = -1;

// DBSCAN (Ester et al. 1996) on points of equal dimension, Euclidean. A point with at least
// min_samples points within eps of it, itself counted, is a core; cores within eps of one another
// are one cluster; a point that is no core joins the first cluster with a core within eps, or is
// noise. Returns a cluster per point, numbered by their first core in the list, or kNoise.
std::vector<int32_t> dbscan(std::span<const std::vector<double>> points, double eps,
                            int32_t min_samples);

struct ClusterOptions {
  double eps = 0.05;  // in units of e_o, over the vector of a layer's kept candidates
  int32_t min_samples = 2;
};

struct LayerGroup {
  std::vector<int32_t> layers;  // ascending
  std::vector<int32_t> kept;    // indices into the list of candidates, as prune_layer gives them
  friend bool operator==(const LayerGroup&, const LayerGroup&) = default;
};

// Groups by ascending first layer; noise becomes groups of one layer. tables[layer][candidate] and
// kept[layer] are prune_layers' argument and result. Throws Error kInvalidArgument for options that
// make no sense.
std::vector<LayerGroup> cluster_layers(std::span<const std::vector<CandidateError>> tables,
                                       std::span<const std::vector<int32_t>> kept,
                                       const ClusterOptions& options);

// As the paper prints them: "{1-3,7,29,31}" and "{KV8, K4V8, KV4}".
std::string layers_text(std::span<const int32_t> layers);  // ascending
std::string candidates_text(std::span<const int32_t> kept, std::span<const std::string> labels);
// "{0} {1-3,7,29,31} ...": one line.
std::string groups_text(std::span<const LayerGroup> groups);
// "{0}: {KV8, K4V8, ...}": one line per group, each ending in a newline.
std::string groups_table(std::span<const LayerGroup> groups, std::span<const std::string> labels);

}  // namespace lowkey::tune
