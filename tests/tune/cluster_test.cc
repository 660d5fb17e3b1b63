#include "tune/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/rng.h"
#include "recipe/errors.h"
#include "tune/nine_pairs.h"

namespace lowkey::tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Points = std::vector<std::vector<double>>;

struct PlantedGroup {
  std::vector<int32_t> layers;
  std::vector<std::string> kept;  // descending bits
};

// 32 layers whose tables prune to the groups' sets. Within a group, layers follow each other at
// 0.03 along the error of the fewest bits (so its ends may be far apart); groups are 0.2 apart.
std::vector<std::vector<CandidateError>> planted_layers(const std::vector<PlantedGroup>& groups) {
  std::vector<std::vector<CandidateError>> tables(32);
  double level = 0;
  for (const PlantedGroup& group : groups) {
    for (int32_t layer : group.layers) {
      const double errors[] = {.015, .08, .16, .45, .8 + level};
      std::map<std::string, double> survivors;
      for (size_t i = 0; i < group.kept.size(); ++i) survivors[group.kept[i]] = errors[i];
      tables[static_cast<size_t>(layer)] = test::planted_table(survivors);
      level += 0.03;
    }
    level += 0.2;
  }
  return tables;
}

const std::vector<std::string> kUsual = {"KV8", "K8V4", "KV4", "K4V2", "KV2"};
const std::vector<std::string> kValuesMatterAbove4 = {"KV8", "K4V8", "KV4", "K4V2", "KV2"};
const std::vector<std::string> kValuesMatter = {"KV8", "K4V8", "KV4", "K2V4", "KV2"};

TEST(Cluster, PublishedGroupsOfLlamaPerChannel) {
  const auto tables =
      planted_layers({{{0}, kValuesMatter},
                      {{1, 2, 3, 7, 29, 31}, kValuesMatterAbove4},
                      {{4, 25, 27}, kUsual},
                      {{5, 21, 23, 24}, kUsual},
                      {{6, 8, 9, 10, 11, 12, 14, 15, 16, 18, 19, 20, 22, 26, 28, 30}, kUsual},
                      {{13, 17}, kUsual}});
  const auto groups = cluster_layers(tables, prune_layers(tables), {});
  EXPECT_EQ(groups_text(groups),
            "{0} {1-3,7,29,31} {4,25,27} {5,21,23,24} {6,8-12,14-16,18-20,22,26,28,30} {13,17}");
  EXPECT_EQ(groups_table(std::vector(groups.begin(), groups.begin() + 3), test::kNinePairs),
            "{0}: {KV8, K4V8, KV4, K2V4, KV2}\n"
            "{1-3,7,29,31}: {KV8, K4V8, KV4, K4V2, KV2}\n"
            "{4,25,27}: {KV8, K8V4, KV4, K4V2, KV2}\n");
}

TEST(Cluster, PublishedGroupsOfLlamaPerToken) {
  const auto tables = planted_layers({{{0}, kValuesMatterAbove4},
                                      {{1, 2, 3, 4, 7, 13, 18, 25, 27, 31}, kUsual},
                                      {{5, 6, 12, 21, 26, 28}, kUsual},
                                      {{8, 9, 10, 11, 14, 15, 16, 17, 20, 30}, kUsual},
                                      {{19, 22}, kUsual},
                                      {{23, 24, 29}, kUsual}});
  const auto groups = cluster_layers(tables, prune_layers(tables), {});
  EXPECT_EQ(groups_text(groups),
            "{0} {1-4,7,13,18,25,27,31} {5,6,12,21,26,28} {8-11,14-17,20,30} {19,22} {23,24,29}");
  for (const LayerGroup& group : groups) {
    EXPECT_EQ(group.kept, test::pair_indices(group.layers[0] == 0 ? kValuesMatterAbove4 : kUsual));
  }
}

// Four layers that keep everything: e_o of 2 bits as given, the rest equal.
std::vector<LayerGroup> cluster_by(const std::vector<double>& errors,
                                   const ClusterOptions& options) {
  std::vector<std::vector<CandidateError>> tables;
  for (double e_o : errors) tables.push_back({{8, .01}, {2, e_o}});
  return cluster_layers(tables, prune_layers(tables), options);
}

TEST(Cluster, NoiseBecomesGroupsOfOneLayer) {
  EXPECT_EQ(groups_text(cluster_by({.5, .9, .52, 1.3}, {})), "{0,2} {1} {3}");
}

TEST(Cluster, EpsAndMinSamplesDecide) {
  const std::vector<double> errors = {.5, .56, .62, .9};
  EXPECT_EQ(groups_text(cluster_by(errors, {.eps = .05, .min_samples = 2})), "{0} {1} {2} {3}");
  EXPECT_EQ(groups_text(cluster_by(errors, {.eps = .07, .min_samples = 2})), "{0-2} {3}");
  EXPECT_EQ(groups_text(cluster_by(errors, {.eps = .3, .min_samples = 2})), "{0-3}");
  // Only the middle one has three about it; its neighbours are its border.
  EXPECT_EQ(groups_text(cluster_by(errors, {.eps = .07, .min_samples = 3})), "{0-2} {3}");
  EXPECT_EQ(groups_text(cluster_by(errors, {.eps = .07, .min_samples = 4})), "{0} {1} {2} {3}");
}

TEST(Cluster, LikeErrorsUnderDifferentSetsStayApart) {
  const std::vector<std::vector<CandidateError>> tables = {
      {{8, .01}, {4, .2}, {2, .5}}, {{8, .01}, {4, .6}, {2, .5}}, {{8, .01}, {4, .2}, {2, .5}}};
  EXPECT_EQ(groups_text(cluster_layers(tables, prune_layers(tables), {})), "{0,2} {1}");
}

TEST(Cluster, RefusesOptionsWithoutSense) {
  EXPECT_THAT(complaint([] { cluster_by({.5}, {.eps = -1}); }),
              HasSubstr("invalid_argument: cluster eps -1"));
  EXPECT_THAT(complaint([] { cluster_by({.5}, {.eps = NAN}); }), HasSubstr("cluster eps nan"));
  EXPECT_THAT(complaint([] { cluster_by({.5}, {.min_samples = 0}); }),
              HasSubstr("cluster min_samples 0"));
}

TEST(Cluster, RangesAreThreeOrMore) {
  EXPECT_EQ(layers_text(std::vector<int32_t>{0, 1, 3, 4, 5, 9}), "{0,1,3-5,9}");
  EXPECT_EQ(layers_text({}), "{}");
}

TEST(Dbscan, BordersJoinTheFirstClusterThatReachesThem) {
  // Cores 0..2 and 4..6 with min_samples 3; 1.5 is within reach of one core of each, but is none.
  const Points points = {{3.1}, {0}, {.4}, {.8}, {1.5}, {2.2}, {2.6}, {9}};
  EXPECT_THAT(dbscan(points, .75, 4), ElementsAre(-1, -1, -1, -1, -1, -1, -1, -1));
  const Points many = {{0}, {.1}, {.2}, {1.0}, {1.8}, {1.9}, {2.0}};
  EXPECT_THAT(dbscan(many, .85, 4), ElementsAre(0, 0, 0, 0, 1, 1, 1));
  const Points turned(many.rbegin(), many.rend());
  EXPECT_THAT(dbscan(turned, .85, 4), ElementsAre(0, 0, 0, 0, 1, 1, 1));
}

// The definition, by transitive closure of "both are cores and within eps".
TEST(Dbscan, IsTheDefinitionOnRandomPoints) {
  SplitMix64 rng(5);
  int borders_between = 0;
  for (int round = 0; round < 2000; ++round) {
    const size_t n = 1 + rng.below(40), dimensions = 1 + rng.below(3);
    Points points(n, std::vector<double>(dimensions));
    for (auto& point : points) {
      for (double& x : point) x = 0.125 * static_cast<double>(rng.below(24));  // exact distances
    }
    const double eps = 0.125 * static_cast<double>(rng.below(5));
    const auto min_samples = static_cast<int32_t>(1 + rng.below(5));
    const auto near = [&](size_t i, size_t j) {
      double squares = 0;
      for (size_t d = 0; d < dimensions; ++d) squares += std::pow(points[i][d] - points[j][d], 2);
      return squares <= eps * eps;
    };
    std::vector<bool> core(n);
    for (size_t i = 0; i < n; ++i) {
      int32_t count = 0;
      for (size_t j = 0; j < n; ++j) count += near(i, j) ? 1 : 0;
      core[i] = count >= min_samples;
    }
    std::vector<std::vector<bool>> connected(n, std::vector<bool>(n));
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) connected[i][j] = core[i] && core[j] && near(i, j);
    }
    for (size_t k = 0; k < n; ++k) {
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) {
          if (connected[i][k] && connected[k][j]) connected[i][j] = true;
        }
      }
    }
    const std::vector<int32_t> labels = dbscan(points, eps, min_samples);
    ASSERT_EQ(labels.size(), n);
    int32_t clusters = 0;
    for (size_t i = 0; i < n; ++i) {
      if (core[i]) {
        ASSERT_NE(labels[i], kNoise);
        for (size_t j = 0; j < n; ++j) {
          if (!core[j]) continue;
          ASSERT_EQ(labels[i] == labels[j], connected[i][j]) << i << " " << j;
        }
        ASSERT_LE(labels[i], clusters) << "clusters are numbered by their first core";
        clusters = std::max(clusters, labels[i] + 1);
        continue;
      }
      std::set<int32_t> reached;
      for (size_t j = 0; j < n; ++j) {
        if (core[j] && near(i, j)) reached.insert(labels[j]);
      }
      ASSERT_EQ(labels[i], reached.empty() ? kNoise : *reached.begin());
      borders_between += reached.size() > 1 ? 1 : 0;
    }
  }
  EXPECT_GT(borders_between, 10) << "the case that order decides was not met";
}

}  // namespace
}  // namespace lowkey::tune
