#include "recipe/export.h"

#include <gtest/gtest.h>

#include <sstream>

#include "recipe/bytes.h"
#include "recipe/errors.h"

namespace lowkey {
namespace {

constexpr KvShape kShape{.num_layers = 4, .num_kv_heads = 2, .head_dim = 64};

std::string exported(const char* recipe, const KvShape& shape = kShape) {
  return recipe_to_kvtuner_yaml(resolve_recipe(parse_recipe(recipe), shape));
}

TEST(KvTunerExport, IsLaidOutAsTheAuthorsDo) {
  EXPECT_EQ(exported("0-1=kivi-8:r32,*=kivi-4/2:r32"),
            "0:\n  nbits_key: 8\n  nbits_value: 8\n1:\n  nbits_key: 8\n  nbits_value: 8\n"
            "2:\n  nbits_key: 4\n  nbits_value: 2\n3:\n  nbits_key: 4\n  nbits_value: 2\n");
}

// A preset published with the paper: bits of keys and values per layer ("42": K4V2).
struct Preset {
  const char* name;
  ImportPreset mode;
  const char* pairs;
  double code_bits;
};

class Published : public testing::TestWithParam<Preset> {};

TEST_P(Published, LoadsAndComesBackByteForByte) {
  const auto& [name, mode, pairs, bits] = GetParam();
  std::string yaml;
  std::vector<std::string> layers;
  std::istringstream words(pairs);
  for (std::string pair; std::getline(words, pair, ',');) {
    yaml += std::to_string(layers.size()) + ":\n  nbits_key: " + pair[0] +
            "\n  nbits_value: " + pair[1] + "\n";
    layers.push_back(pair);
  }
  const KvShape shape{
      .num_layers = static_cast<int32_t>(layers.size()), .num_kv_heads = 8, .head_dim = 128};
  const ResolvedRecipe recipe =
      resolve_recipe(recipe_from_kvtuner_yaml(yaml, "p.yaml", mode), shape);
  for (size_t i = 0; i < layers.size(); ++i) {
    for (const HeadRecipe& head : recipe.layers[i].heads) {
      EXPECT_EQ(head.k.bits, layers[i][0] - '0') << i;
      EXPECT_EQ(head.v.bits, layers[i][1] - '0') << i;
    }
  }
  EXPECT_NEAR(code_bits(recipe), bits, 0.005) << name;
  EXPECT_EQ(recipe_to_kvtuner_yaml(recipe), yaml);
  EXPECT_EQ(kvtuner_preset(recipe), mode);
}

INSTANTIATE_TEST_SUITE_P(
    Paper, Published,
    testing::Values(
        Preset{"Llama-3.1-8B C3.25", ImportPreset::kKivi,
               "22,44,44,44,22,42,42,44,42,42,42,42,42,84,42,42,42,84,42,42,42,42,42,42,42,22,42,"
               "22,42,44,42,44",
               3.25},
        Preset{"Llama-3.1-8B C3.06", ImportPreset::kKivi,
               "88,44,44,44,22,22,42,44,42,42,42,42,42,22,42,42,42,22,42,42,42,22,42,22,22,22,42,"
               "22,42,44,42,44",
               3.06},
        Preset{"Llama-3.1-8B C4.91", ImportPreset::kKivi,
               "24,44,44,44,84,42,84,44,84,84,84,84,84,22,84,84,84,22,84,84,84,42,84,42,42,84,84,"
               "84,84,44,84,44",
               4.91},
        Preset{"Llama-3.1-8B C3.59", ImportPreset::kPerToken,
               "48,42,42,42,42,44,44,42,44,44,44,44,44,42,44,44,44,44,42,42,44,44,42,42,42,42,44,"
               "42,44,42,44,42",
               3.59},
        Preset{"Qwen2.5-7B C4.00", ImportPreset::kPerToken,
               "88,42,42,82,42,42,44,44,42,44,44,44,44,82,44,44,44,44,44,44,44,44,44,44,42,42,44,"
               "82",
               4.00},
        Preset{"Qwen2.5-7B C5.96", ImportPreset::kKivi,
               "88,24,88,24,84,84,22,88,22,88,88,42,84,88,88,42,88,42,88,88,88,88,84,84,84,84,22,"
               "88",
               5.96}),
    [](const auto& preset) { return "Preset" + std::to_string(preset.index); });

TEST(KvTunerExport, WritesHeadsWhereTheyDiffer) {
  const char* yaml =
      "0:\n  0:\n    nbits_key: 8\n    nbits_value: 4\n  1:\n    nbits_key: 2\n    nbits_value: 4\n"
      "1:\n  0:\n    nbits_key: 4\n    nbits_value: 4\n  1:\n    nbits_key: 4\n    nbits_value: "
      "4\n";
  const KvRecipe recipe = recipe_from_kvtuner_yaml(yaml, "p.yaml", ImportPreset::kKivi);
  const ResolvedRecipe resolved =
      resolve_recipe(recipe, {.num_layers = 2, .num_kv_heads = 2, .head_dim = 64});
  EXPECT_EQ(recipe_to_kvtuner_yaml(resolved), yaml);
  EXPECT_EQ(kvtuner_preset(resolved), ImportPreset::kKivi);
}

// Their codes are int8: 16 bits would wrap around; 3 is not among their pairs.
TEST(KvTunerExport, RefusesOtherBits) {
  EXPECT_EQ(
      complaint([] { exported("0=16,*=8/4"); }),
      "invalid_argument: layer 0: keys of 16 bits: KVTuner's files hold 2, 4 and 8 (its codes "
      "are signed bytes)");
  EXPECT_EQ(complaint([] { exported("0-2=4,*=4/3"); }),
            "invalid_argument: layer 3: values of 3 bits: KVTuner's files hold 2, 4 and 8 (its "
            "codes are signed bytes)");
}

TEST(KvTunerExport, SaysWhetherAnythingIsLost) {
  const auto preset = [](const char* recipe) {
    return kvtuner_preset(resolve_recipe(parse_recipe(recipe), kShape));
  };
  EXPECT_EQ(preset("0=8,*=4/2"), ImportPreset::kPerToken);
  EXPECT_EQ(preset("0=kivi-8:r32,*=kivi-4/2:r32"), ImportPreset::kKivi);
  for (const char* recipe : {"kivi-4", "kivi-4:g64:r64", "kivi-4:r32+i1", "4:r32", "4:g32",
                             "0=4,*=kivi-4:r32", "kivi-4:r32:block"}) {
    EXPECT_FALSE(preset(recipe)) << recipe;
  }
}

TEST(ForeignFiles, AreSentToConvert) {
  EXPECT_EQ(complaint([] { parse_recipe("preset.yaml"); }),
            "invalid_argument: preset.yaml: KVTuner's files say bits only; to make a recipe of it: "
            "lowkey convert preset.yaml -o recipe.json");
}

}  // namespace
}  // namespace lowkey
