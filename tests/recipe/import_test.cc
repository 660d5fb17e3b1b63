#include "recipe/import.h"

#include <gtest/gtest.h>

#include "recipe/errors.h"

namespace lowkey {
namespace {

std::string kvtuner(const char* yaml, ImportPreset preset = ImportPreset::kKivi) {
  return recipe_to_string(recipe_from_kvtuner_yaml(yaml, "p.yaml", preset));
}

// The form of the published presets: Qwen2.5-3B, first layers of C3.17.
constexpr char kPublished[] =
    "0:\n  nbits_key: 8\n  nbits_value: 8\n"
    "1:\n  nbits_key: 8\n  nbits_value: 8\n"
    "2:\n  nbits_key: 4\n  nbits_value: 2\n";

TEST(KvTuner, ReadsPublishedPresets) {
  EXPECT_EQ(kvtuner(kPublished), "0-1=kivi-8:r32,2=kivi-4/2:r32");
  EXPECT_EQ(kvtuner(kPublished, ImportPreset::kPerToken), "0-1=8,2=4/2");
}

TEST(KvTuner, ReadsFlowFormCommentsAndAnyOrder) {
  EXPECT_EQ(kvtuner("---\n# preset\n1: {nbits_value: 2, nbits_key: 4}  # cheap\r\n\n"
                    "0: {nbits_key: 16, nbits_value: 16}\n"),
            "0=16,1=kivi-4/2:r32");
}

TEST(KvTuner, ReadsHeads) {
  const KvRecipe recipe = recipe_from_kvtuner_yaml(
      "0:\n  0:\n    nbits_key: 8\n    nbits_value: 4\n  1: {nbits_key: 2, nbits_value: 4}\n"
      "  2:\n    nbits_key: 8\n    nbits_value: 4\n",
      "p.yaml", ImportPreset::kPerToken);
  ASSERT_EQ(recipe.rules.size(), 1u);
  const LayerRecipe& layer = recipe.rules[0].layer;
  EXPECT_EQ(layer.k, SideRecipe{.bits = 8});
  ASSERT_EQ(layer.heads.size(), 1u);
  EXPECT_EQ(layer.heads.at(1).k, SideRecipe{.bits = 2});
}

struct Wrong {
  const char* text;
  const char* message;
};

class KvTunerRefuses : public testing::TestWithParam<Wrong> {};

TEST_P(KvTunerRefuses, NamingTheLine) {
  EXPECT_EQ(complaint([] { kvtuner(GetParam().text); }),
            std::string("invalid_argument: p.yaml: ") + GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Lines, KvTunerRefuses,
    testing::Values(
        Wrong{"", "no layers in it"}, Wrong{"# nothing\n", "no layers in it"},
        Wrong{"layers:\n", "line 1: expected a layer, such as '0:', from 0 to 1023"},
        Wrong{"  0: {nbits_key: 8, nbits_value: 8}",
              "line 1: expected a layer, such as '0:', from 0 to 1023"},
        Wrong{"-1:\n", "line 1: expected a layer, such as '0:', from 0 to 1023"},
        Wrong{"4096:\n", "line 1: expected a layer, such as '0:', from 0 to 1023"},
        Wrong{"- 4\n", "line 1: expected 'name: value'"},
        Wrong{"0:\n", "line 1: '0' has no bits: expected nbits_key and nbits_value"},
        Wrong{"0:\nnbits_key: 4", "line 1: '0' has no bits: expected nbits_key and nbits_value"},
        Wrong{"0:\n  nbits_key: 4\n", "line 1: '0' has no nbits_value"},
        Wrong{"0:\n  nbits_value: 4\n", "line 1: '0' has no nbits_key"},
        Wrong{"0:\n  bits: 4\n", "line 2: unknown field 'bits'; known: nbits_key, nbits_value"},
        Wrong{"0:\n  nbits_key: 5\n", "line 2: nbits_key: '5': 2, 3, 4, 8, 16 or 32"},
        Wrong{"0:\n  nbits_key: four\n", "line 2: nbits_key: 'four': 2, 3, 4, 8, 16 or 32"},
        Wrong{"0:\n  nbits_key: 4\n  nbits_key: 4\n", "line 3: nbits_key is given twice"},
        Wrong{"0: 4\n", "line 1: expected {nbits_key: B, nbits_value: B}, found '4'"},
        Wrong{"0: {nbits_key}\n", "line 1: expected 'name: value', found 'nbits_key'"},
        Wrong{"0: {nbits_key: 4, nbits_value: 4}\n0: {nbits_key: 4, nbits_value: 4}\n",
              "line 2: layer 0 is given twice"},
        Wrong{"0:\n  1: {nbits_key: 4, nbits_value: 4}\n",
              "line 2: expected head 0: heads are listed from 0 without gaps"}));

std::string modelopt(const std::string& json, ImportPreset preset = ImportPreset::kPerToken) {
  return recipe_to_string(recipe_from_modelopt_json(json, "c.json", preset));
}

TEST(ModelOpt, ReadsLayersWhereverTheyStand) {
  const std::string map = R"({"kv_cache_quantized_layers": {
    "model.layers.0.self_attn": {"quant_algo": "FP8"},
    "model.layers.1.self_attn": {"quant_algo": "FP8_K_NVFP4_V"},
    "model.layers.10.self_attn": {"quant_algo": "NVFP4"},
    "model.layers.2.self_attn": {"quant_algo": "FP8_K_NVFP4_V"}}})";
  EXPECT_EQ(modelopt(map), "0=8,1-2=8/4,10=4,*=16");
  EXPECT_EQ(modelopt(map, ImportPreset::kKivi), "0=kivi-8:r32,1-2=kivi-8/4:r32,10=kivi-4:r32,*=16");
  EXPECT_EQ(modelopt("{\"quantization\": " + map + "}"), "0=8,1-2=8/4,10=4,*=16");
  EXPECT_EQ(modelopt("{\"quantization_config\": " + map + "}"), "0=8,1-2=8/4,10=4,*=16");
}

class ModelOptRefuses : public testing::TestWithParam<Wrong> {};

TEST_P(ModelOptRefuses, NamingTheModule) {
  EXPECT_EQ(complaint([] { modelopt(GetParam().text); }),
            std::string("invalid_argument: c.json: ") + GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Modules, ModelOptRefuses,
    testing::Values(
        Wrong{"", "not a JSON object"}, Wrong{"[1", "not a JSON object"},
        Wrong{"{}", "no kv_cache_quantized_layers in it"},
        Wrong{R"({"quantization": 1})", "no kv_cache_quantized_layers in it"},
        Wrong{R"({"kv_cache_quantized_layers": {}})", "no kv_cache_quantized_layers in it"},
        Wrong{R"({"kv_cache_quantized_layers": {"model.attn": {"quant_algo": "FP8"}}})",
              "kv_cache_quantized_layers.model.attn: no layer number, as in "
              "model.layers.0.self_attn"},
        Wrong{R"({"kv_cache_quantized_layers": {"layers.0.a": {"quant_algo": "INT3"}}})",
              "kv_cache_quantized_layers.layers.0.a: quant_algo 'INT3': known are FP8, NVFP4 and "
              "FP8_K_NVFP4_V"},
        Wrong{R"({"kv_cache_quantized_layers": {"layers.0.a": 8}})",
              "kv_cache_quantized_layers.layers.0.a: quant_algo '': known are FP8, NVFP4 and "
              "FP8_K_NVFP4_V"},
        Wrong{R"({"kv_cache_quantized_layers": {"layers.0.a": {"quant_algo": "FP8"},
                 "layers.0.b": {"quant_algo": "FP8"}}})",
              "kv_cache_quantized_layers.layers.0.b: layer 0 is given twice"}));

}  // namespace
}  // namespace lowkey
