#include "convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "apps/front_sample.h"
#include "core/error.h"
#include "core/files.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using testing::EndsWith;
using testing::HasSubstr;

constexpr char kYaml[] =
    "0:\n  nbits_key: 8\n  nbits_value: 4\n1:\n  nbits_key: 4\n  nbits_value: 2\n";

struct Ask {
  std::optional<ImportPreset> as = {};
  bool model = false;
};

class ConvertTest : public testing::Test {
 protected:
  ConvertTest() {
    tiny_.write_gguf(folder_ / "tiny.gguf");
    write("preset.yaml", kYaml);
    write("front.json", front_to_json(test::front_for("tiny.gguf")));
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void write(const char* name, const std::string& text) const {
    write_file_atomically(folder_ / name, text);
  }
  std::string text_of(const char* name) const { return read_file(folder_ / name); }

  std::string run(const std::string& input, const char* output, Ask ask = {}) const {
    ConvertOptions options;
    options.input = input;
    if (output) options.output = path(output);
    options.as = ask.as;
    if (ask.model) options.model = path("tiny.gguf");
    return convert(options);
  }
  std::string refusal(const std::string& input, const char* output, Ask ask = {}) const {
    try {
      run(input, output, ask);
    } catch (const Error& error) {
      return std::string(error_code_name(error.code())) + ": " + error.what();
    }
    return "(no error)";
  }

  test::TempDir folder_;
  test::TinyModel tiny_{{.layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 16}};
};

TEST_F(ConvertTest, KvTunersToARecipeAndBack) {
  EXPECT_EQ(run(path("preset.yaml"), "r.json", {.as = ImportPreset::kPerToken}),
            path("r.json") + ": 2 layers, 4.50 code bits\n");
  const KvRecipe recipe = parse_recipe(path("r.json"));
  EXPECT_EQ(recipe_to_string(recipe), "0=8/4,1=4/2");
  EXPECT_EQ(recipe.name, "preset");
  EXPECT_EQ(run(path("r.json"), "back.yaml"),
            path("back.yaml") +
                ": 2 layers, 4.50 code bits\nBits only: the same recipe again with --as "
                "per-token.\n");
  EXPECT_EQ(text_of("back.yaml"), kYaml);
}

TEST_F(ConvertTest, ThePublishedNamesSayTheMode) {
  write("Llama_kivi_KVTuner4_1.yaml", kYaml);
  write("Llama_pertoken_KVTuner4_1.yaml", kYaml);
  run(path("Llama_kivi_KVTuner4_1.yaml"), "k.json");
  run(path("Llama_pertoken_KVTuner4_1.yaml"), "p.json");
  EXPECT_EQ(recipe_to_string(parse_recipe(path("k.json"))), "0=kivi-8/4:r32,1=kivi-4/2:r32");
  EXPECT_EQ(recipe_to_string(parse_recipe(path("p.json"))), "0=8/4,1=4/2");
  run(path("Llama_kivi_KVTuner4_1.yaml"), "p.json", {.as = ImportPreset::kPerToken});
  EXPECT_EQ(recipe_to_string(parse_recipe(path("p.json"))), "0=8/4,1=4/2");
}

TEST_F(ConvertTest, ModelOptsJson) {
  write("hf_quant_config.json", R"({"quantization": {"kv_cache_quantized_layers": {
      "model.layers.0.self_attn": {"quant_algo": "FP8_K_NVFP4_V"}}}})");
  const std::string input = path("hf_quant_config.json");
  // Its layers say nothing of how many there are.
  EXPECT_EQ(run(input, "r.json", {.as = ImportPreset::kPerToken}), path("r.json") + ": written\n");
  EXPECT_EQ(recipe_to_string(parse_recipe(path("r.json"))), "0=8/4,*=16");
  EXPECT_EQ(run(input, "r.json", {.as = ImportPreset::kPerToken, .model = true}),
            path("r.json") + ": 2 layers, 11.00 code bits\n");
  EXPECT_EQ(refusal(input, "r.json").substr(0, 18 + input.size() + 16),
            "invalid_argument: " + input + ": says bits only");
  EXPECT_THAT(refusal("16", "r.json", {.as = ImportPreset::kKivi}), HasSubstr("16: --as is for"));
}

TEST_F(ConvertTest, AnyRecipeToStandardOutput) {
  EXPECT_EQ(run("8/4", nullptr), recipe_to_json(parse_recipe("8/4")));
  EXPECT_EQ(run(path("front.json") + "@3", nullptr),
            recipe_to_json(parse_recipe(path("front.json") + "@3")));
}

TEST_F(ConvertTest, PointsOfAFront) {
  EXPECT_EQ(run(path("front.json") + "@3.5", "r.json"),
            path("r.json") + ": 2 layers, 3.50 code bits\n");
  const KvRecipe recipe = parse_recipe(path("r.json"));
  EXPECT_EQ(recipe.name, "front@3.50");
  EXPECT_EQ(recipe.provenance.metrics.at("kl_heldout"), 0.009);
  // The front knows its model's layers, so that a rest can be written out.
  run(path("front.json") + "@3.5", "k.yaml");
  EXPECT_EQ(text_of("k.yaml"),
            "0:\n  nbits_key: 4\n  nbits_value: 4\n1:\n  nbits_key: 4\n  nbits_value: 2\n");
}

TEST_F(ConvertTest, SaysWhatAYamlLoses) {
  EXPECT_THAT(run("0-1=kivi-4:r64+i1", "k.yaml"),
              HasSubstr("Bits only: axes, groups, windows and intact prefix are not in it"));
  EXPECT_THAT(run("0-1=kivi-4:r32+i1", "k.yaml"),
              HasSubstr("Bits only: the same recipe again with --as kivi, but for its +i1.\n"));
}

TEST_F(ConvertTest, ModelsAreCheckedAgainst) {
  EXPECT_THAT(run("4/2", "k.yaml", {.model = true}), HasSubstr(": 2 layers, 3.00 code bits\n"));
  EXPECT_THAT(refusal("0-5=4", "r.json", {.model = true}),
              HasSubstr("invalid_argument: recipe 0-5=4: "));
  EXPECT_THAT(refusal("0-5=4", nullptr, {.model = true}),
              HasSubstr("invalid_argument: recipe 0-5=4: "));
  EXPECT_FALSE(std::filesystem::exists(path("r.json")));
}

TEST_F(ConvertTest, RefusalsSayWhatToDo) {
  EXPECT_EQ(refusal(path("preset.yaml"), "r.json"),
            "invalid_argument: " + path("preset.yaml") +
                ": says bits only: --as kivi (keys per channel, values per token, groups of 32, "
                "newest 32 tokens exact) or --as per-token (one group per token and head, none "
                "exact)");
  EXPECT_EQ(
      refusal("8", "r.toml"),
      "invalid_argument: " + path("r.toml") +
          ": a recipe is written as .json, KVTuner's file as .yaml: no other ending is known");
  EXPECT_EQ(refusal("8", "k.yaml"),
            "invalid_argument: 8: KVTuner's files list every layer, and a recipe with a rest does "
            "not say how many: --model MODEL does");
  EXPECT_EQ(
      refusal("0=16,1=8", "k.yaml"),
      "invalid_argument: layer 0: keys of 16 bits: KVTuner's files hold 2, 4 and 8 (its codes "
      "are signed bytes)");
  EXPECT_THAT(refusal(path("front.json"), "r.json"), HasSubstr("say which, as "));
  EXPECT_THAT(refusal(path("none.yaml"), "r.json"), HasSubstr("not_found: "));
  EXPECT_THAT(refusal("0-1=4:g96", "k.yaml"),
              EndsWith("(for head_dim 128: --model MODEL says which it is)"));
  write("bad.json", "{");
  EXPECT_THAT(refusal(path("bad.json"), "r.json"), HasSubstr("bad.json: not JSON: "));
  write("heads.yaml",
        "0:\n  0: {nbits_key: 8, nbits_value: 8}\n  1: {nbits_key: 4, nbits_value: 4}\n");
  EXPECT_THAT(refusal(path("heads.yaml"), "k.yaml", {.as = ImportPreset::kPerToken}),
              HasSubstr("KVTuner's files list every KV head"));
  EXPECT_FALSE(std::filesystem::exists(path("k.yaml")));
}

TEST_F(ConvertTest, OtherPlacesSendForeignFilesHere) {
  EXPECT_THROW(parse_recipe(path("preset.yaml")), Error);
  write("config.json", R"({"kv_cache_quantized_layers": {}})");
  try {
    parse_recipe(path("config.json"));
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), path("config.json") +
                                ": ModelOpt's files say bits only; to make a recipe of it: lowkey "
                                "convert " +
                                path("config.json") + " -o recipe.json");
  }
}

}  // namespace
}  // namespace lowkey
