#include "probe/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace lowkey {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

TEST(ProbePlan, NinePairsAreThreeFormsOfEachSide) {
  const CandidateForms forms = take_apart(make_candidates({}));
  EXPECT_THAT(forms.keys, SizeIs(3));
  EXPECT_THAT(forms.values, SizeIs(3));
  std::set<std::pair<int32_t, int32_t>> pairs;
  for (const ComparedPair& pair : forms.pairs) pairs.insert({pair.key, pair.value});
  EXPECT_THAT(pairs, SizeIs(9));
  for (const LayerRecipe& key : forms.keys) {
    EXPECT_TRUE(key.k.packed());
    EXPECT_FALSE(key.v.packed());
    EXPECT_EQ(key.residual_length, 32);
  }
  EXPECT_EQ(forms.keys[static_cast<size_t>(forms.fewest_bits)].k.bits, 2);
}

TEST(ProbePlan, WindowsAndGroupsTellFormsApart) {
  const CandidateForms forms =
      take_apart(parse_candidates("kivi-2:r32,kivi-2:r64,kivi-2:g64:r64,16,16/2,kivi-4:r32"));
  // 16/2 is a per-token value without a window; the pair before it is exact on both sides.
  EXPECT_THAT(forms.keys, SizeIs(4));
  EXPECT_THAT(forms.values, SizeIs(5));
  EXPECT_EQ(forms.pairs[3].key, kExact);
  EXPECT_EQ(forms.pairs[3].value, kExact);
  EXPECT_EQ(forms.pairs[4].key, kExact);
  EXPECT_NE(forms.pairs[4].value, kExact);
  std::vector<int32_t> bits;
  for (int32_t key : forms.noise_keys) bits.push_back(forms.keys[static_cast<size_t>(key)].k.bits);
  EXPECT_THAT(bits, ElementsAre(4, 2));
}

TEST(ProbePlan, GrowthIsFollowedForEqualBits) {
  EXPECT_THAT(depth_candidates(parse_candidates("kivi-8:r32,8/4,4,2:r32,2,16")),
              ElementsAre(0, 2, 3));
  EXPECT_THAT(depth_candidates(parse_candidates("8/4,16")), IsEmpty());
}

// Every form must be one that a cache takes, whatever the head.
TEST(ProbePlan, AblationIsAlwaysPossible) {
  for (const char* mode : {"kivi-2:r32", "2"}) {
    for (int32_t head_dim : {16, 48, 64, 96, 128, 256}) {
      const std::vector<AblationForm> forms = ablation_forms(parse_candidates(mode), head_dim);
      EXPECT_FALSE(forms.empty());
      std::set<std::vector<int32_t>> points;
      for (const AblationForm& form : forms) {
        const ResolvedRecipe recipe =
            resolve_recipe(recipe_of_layers({&form.layer, 1}, 1), {1, 1, head_dim});
        EXPECT_EQ(recipe.layers[0].heads[0].k.group_size, form.point.group_size);
        EXPECT_EQ(recipe.layers[0].residual_length, form.point.residual_length);
        points.insert({form.point.bits, form.point.group_size, form.point.residual_length});
      }
      EXPECT_EQ(points.size(), forms.size());
    }
  }
}

}  // namespace
}  // namespace lowkey
