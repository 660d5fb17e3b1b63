#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "core/files.h"
#include "recipe/errors.h"
#include "recipe/random_recipe.h"
#include "recipe/recipe.h"

namespace lowkey {
namespace {

const char kSide[] = R"({"bits": 4, "axis": "per_channel", "group_size": 32})";

// A whole recipe with one layer entry, the place of most mistakes.
std::string with_layer(const std::string& fields) {
  return R"({"lowkey_recipe": 1, "layers": [{"layers": "*", )" + fields + "}]}";
}
std::string with_key(const std::string& side) {
  return with_layer("\"k\": " + side + ", \"v\": " + kSide);
}
std::string with_top(const std::string& fields) {
  return R"({"lowkey_recipe": 1, "layers": [{"layers": "*", "k": {"bits": 16}, "v": {"bits": 16}}], )" +
         fields + "}";
}

std::string json_complaint(const std::string& json) {
  return complaint([&] { recipe_from_json(json, "r.json"); });
}

TEST(RecipeJson, ReadsEveryField) {
  const std::string hash(64, 'a');
  const KvRecipe recipe = recipe_from_json(R"({
    "lowkey_recipe": 1,
    "name": "example",
    "layers": [
      {"layers": "0-1", "k": {"bits": 16}, "v": {"bits": 32}},
      {"layers": "7",
       "k": {"bits": 4, "axis": "per_channel", "group_size": 64, "quantizer": "log",
             "scales": "mse", "transform": "hadamard"},
       "v": {"bits": 2, "axis": "per_token", "group_size": "head"},
       "heads": [{"head": 2, "k": {"bits": 8, "axis": "per_token", "group_size": 16},
                  "v": {"bits": 16}}],
       "residual_length": 64, "window": "block", "key_rope": "before"},
      {"layers": "*", "k": {"bits": 16}, "v": {"bits": 16}}
    ],
    "intact_prefix": 3, "protect": 5, "score_correction": true, "prefill": "exact",
    "calibration": {"file": "c.safetensors", "sha256": ")" +
                                               hash + R"("},
    "provenance": {"model_sha256": ")" + hash + R"(", "data_sha256": ")" +
                                               hash + R"(",
                   "command": "lowkey tune", "metrics": {"ppl": 21.5, "steps": 3}}
  })",
                                           "r.json");
  EXPECT_EQ(recipe.name, "example");
  ASSERT_EQ(recipe.rules.size(), 3u);
  EXPECT_EQ(recipe.rules[0].first, 0);
  EXPECT_EQ(recipe.rules[0].last, 1);
  EXPECT_EQ(recipe.rules[0].layer.v, SideRecipe{.bits = 32});
  const LayerRecipe& layer = recipe.rules[1].layer;
  EXPECT_EQ(recipe.rules[1].first, 7);
  EXPECT_EQ(recipe.rules[1].last, 7);
  EXPECT_EQ(layer.k, (SideRecipe{.bits = 4,
                                 .axis = QuantAxis::kPerChannel,
                                 .group_size = 64,
                                 .quantizer = Quantizer::kLog,
                                 .scales = ScaleChoice::kMse,
                                 .transform = Transform::kHadamard}));
  EXPECT_EQ(layer.v, (SideRecipe{.bits = 2}));
  ASSERT_EQ(layer.heads.size(), 1u);
  EXPECT_EQ(layer.heads.at(2).k, (SideRecipe{.bits = 8, .group_size = 16}));
  EXPECT_EQ(layer.residual_length, 64);
  EXPECT_EQ(layer.window, WindowRule::kBlock);
  EXPECT_EQ(layer.key_rope, KeyRope::kBefore);
  EXPECT_TRUE(recipe.rules[2].rest);
  EXPECT_EQ(recipe.intact_prefix, 3);
  EXPECT_EQ(recipe.protect, 5);
  EXPECT_TRUE(recipe.score_correction);
  EXPECT_EQ(recipe.prefill, PrefillMode::kExact);
  EXPECT_EQ(recipe.calibration, (CalibrationRef{"c.safetensors", hash}));
  EXPECT_EQ(recipe.provenance,
            (Provenance{hash, hash, "lowkey tune", {{"ppl", 21.5}, {"steps", 3.0}}}));
}

TEST(RecipeJson, RandomRecipesComeBackWithNameAndProvenance) {
  RandomRecipe random(2);
  for (int i = 0; i < 5000; ++i) {
    KvRecipe recipe = random.recipe();
    recipe.name = i % 2 ? "front/3.25 \"é\"" : "";
    if (i % 3) recipe.provenance = random.provenance();
    const std::string json = recipe_to_json(recipe);
    ASSERT_EQ(recipe_from_json(json, "r.json"), recipe) << json;
  }
}

struct Wrong {
  std::string json;
  std::string message;  // after the code and "r.json: "
};

class RecipeJsonRefuses : public testing::TestWithParam<Wrong> {};

TEST_P(RecipeJsonRefuses, NamingThePath) {
  EXPECT_EQ(json_complaint(GetParam().json), "invalid_argument: r.json: " + GetParam().message)
      << GetParam().json;
}

INSTANTIATE_TEST_SUITE_P(
    Fields, RecipeJsonRefuses,
    testing::Values(
        Wrong{"{}", "not a recipe: \"lowkey_recipe\": 1 is missing"},
        Wrong{"[]", "not a recipe: \"lowkey_recipe\": 1 is missing"},
        Wrong{"3", "not a recipe: \"lowkey_recipe\": 1 is missing"},
        Wrong{R"({"lowkey_recipe": "1"})", "lowkey_recipe: expected an integer, found a string"},
        Wrong{R"({"lowkey_recipe": 1})", "layers: missing"},
        Wrong{R"({"lowkey_recipe": 1, "layers": []})", "layers: no layers: at least one entry"},
        Wrong{R"({"lowkey_recipe": 1, "layers": {}})",
              "layers: expected an array, found an object"},
        Wrong{R"({"lowkey_recipe": 1, "layers": [4]})",
              "layers[0]: expected an object, found an integer"},
        Wrong{with_layer(R"("k": {"bits": 16})"), "layers[0].v: missing"},
        Wrong{R"({"lowkey_recipe": 1, "layers": [{"layers": 3}]})",
              "layers[0].layers: expected a string, found an integer"},
        Wrong{R"({"lowkey_recipe": 1, "layers": [{"layers": "3-1"}]})",
              "layers[0].layers: '3-1' names no layers: \"7\", \"0-3\" or \"*\" (the rest), from 0 "
              "to 1023"},
        Wrong{with_key(R"({"bitz": 4})"),
              "layers[0].k.bitz: unknown field; known: bits, axis, group_size, quantizer, scales, "
              "transform"},
        Wrong{with_key("{}"), "layers[0].k.bits: missing"},
        Wrong{with_key(R"({"bits": 4.0})"),
              "layers[0].k.bits: expected an integer, found a number"},
        Wrong{with_key(R"({"bits": true})"),
              "layers[0].k.bits: expected an integer, found true or false"},
        Wrong{with_key(R"({"bits": null})"), "layers[0].k.bits: expected an integer, found null"},
        Wrong{with_key(R"({"bits": 5})"), "layers[0].k.bits: 5: 2, 3, 4, 8, 16 or 32"},
        Wrong{with_key(R"({"bits": 64})"), "layers[0].k.bits: 64 is out of range: 2 to 32"},
        Wrong{with_key(R"({"bits": 18446744073709551615})"),
              "layers[0].k.bits: 18446744073709551615 is out of range: 2 to 32"},
        Wrong{with_key(R"({"bits": 4294967300})"),
              "layers[0].k.bits: 4294967300 is out of range: 2 to 32"},
        Wrong{with_key(R"({"bits": 4})"), "layers[0].k.axis: missing"},
        Wrong{with_key(R"({"bits": 4, "axis": "per_token"})"), "layers[0].k.group_size: missing"},
        Wrong{with_key(R"({"bits": 4, "axis": "rows", "group_size": 32})"),
              "layers[0].k.axis: unknown value 'rows'; known: per_token, per_channel"},
        Wrong{with_key(R"({"bits": 4, "axis": "per_token", "group_size": "all"})"),
              "layers[0].k.group_size: unknown value 'all'; known: head, or a number"},
        Wrong{with_key(R"({"bits": 4, "axis": "per_token", "group_size": 0})"),
              "layers[0].k.group_size: 0 is out of range: 1 to 1024"},
        Wrong{with_key(R"({"bits": 16, "quantizer": "nf4"})"),
              "layers[0].k.quantizer: unknown value 'nf4'; known: affine, log, power, codebook"},
        Wrong{with_key(R"({"bits": 16, "scales": "x"})"),
              "layers[0].k.scales: unknown value 'x'; known: minmax, mse, quantile, static, "
              "learned"},
        Wrong{with_key(R"({"bits": 16, "transform": "x"})"),
              "layers[0].k.transform: unknown value 'x'; known: none, hadamard, channel_scale"},
        Wrong{with_layer(R"("k": {"bits": 16}, "v": {"bits": 16}, "residual_length": -1)"),
              "layers[0].residual_length: -1 is out of range: 0 to 65536"},
        Wrong{with_layer(R"("k": {"bits": 16}, "v": {"bits": 16}, "residual": 1)"),
              "layers[0].residual: unknown field; known: layers, k, v, heads, residual_length, "
              "window, key_rope"},
        Wrong{with_layer(R"("k": {"bits": 16}, "v": {"bits": 16}, "window": "ring")"),
              "layers[0].window: unknown value 'ring'; known: kivi, block"},
        Wrong{with_layer(R"("k": {"bits": 16}, "v": {"bits": 16}, "key_rope": "no")"),
              "layers[0].key_rope: unknown value 'no'; known: after, before"},
        Wrong{with_layer(R"("k": {"bits": 16}, "v": {"bits": 16}, "heads": [{"head": 1}])"),
              "layers[0].heads[0].k: missing"},
        Wrong{with_layer(R"("k": {"bits": 16}, "v": {"bits": 16}, "heads": [{"head": 1, "q": 1}])"),
              "layers[0].heads[0].q: unknown field; known: head, k, v"},
        Wrong{with_layer(R"("k": {"bits": 16}, "v": {"bits": 16}, "heads": [
                {"head": 1, "k": {"bits": 16}, "v": {"bits": 16}},
                {"head": 1, "k": {"bits": 16}, "v": {"bits": 16}}])"),
              "layers[0].heads[1].head: head 1 is given twice"},
        Wrong{with_top(R"("colour": 1)"),
              "colour: unknown field; known: lowkey_recipe, name, layers, intact_prefix, protect, "
              "score_correction, prefill, calibration, provenance"},
        Wrong{with_top(R"("name": 3)"), "name: expected a string, found an integer"},
        Wrong{with_top(R"("intact_prefix": 65537)"),
              "intact_prefix: 65537 is out of range: 0 to 65536"},
        Wrong{with_top(R"("protect": -1)"), "protect: -1 is out of range: 0 to 65536"},
        Wrong{with_top(R"("score_correction": 1)"),
              "score_correction: expected true or false, found an integer"},
        Wrong{with_top(R"("prefill": "fast")"),
              "prefill: unknown value 'fast'; known: cached, exact"},
        Wrong{with_top(R"("calibration": "f")"), "calibration: expected an object, found a string"},
        Wrong{with_top(R"("calibration": {"sha256": ""})"), "calibration.file: missing"},
        Wrong{with_top(R"("calibration": {"file": ""})"), "calibration.file: names no file"},
        Wrong{with_top(R"("calibration": {"file": "f", "sha256": "ab"})"),
              "calibration.sha256: not a SHA-256: 64 digits 0-9a-f"},
        Wrong{with_top(R"("provenance": {"model": "m"})"),
              "provenance.model: unknown field; known: model_sha256, data_sha256, command, "
              "metrics"},
        Wrong{with_top(R"("provenance": {"metrics": {"ppl": "low"}})"),
              "provenance.metrics.ppl: expected a number, found a string"},
        Wrong{with_top(R"("provenance": {"metrics": []})"),
              "provenance.metrics: expected an object, found an array"},
        Wrong{with_top(R"("protect": 0, "protect": 1)"),
              "field 'protect' is given twice in one object"},
        Wrong{std::string(100000, '['), "nested deeper than 8"}));

TEST(RecipeJson, SameKeyInTwoObjectsIsFine) {
  EXPECT_NO_THROW(recipe_from_json(with_key(kSide), "r.json"));
}

TEST(RecipeJson, SyntaxErrorsSayLineAndColumn) {
  const std::string message = json_complaint("{\n  \"lowkey_recipe\": 1,,\n}");
  EXPECT_EQ(message.find("invalid_argument: r.json: not JSON: parse error at line 2, column 22"),
            0u)
      << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

TEST(RecipeJson, AnotherVersionIsUnsupportedWhateverElseItHolds) {
  EXPECT_EQ(json_complaint(R"({"lowkey_recipe": 2, "novelty": []})"),
            "unsupported: r.json: recipe version 2; this program reads version 1");
}

TEST(RecipeJson, WritingRefusesWhatJsonCannotSay) {
  KvRecipe recipe = parse_recipe("4");
  recipe.provenance.metrics["ppl"] = std::nan("");
  EXPECT_EQ(complaint([&] { recipe_to_json(recipe); }),
            "invalid_argument: recipe: provenance.metrics.ppl: nan is not finite");
  recipe.provenance = {};
  recipe.name = "\xff";
  EXPECT_EQ(complaint([&] { recipe_to_json(recipe); }),
            "invalid_argument: recipe: its name, command or file is not valid UTF-8");
}

class RecipeFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("lowkey_recipe_test_" + std::to_string(::getpid()));
    std::filesystem::create_directory(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
};

TEST_F(RecipeFile, TakesItsNameFromTheFileUnlessItHasOne) {
  const KvRecipe recipe = parse_recipe("kivi-2");
  write_file_atomically(folder_ / "small.json", recipe_to_json(recipe));
  EXPECT_EQ(parse_recipe((folder_ / "small.json").string()).name, "small");
  KvRecipe named = recipe;
  named.name = "mine";
  write_file_atomically(folder_ / "small.json", recipe_to_json(named));
  EXPECT_EQ(parse_recipe((folder_ / "small.json").string()), named);
}

TEST_F(RecipeFile, APrefixLiesBesideTheRecipe) {
  KvRecipe recipe = parse_recipe("kivi-2");
  recipe.calibration = CalibrationRef{"p/p24.safetensors", std::string(64, 'a')};
  write_file_atomically(folder_ / "r.json", recipe_to_json(recipe));
  EXPECT_EQ(parse_recipe((folder_ / "r.json").string()).calibration,
            (CalibrationRef{(folder_ / "p/p24.safetensors").string(), std::string(64, 'a')}));
  recipe.calibration->file = "/elsewhere.safetensors";
  write_file_atomically(folder_ / "r.json", recipe_to_json(recipe));
  EXPECT_EQ(parse_recipe((folder_ / "r.json").string()).calibration, recipe.calibration);
}

TEST_F(RecipeFile, ErrorsNameTheFile) {
  const std::string missing = (folder_ / "none.json").string();
  EXPECT_EQ(complaint([&] { parse_recipe(missing); }),
            "not_found: " + missing + ": cannot open: No such file or directory");
  const std::string bad = (folder_ / "bad.json").string();
  write_file_atomically(bad, with_key(R"({"bits": 5})"));
  EXPECT_EQ(complaint([&] { parse_recipe(bad); }),
            "invalid_argument: " + bad + ": layers[0].k.bits: 5: 2, 3, 4, 8, 16 or 32");
}

}  // namespace
}  // namespace lowkey
