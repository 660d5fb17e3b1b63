#include "recipe/candidates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "recipe/errors.h"
#include "recipe/short_form.h"

namespace lowkey {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> labels(const std::vector<LayerCandidate>& candidates) {
  std::vector<std::string> all;
  for (const LayerCandidate& candidate : candidates) all.push_back(candidate.label);
  return all;
}

std::string text(const LayerRecipe& layer) {
  return recipe_to_string(recipe_of_layers(std::span(&layer, 1), 0));
}

TEST(Candidates, NinePairsByDefault) {
  const auto nine = make_candidates({});
  EXPECT_THAT(labels(nine),
              ElementsAre("KV8", "K8V4", "K4V8", "K8V2", "K2V8", "KV4", "K4V2", "K2V4", "KV2"));
  EXPECT_EQ(text(nine[6].layer), "kivi-4/2:r32");
  EXPECT_EQ(code_bits(nine[6].layer), 3);
  const auto per_token = make_candidates({.modes = {CandidateMode::kPerToken}, .bits = {4, 2}});
  EXPECT_EQ(text(per_token[0].layer), "4");
  EXPECT_EQ(text(per_token[1].layer), "4/2");
}

TEST(Candidates, SpacesWidenAndNamesTellThemApart) {
  const auto both = make_candidates({.modes = {CandidateMode::kKivi, CandidateMode::kPerToken},
                                     .bits = {16, 2},
                                     .value_group_sizes = {32, 0},
                                     .residual_lengths = {32, 64}});
  std::vector<std::string> forms;
  for (const LayerCandidate& candidate : both) forms.push_back(text(candidate.layer));
  EXPECT_THAT(forms, testing::IsSupersetOf(
                         {"16", "kivi-2:r32", "kivi-2:g32/head:r64", "16/2:r64", "kivi-2/16:r32"}));
  EXPECT_EQ(std::count(forms.begin(), forms.end(), "16"), 1) << "16/16 has no group and no window";
  const auto names = labels(both);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
}

TEST(Candidates, FromShortForms) {
  const auto two = parse_candidates("kivi-4:r32,kivi-4:g64:r64,8/4");
  EXPECT_THAT(labels(two), ElementsAre("KV4 kivi-4:r32", "KV4 kivi-4:g64:r64", "K8V4"));
  EXPECT_THAT(complaint([] { parse_candidates("4,0-1=8"); }), HasSubstr("candidate '0-1=8'"));
  EXPECT_THAT(complaint([] { parse_candidates("4+i1"); }), HasSubstr("no intact prefix"));
  EXPECT_THAT(complaint([] { parse_candidates(""); }), HasSubstr("empty"));
  EXPECT_THAT(complaint([] { make_candidates({.bits = {5}}); }), HasSubstr("bits 5"));
  EXPECT_THAT(complaint([] { make_candidates({.bits = {}}); }), HasSubstr("no candidates"));
}

TEST(Candidates, RecipesOfLayersShareRules) {
  const LayerRecipe a = parse_recipe("kivi-4:r32").rules[0].layer,
                    b = parse_recipe("kivi-2:r32").rules[0].layer;
  const std::vector<LayerRecipe> layers = {a, a, b, b, b, a, b};
  EXPECT_EQ(recipe_to_string(recipe_of_layers(layers, 1)),
            "0-1=kivi-4:r32,5=kivi-4:r32,*=kivi-2:r32+i1");
}

}  // namespace
}  // namespace lowkey
