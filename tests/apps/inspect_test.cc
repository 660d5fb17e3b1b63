#include "inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/front_sample.h"
#include "core/error.h"
#include "core/files.h"
#include "support/gguf_writer.h"
#include "support/paths.h"
#include "support/safetensors_writer.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using nlohmann::json;
using test::TempDir;
using test::TinyModel;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

InspectOptions ask(std::vector<std::string> kv, std::optional<int64_t> ctx = std::nullopt,
                   std::optional<std::string> model = std::nullopt) {
  InspectOptions options;
  options.kv = std::move(kv);
  options.ctx = ctx;
  options.model = std::move(model);
  return options;
}

std::string inspect_path(const std::string& path, InspectOptions options = {}) {
  options.path = path;
  return inspect(options, Terminal{});
}

json inspect_json(const std::string& path, InspectOptions options = {}) {
  options.json = true;
  return json::parse(inspect_path(path, options));
}

std::string refusal(const std::string& path, const InspectOptions& options = {}) {
  try {
    inspect_path(path, options);
  } catch (const Error& error) {
    return std::string(error_code_name(error.code())) + ": " + error.what();
  }
  return "(no error)";
}

// Two layers, two KV heads, head_dim 16: small enough to count by hand.
class InspectTest : public testing::Test {
 protected:
  InspectTest() {
    tiny_.write_gguf(folder_ / "tiny.gguf");
    tiny_.write_hugging_face(folder_ / "hf");
  }
  std::string path(const char* name) const { return (folder_ / name).string(); }

  TempDir folder_;
  TinyModel tiny_{{.layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 16}};
};

TEST_F(InspectTest, ModelAsText) {
  const std::string text = inspect_path(path("tiny.gguf"));
  EXPECT_THAT(text, AllOf(HasSubstr("(GGUF)\n"), ContainsRegex("layers +2\n"),
                          ContainsRegex("heads +4 query, 2 KV, head_dim 16\n"),
                          HasSubstr("Tokenizer\n"), HasSubstr("Tensors\ntype")));
  EXPECT_THAT(inspect_path(path("hf")), HasSubstr("(Hugging Face folder)\n"));
}

TEST_F(InspectTest, ModelsCacheByHand) {
  const json model = inspect_json(path("tiny.gguf"), ask({"16", "4"}, 256));
  EXPECT_EQ(model["kind"], "model");
  EXPECT_EQ(model["num_kv_heads"], 2);
  EXPECT_EQ(model["ctx"], 256);
  ASSERT_EQ(model["kv_cache"].size(), 2u);
  // 2 layers x 2 heads x 2 pages: two sides of 128 x 16 f16, or of 512 bytes of parameters and
  // 1024 of codes.
  const json& plain = model["kv_cache"][0];
  EXPECT_EQ(plain["recipe"], "16");
  EXPECT_EQ(plain["total_bytes"], 8 * 2 * 4096);
  EXPECT_EQ(plain["bytes_per_token"], 256);
  EXPECT_EQ(plain["compression"], 1);
  const json& packed = model["kv_cache"][1];
  EXPECT_EQ(packed["total_bytes"], 8 * 2 * 1536);
  EXPECT_EQ(packed["code_bits"], 4);
  EXPECT_EQ(packed["stored_bits"], 6);
  EXPECT_DOUBLE_EQ(packed["compression"], 4096.0 / 1536);
}

TEST_F(InspectTest, BothFormatsHoldTheSameModel) {
  json gguf = inspect_json(path("tiny.gguf"));
  json hf = inspect_json(path("hf"));
  for (const char* key :
       {"num_layers", "hidden_size", "head_dim", "vocab_size", "rope", "max_context", "kv_cache"}) {
    EXPECT_EQ(gguf[key], hf[key]) << key;
  }
  EXPECT_EQ(gguf["format"], "gguf");
  EXPECT_EQ(hf["format"], "huggingface");
}

TEST_F(InspectTest, TensorTypesAddUpToTheWeights) {
  const json model = inspect_json(path("tiny.gguf"));
  uint64_t bytes = 0;
  for (const json& type : model["tensor_types"]) bytes += type["bytes"].get<uint64_t>();
  EXPECT_EQ(bytes, model["weight_bytes"].get<uint64_t>());
}

TEST_F(InspectTest, UsualRecipesThatDoNotFitAreLeftOutAskedOnesRefused) {
  // head_dim 16: KIVI's groups of 32 channels do not divide it.
  std::vector<std::string> names;
  const json model = inspect_json(path("tiny.gguf"));
  for (const json& cost : model["kv_cache"]) names.push_back(cost["recipe"]);
  EXPECT_THAT(names, testing::ElementsAre("16", "8", "8/4", "4"));
  EXPECT_EQ(refusal(path("tiny.gguf"), ask({"kivi-4"})),
            "invalid_argument: recipe kivi-4: layers *, values: group_size: 32: per token, groups "
            "divide head_dim, which is 16");
}

TEST_F(InspectTest, RecipeLayerByLayer) {
  const std::string text = inspect_path("0-1=16,*=kivi-4/2:r32:block+i1");
  EXPECT_THAT(text, AllOf(HasSubstr("Recipe 0-1=16,*=kivi-4/2:r32:block+i1\n"),
                          ContainsRegex("intact prefix +first token\n"),
                          ContainsRegex("\n0-1 +f16 +f16 +- +16.00 "),
                          ContainsRegex("\n\\* \\(the rest\\) +4 bits per channel, g32 +"
                                        "2 bits per token, g32 +32 block +3.00 "),
                          HasSubstr("head_dim 128 (with --model: that model's)")));
}

TEST_F(InspectTest, RecipesStoredBitsByHand) {
  // Groups of 32 add a bit; 31 + 32 exact tokens in f16 over two sides of 1024 tokens.
  const json recipe = inspect_json("kivi-4/2:r32", ask({}, 1024));
  ASSERT_EQ(recipe["rows"].size(), 1u);
  EXPECT_EQ(recipe["rows"][0]["code_bits"], 3);
  EXPECT_DOUBLE_EQ(recipe["rows"][0]["stored_bits"], 4.0 + 16.0 * (31 + 32) / 2 / 1024);
  EXPECT_EQ(recipe["short_form"], "kivi-4/2:r32");
  EXPECT_EQ(parse_recipe(recipe["recipe"].dump()), parse_recipe("kivi-4/2:r32"));
}

TEST_F(InspectTest, RecipeOnAModelTakesItsShape) {
  const json recipe = inspect_json("0=8,*=4", ask({}, 256, path("tiny.gguf")));
  EXPECT_EQ(recipe["head_dim"], 16);
  EXPECT_EQ(recipe["kv_cache"][0]["code_bits"], 6);
  EXPECT_EQ(refusal("0-9=8,*=4", ask({}, std::nullopt, path("tiny.gguf"))),
            "invalid_argument: recipe 0-9=8,*=4: layers 0-9: the model has layers 0-1");
}

TEST_F(InspectTest, RecipeFilesShowTheirHeadsAndWhereTheyComeFrom) {
  KvRecipe recipe = parse_recipe("kivi-4/2");
  recipe.rules[0].layer.heads[3] = HeadRecipe{SideRecipe{.bits = 8}, SideRecipe{.bits = 16}};
  recipe.rules[0].layer.heads[3].k.quantizer = Quantizer::kLog;
  recipe.provenance.command = "lowkey tune";
  recipe.provenance.metrics["ppl"] = 21.82;
  write_file_atomically(folder_ / "front.json", recipe_to_json(recipe));
  const std::string text = inspect_path(path("front.json"));
  EXPECT_THAT(text,
              AllOf(HasSubstr("Recipe front\n"), ContainsRegex("made by +lowkey tune\n"),
                    ContainsRegex("ppl +21.82\n"),
                    ContainsRegex("head 3 +8 bits per token, ghead, log +f16 +128 +12.00 +-\n"),
                    HasSubstr("- : not possible with head_dim 128, or not available in this "
                              "version.\n")));
  EXPECT_THAT(text, Not(HasSubstr("short form")));
}

TEST_F(InspectTest, OtherArchitecturesAreStillLookedInto) {
  test::GgufWriter writer;
  writer.add("general.architecture", "gpt2").add("tokens", std::vector<std::string>{"a", "b"});
  writer.add("evil", "a\x1b[2Jb\nc").add("flag", true);
  writer.add_tensor("wte", DType::kF16, {4, 2}, std::string(16, '\0'));
  writer.write(folder_ / "gpt2.gguf");
  const std::string text = inspect_path(path("gpt2.gguf"));
  EXPECT_THAT(text, AllOf(HasSubstr("(GGUF v3)\n"), ContainsRegex("general.architecture +gpt2\n"),
                          ContainsRegex("tokens +\\[2 values\\]\n"), ContainsRegex("flag +true\n"),
                          HasSubstr("Not a model lowkey runs: "), HasSubstr("gpt2"),
                          ContainsRegex("wte +F16 +4 x 2 +16 B\n")));
  EXPECT_THAT(text, AllOf(HasSubstr("evil"), Not(HasSubstr("\x1b"))));
  const json as_json = inspect_json(path("gpt2.gguf"));
  EXPECT_EQ(as_json["kind"], "gguf");
  EXPECT_EQ(as_json["tensors"][0]["shape"], json({4, 2}));
  // Asked for the cost of a recipe, the reason is the answer.
  EXPECT_THAT(refusal(path("gpt2.gguf"), ask({"4"})), HasSubstr(path("gpt2.gguf") + ": "));
}

TEST_F(InspectTest, DamagedGgufIsAnError) {
  const std::string bytes = read_file(folder_ / "tiny.gguf");
  write_file_atomically(folder_ / "cut.gguf", bytes.substr(0, 200));
  EXPECT_THAT(refusal(path("cut.gguf")), HasSubstr("corrupt_file: "));
}

TEST_F(InspectTest, Safetensors) {
  test::SafetensorsWriter writer;
  writer.metadata["format"] = "pt";
  writer.add_tensor("scale", "F32", {2, 3}, std::string(24, '\0'));
  writer.add_tensor("bias", "BF16", {}, std::string(2, '\0'));
  writer.write(folder_ / "c.safetensors");
  EXPECT_THAT(inspect_path(path("c.safetensors")),
              AllOf(HasSubstr("(safetensors)\n"), ContainsRegex("format +pt\n"),
                    ContainsRegex("scale +F32 +2 x 3 +24 B\n"),
                    ContainsRegex("bias +BF16 +scalar +2 B\n")));
  EXPECT_EQ(inspect_json(path("c.safetensors"))["tensors"].size(), 2u);
  EXPECT_THAT(refusal(path("c.safetensors"), ask({"4"})),
              HasSubstr("--kv needs a model, this file holds tensors only"));
}

TEST_F(InspectTest, WhatIsNothingOfThis) {
  EXPECT_EQ(refusal("nope.gguf"), "not_found: nope.gguf: no such file, and no recipe either");
  EXPECT_THAT(refusal("kivi-5"), HasSubstr("invalid_argument: recipe 'kivi-5', column 6"));
  EXPECT_THAT(refusal("none.json"), HasSubstr("not_found: none.json: cannot open"));
  write_file_atomically(folder_ / "notes.txt", "hello");
  EXPECT_EQ(refusal(path("notes.txt")),
            "unsupported: " + path("notes.txt") +
                ": neither GGUF nor .safetensors nor .json, and not a folder with a model");
  EXPECT_EQ(refusal("kivi-4", ask({"8"})),
            "invalid_argument: kivi-4: is a recipe itself: --kv needs a model as PATH");
}

TEST_F(InspectTest, NoLineIsWiderThanAHundredColumns) {
  for (const std::string& target : {std::string("0-1=16,*=kivi-4/2:r32"), path("tiny.gguf")}) {
    std::istringstream lines(inspect_path(target));
    for (std::string line; std::getline(lines, line);) EXPECT_LE(text_width(line), 100) << line;
  }
}

// The figures of facts/stack.md for the model everyone downloads.
TEST(InspectRealModel, SmolLm2) {
  const auto path = test::real_model();
  if (!path) GTEST_SKIP() << "the real model is absent: run ./dev setup";
  const json model = inspect_json(path->string(), ask({}, 4096));
  EXPECT_EQ(model["num_layers"], 30);
  EXPECT_EQ(model["num_kv_heads"], 3);
  EXPECT_EQ(model["head_dim"], 64);
  EXPECT_EQ(model["tokenizer"]["tokens"], 49152);
  EXPECT_EQ(model["tokenizer"]["merges"], 48900);
  EXPECT_EQ(model["kv_cache"][0]["bytes_per_token"], 30 * 3 * 64 * 2 * 2);
}

TEST_F(InspectTest, FrontsAsText) {
  write_file_atomically(folder_ / "front.json", front_to_json(test::front_for("tiny.gguf")));
  const std::string text = inspect_path(path("front.json"));
  EXPECT_THAT(
      text,
      AllOf(ContainsRegex("made by +lowkey tune tiny.gguf\n"),
            ContainsRegex("\n2.50 +4.50 +72 +0.0200 +0.0400 +\\+2.05% +\\+4.10% +compact +0=4/2,"),
            ContainsRegex("\n3.50 .* lossless, balanced +0=4,\\*=4/2\n"),
            ContainsRegex("Uniform recipes, measured the same way\n.*\n4.00 .* 4\n"),
            HasSubstr("--kv " + path("front.json") + "@2.00;"), Not(HasSubstr("Warning"))));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.find(folder_.path().string()) != line.npos) continue;
    EXPECT_LE(line.size(), 100u) << line;
  }
}

TEST_F(InspectTest, FrontsPromisesNobodyKeepsAreSaid) {
  Front front = test::front_for("tiny.gguf");
  front.points.resize(2);
  write_file_atomically(folder_ / "front.json", front_to_json(front));
  EXPECT_THAT(inspect_path(path("front.json")),
              HasSubstr("No point is lossless: perplexity within 0.5%, KL at most 0.01.\n"
                        "No point is balanced: perplexity within 2%.\n"));
  EXPECT_EQ(inspect_json(path("front.json"))["use"]["balanced"], json());
}

TEST_F(InspectTest, FrontsAsJsonAndOnAModel) {
  write_file_atomically(folder_ / "front.json", front_to_json(test::front_for("tiny.gguf")));
  json front = inspect_json(path("front.json"));
  EXPECT_EQ(front["kind"], "front");
  EXPECT_EQ(front["use"], json({{"lossless", 2}, {"balanced", 2}, {"compact", 1}}));
  EXPECT_EQ(front["front"]["ctx"], 128);
  EXPECT_EQ(front["front"]["points"][3]["stored_bits"], 10);
  // On the model: its own bytes, at the length asked for. "8": 8 + 2 of parameters, one page.
  front = inspect_json(path("front.json"), ask({}, 64, path("tiny.gguf")));
  EXPECT_EQ(front["front"]["ctx"], 64);
  EXPECT_EQ(front["front"]["points"][3]["stored_bits"], 20);
  EXPECT_FALSE(front.contains("warning"));
  front = inspect_json(path("front.json"), ask({}, 64, path("hf")));
  EXPECT_EQ(front["warning"], "made for tiny.gguf, not for hf");
}

TEST_F(InspectTest, PointsOfAFrontAreRecipes) {
  write_file_atomically(folder_ / "front.json", front_to_json(test::front_for("tiny.gguf")));
  EXPECT_THAT(inspect_path(path("front.json") + "@3.5"),
              AllOf(HasSubstr("Recipe front@3.50\n"), ContainsRegex("short form +0=4,\\*=4/2\n")));
  const json model = inspect_json(path("tiny.gguf"), ask({path("front.json") + "@3.5"}, 256));
  EXPECT_EQ(model["kv_cache"][0]["recipe"], "front@3.50");
  EXPECT_EQ(model["kv_cache"][0]["code_bits"], 3.5);
}

TEST_F(InspectTest, FrontsRefusals) {
  write_file_atomically(folder_ / "front.json", front_to_json(test::front_for("tiny.gguf")));
  const std::string front = path("front.json");
  EXPECT_EQ(refusal(front, ask({"8"})),
            "invalid_argument: " + front + ": is a front of recipes: --kv needs a model as PATH");
  EXPECT_EQ(refusal(front, ask({}, 64)),
            "invalid_argument: " + front +
                ": its bytes were counted at 128 tokens; for another --ctx give the --model");
  EXPECT_EQ(refusal(front + "@1"), "invalid_argument: " + front +
                                       "@1: no point has so few code bits: the smallest is " +
                                       front + "@2.00");
  EXPECT_THAT(refusal(path("tiny.gguf"), ask({front})), HasSubstr(": say which, as "));
  write_file_atomically(folder_ / "preset.yaml", "0: {nbits_key: 8, nbits_value: 8}\n");
  EXPECT_THAT(refusal(path("preset.yaml")), HasSubstr("lowkey convert " + path("preset.yaml")));
}

}  // namespace
}  // namespace lowkey
