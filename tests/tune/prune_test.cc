#include "tune/prune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "recipe/errors.h"
#include "tune/nine_pairs.h"

namespace lowkey::tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct PlantedCase {
  const char* name;
  std::map<std::string, double> survivors;  // with e_o of the paper's size
};

std::ostream& operator<<(std::ostream& out, const PlantedCase& c) {
  return out << c.name;
}

class PruneNinePairs : public ::testing::TestWithParam<PlantedCase> {};

TEST_P(PruneNinePairs, KeepsThePlantedFront) {
  std::vector<std::string> labels;
  for (const auto& [label, e_o] : GetParam().survivors) labels.push_back(label);
  EXPECT_EQ(prune_layer(test::planted_table(GetParam().survivors)), test::pair_indices(labels));
}

INSTANTIATE_TEST_SUITE_P(
    Published, PruneNinePairs,
    ::testing::Values(
        // Most layers.
        PlantedCase{"usual",
                    {{"KV8", .015}, {"K8V4", .08}, {"KV4", .16}, {"K4V2", .45}, {"KV2", .81}}},
        // Llama-3.1-8B: layer 0 per token; layers 1-3, 7, 29, 31 per channel.
        PlantedCase{"values_matter_above_4_bits",
                    {{"KV8", .02}, {"K4V8", .09}, {"KV4", .16}, {"K4V2", .45}, {"KV2", .9}}},
        // Llama-3.1-8B: layer 0 per channel; Qwen2.5-7B: layers 0-3.
        PlantedCase{"values_matter",
                    {{"KV8", .02}, {"K4V8", .09}, {"KV4", .16}, {"K2V4", .5}, {"KV2", .9}}},
        // Qwen2.5-7B per token, layer 0: keys so fragile that K8V2 beats KV4.
        PlantedCase{"keys_matter_most",
                    {{"KV8", .02}, {"K8V4", .1}, {"K8V2", .3}, {"K4V2", 1.2}, {"KV2", 2.0}}},
        // Qwen2.5-7B per token, layers 3, 13, 27: K8V2 beside the usual ones.
        PlantedCase{
            "late_layer_keeps_k8v2",
            {{"KV8", .01}, {"K8V4", .07}, {"K8V2", .2}, {"KV4", .4}, {"K4V2", .6}, {"KV2", 1.1}}}),
    ::testing::PrintToStringParamName());

TEST(Prune, StoredBitsDecideWhereTheyDiffer) {
  // The same codes, but the first has groups of 32 (one bit more): dearer, and only as good.
  EXPECT_THAT(prune_layer(std::vector<CandidateError>{{5, .2}, {4.25, .2}, {9, .01}}),
              ElementsAre(1, 2));
}

TEST(Prune, OrderIsTheTables) {
  EXPECT_THAT(
      prune_layer(std::vector<CandidateError>{{2, .8}, {8, .02}, {4, .2}, {4, .2}, {6, .2}}),
      ElementsAre(0, 1, 2));
}

TEST(Prune, WhatSurvivesIsNotDominatedAndWhatFallsIs) {
  SplitMix64 rng(3);
  for (int round = 0; round < 500; ++round) {
    std::vector<CandidateError> table;
    for (double bits : test::kNinePairBits)
      table.push_back({bits, 0.1 * double(1 + rng.below(12))});
    const std::vector<int32_t> kept = prune_layer(table);
    std::vector<bool> is_kept(table.size());
    for (int32_t k : kept) is_kept[size_t(k)] = true;
    for (size_t i = 0; i < table.size(); ++i) {
      bool beaten = false;
      for (size_t j = 0; j < table.size(); ++j) {
        const bool as_good = table[j].bits <= table[i].bits && table[j].e_o <= table[i].e_o;
        const bool same = table[j].bits == table[i].bits && table[j].e_o == table[i].e_o;
        beaten |= as_good && (!same || j < i);
      }
      ASSERT_EQ(is_kept[i], !beaten) << "round " << round << ", candidate " << i;
    }
  }
}

TEST(Prune, RefusesWhatIsNoTable) {
  EXPECT_THAT(complaint([] { prune_layer({}); }), HasSubstr("invalid_argument: "));
  const std::vector<std::vector<CandidateError>> tables = {{{8, .1}}, {{8, .1}, {4, NAN}}};
  EXPECT_THAT(complaint([&] { prune_layers(tables); }),
              HasSubstr("numeric: layer 1: candidate 1: 4 bits with output error nan"));
}

}  // namespace
}  // namespace lowkey::tune
