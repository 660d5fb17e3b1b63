#include "recipe/front.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/files.h"
#include "recipe/errors.h"
#include "recipe/random_front.h"
#include "support/paths.h"

namespace lowkey {
namespace {

FrontPoint point(const char* recipe, double code_bits, double kl, double ppl_percent) {
  FrontPoint point;
  point.recipe = recipe;
  point.code_bits = code_bits;
  point.stored_bits = code_bits + 1.25;
  point.bytes_per_token = 1000 * point.stored_bits;
  point.kl = kl / 2;
  point.ppl = point.ppl_heldout = 20;
  point.kl_heldout = kl;
  point.ppl_delta_percent_heldout = ppl_percent;
  return point;
}

// Four points as a tune finds them.
Front front_of_four() {
  Front front;
  front.model = "m.gguf";
  front.model_sha256 = std::string(64, 'b');
  front.data_sha256 = std::string(64, 'd');
  front.command = "lowkey tune m.gguf";
  front.num_layers = 3;
  front.ctx = 1024;
  front.points = {point("0=kivi-4:r32,*=kivi-2:r32+i1", 2.5, 0.04, 4.1),
                  point("0-1=kivi-4:r32,*=kivi-4/2:r32+i1", 3.2333333, 0.011, 1.3),
                  point("kivi-4:r32+i1", 4, 0.009, 0.4), point("kivi-8:r32+i1", 8, 0.001, 0.05)};
  front.references = {point("kivi-2:r32+i1", 2, 0.18, 21)};
  return front;
}

class FrontFile : public testing::Test {
 protected:
  FrontFile() { write(front_of_four()); }
  void write(const Front& front) { write_file_atomically(path_, front_to_json(front)); }
  std::string complaint_of(const std::string& which) {
    const std::string text = complaint([&] { parse_recipe(path_ + "@" + which); });
    // The folder's name is random.
    std::string out = text;
    for (size_t at; (at = out.find(path_)) != out.npos;) out.replace(at, path_.size(), "F.json");
    return out;
  }
  std::string name_of(const std::string& which) { return parse_recipe(path_ + "@" + which).name; }

  test::TempDir folder_;
  std::string path_ = (folder_ / "front.json").string();
};

TEST(FrontJson, RandomFrontsComeBackBitForBit) {
  RandomFront random(7);
  for (int i = 0; i < 500; ++i) {
    const Front front = random.front();
    const std::string json = front_to_json(front);
    ASSERT_EQ(front_from_json(json, "f.json"), front) << json;
    ASSERT_EQ(front_to_json(front_from_json(json, "f.json")), json);
  }
}

TEST(FrontJson, IsWrittenInTheHeadersOrder) {
  Front front = front_of_four();
  front.points.resize(1);
  front.points[0].task_accuracy = 0.75;
  front.references.clear();
  const std::string json = front_to_json(front);
  size_t last = 0;
  for (const char* field : {"lowkey_front",
                            "model",
                            "model_sha256",
                            "data_sha256",
                            "command",
                            "num_layers",
                            "ctx",
                            "points",
                            "recipe",
                            "code_bits",
                            "stored_bits",
                            "bytes_per_token",
                            "kl",
                            "kl_ci",
                            "top1_agreement",
                            "ppl",
                            "ppl_delta_percent",
                            "kl_heldout",
                            "kl_heldout_ci",
                            "ppl_heldout",
                            "ppl_delta_percent_heldout",
                            "top1_agreement_heldout",
                            "task_accuracy",
                            "references"}) {
    const size_t at = json.find("\"" + std::string(field) + "\":");
    ASSERT_NE(at, json.npos) << field;
    EXPECT_GT(at, last) << field;
    last = at;
  }
}

// Replaces one piece of a good file.
struct Wrong {
  const char* what;
  const char* with;
  const char* message;
};

class FrontJsonRefuses : public testing::TestWithParam<Wrong> {};

TEST_P(FrontJsonRefuses, NamingThePath) {
  std::string json = front_to_json(front_of_four());
  const size_t at = json.find(GetParam().what);
  ASSERT_NE(at, json.npos);
  json.replace(at, std::string(GetParam().what).size(), GetParam().with);
  EXPECT_EQ(complaint([&] { front_from_json(json, "f.json"); }), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Fields, FrontJsonRefuses,
    testing::Values(
        Wrong{"\"lowkey_front\": 1", "\"lowkey_front\": 2",
              "unsupported: f.json: front version 2; this program reads version 1"},
        Wrong{"\"lowkey_front\": 1", "\"lowkey\": 1",
              "invalid_argument: f.json: not a front of recipes: \"lowkey_front\": 1 is missing"},
        Wrong{"\"model\": \"m.gguf\"", "\"model\": 3",
              "invalid_argument: f.json: model: expected a string, found an integer"},
        Wrong{"bbbb", "zz",
              "invalid_argument: f.json: model_sha256: not a SHA-256: 64 digits "
              "0-9a-f"},
        Wrong{"\"num_layers\": 3", "\"num_layers\": 0",
              "invalid_argument: f.json: num_layers: 0 is out of range: 1 to 1024"},
        Wrong{"\"ctx\": 1024", "\"ctx\": 1024.5",
              "invalid_argument: f.json: ctx: expected an integer, found a number"},
        Wrong{"\"ctx\": 1024", "\"ctx\": 0",
              "invalid_argument: f.json: ctx: 0 is out of range: 1 to 268435456"},
        Wrong{"\"points\": [", "\"points\": [], \"more\": [",
              "invalid_argument: f.json: more: unknown field; known: lowkey_front, model, "
              "model_sha256, data_sha256, command, num_layers, ctx, points, references"},
        Wrong{"\"kl_ci\": 0.0,", "", "invalid_argument: f.json: points[0].kl_ci: missing"},
        Wrong{"\"kl_ci\": 0.0,", "\"kl_ci\": -1,",
              "invalid_argument: f.json: points[0].kl_ci: -1 is out of range: at least 0"},
        Wrong{"\"kl_ci\": 0.0,", "\"kl_ci\": null,",
              "invalid_argument: f.json: points[0].kl_ci: expected a number, found null"},
        Wrong{"\"kl_ci\": 0.0,", "\"kl_ci\": 0, \"kl_ci\": 0,",
              "invalid_argument: f.json: field 'kl_ci' is given twice in one object"},
        Wrong{"\"code_bits\": 2.5", "\"code_bits\": 33",
              "invalid_argument: f.json: points[0].code_bits: 33 is out of range: 0 to 32"},
        Wrong{"\"code_bits\": 2.5", "\"code_bits\": 3.5",
              "invalid_argument: f.json: points[1].code_bits: 3.2333333 after 3.5: points are "
              "listed by ascending code bits"},
        Wrong{"\"recipe\": \"kivi-8:r32+i1\"", "\"recipe\": \"kivi-9:r32+i1\"",
              "invalid_argument: f.json: points[3].recipe: recipe 'kivi-9:r32+i1', column 6, at "
              "'9': bits are 2, 3, 4, 8, 16 or 32 (keys/values, such as 8/4)"},
        // A front must not make the program open files.
        Wrong{"\"recipe\": \"kivi-8:r32+i1\"", "\"recipe\": \"/etc/recipe.json\"",
              "invalid_argument: f.json: points[3].recipe: recipe '/etc/recipe.json', column 1, at "
              "'/etc/recipe.json': bits are 2, 3, 4, 8, 16 or 32 (keys/values, such as 8/4)"},
        Wrong{"\"recipe\": \"kivi-8:r32+i1\"", "\"recipe\": \"{}\"",
              "invalid_argument: f.json: points[3].recipe: recipe: not a recipe: "
              "\"lowkey_recipe\": 1 is missing"}));

TEST(FrontJson, WithoutPointsIsNone) {
  Front front = front_of_four();
  front.points.clear();
  EXPECT_EQ(complaint([&] { front_to_json(front); }),
            "invalid_argument: front: points: no points: at least one");
}

TEST(FrontJson, WhatCannotBeReadIsNotWritten) {
  Front front = front_of_four();
  front.points[1].kl = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(complaint([&] { front_to_json(front); }),
            "invalid_argument: front: points[1].kl: nan is not finite");
  front = front_of_four();
  std::swap(front.points[0], front.points[1]);
  EXPECT_EQ(complaint([&] { front_to_json(front); }),
            "invalid_argument: front: points[1].code_bits: 2.5 after 3.2333333: points are listed "
            "by ascending code bits");
  front = front_of_four();
  front.command = "\xff";
  EXPECT_EQ(complaint([&] { front_to_json(front); }),
            "invalid_argument: front: its model, command or a recipe is not valid UTF-8");
}

TEST(Quality, PicksTheFewestStoredBitsThatKeepThePromise) {
  const Front front = front_of_four();
  EXPECT_EQ(point_for(front, Quality::kLossless), &front.points[2]);
  EXPECT_EQ(point_for(front, Quality::kBalanced), &front.points[1]);
  EXPECT_EQ(point_for(front, Quality::kCompact), &front.points[0]);
}

TEST(Quality, LosslessNeedsBothPerplexityAndKl) {
  Front front = front_of_four();
  front.points[2].kl_heldout = 0.0101;
  EXPECT_EQ(point_for(front, Quality::kLossless), &front.points[3]);
  front.points[3].ppl_delta_percent_heldout = 0.51;
  EXPECT_EQ(point_for(front, Quality::kLossless), nullptr);
}

TEST(Quality, GoesByStoredBitsAndHeldOutText) {
  Front front = front_of_four();
  front.points[3].stored_bits = 1;  // its windows cost nothing, say
  EXPECT_EQ(point_for(front, Quality::kBalanced), &front.points[3]);
  front = front_of_four();
  front.points[0].ppl_delta_percent = 0;  // good on the text it was tuned on
  EXPECT_EQ(point_for(front, Quality::kBalanced), &front.points[1]);
}

TEST(Quality, Names) {
  for (const Quality quality : {Quality::kLossless, Quality::kBalanced, Quality::kCompact}) {
    EXPECT_EQ(parse_quality(quality_name(quality)), quality);
  }
  EXPECT_FALSE(parse_quality("best"));
}

TEST_F(FrontFile, IsARecipeSource) {
  const KvRecipe recipe = parse_recipe(path_ + "@3.25");
  EXPECT_EQ(recipe_to_string(recipe), "0-1=kivi-4:r32,*=kivi-4/2:r32+i1");
  EXPECT_EQ(recipe.name, "front@3.23");
  EXPECT_EQ(recipe.provenance.command, "lowkey tune m.gguf");
  EXPECT_EQ(recipe.provenance.model_sha256, std::string(64, 'b'));
  EXPECT_EQ(recipe.provenance.data_sha256, std::string(64, 'd'));
  EXPECT_EQ(recipe.provenance.metrics.at("kl_heldout"), 0.011);
  EXPECT_EQ(name_of("100"), "front@8.00");
  EXPECT_EQ(name_of("4"), "front@4.00");
  EXPECT_EQ(name_of("3.999"), "front@3.23");
  EXPECT_EQ(name_of("balanced"), "front@3.23");
  EXPECT_EQ(name_of("lossless"), "front@4.00");
}

// What tables print, two decimals, names its point; more decimals mean themselves.
TEST_F(FrontFile, BitsAreComparedAsWritten) {
  EXPECT_EQ(name_of("3.23"), "front@3.23");
  EXPECT_EQ(name_of("3.22"), "front@2.50");
  EXPECT_EQ(name_of("3.2333333"), "front@3.23");
  EXPECT_EQ(name_of("3.233"), "front@3.23");
  EXPECT_EQ(name_of("3.232"), "front@2.50");
  EXPECT_EQ(name_of("3.9"), "front@3.23");
}

TEST_F(FrontFile, PointsThatPrintAlikeGetMoreDecimals) {
  Front front = front_of_four();
  front.points[2].code_bits = 3.2342;
  write(front);
  EXPECT_EQ(reference_to("f.json", front, front.points[1]), "f.json@3.233");
  EXPECT_EQ(reference_to("f.json", front, front.points[2]), "f.json@3.23");
  for (const FrontPoint& point : front.points) {
    const auto reference = parse_front_reference(reference_to(path_, front, point));
    ASSERT_TRUE(reference);
    EXPECT_EQ(choose_point(*reference).point(), point);
  }
}

TEST_F(FrontFile, APointTakesAnIntactPrefixAlong) {
  write(front_of_four());
  const KvRecipe alone = parse_recipe(path_ + "@3.25");
  KvRecipe both = parse_recipe(path_ + "@3.25+i@dir/p.safetensors");
  EXPECT_EQ(both.name, alone.name + "+i@p.safetensors");
  EXPECT_EQ(both.calibration, (CalibrationRef{.file = "dir/p.safetensors", .sha256 = {}}));
  both.name = alone.name;
  both.calibration = alone.calibration;
  EXPECT_EQ(both, alone);
}

TEST_F(FrontFile, OfEqualBitsTheOneThatLosesLeast) {
  Front front = front_of_four();
  front.points[2].code_bits = front.points[1].code_bits;
  write(front);
  EXPECT_EQ(choose_point({path_, "3.25"}).index, 2u);
  front.points[2].kl_heldout = 1;
  write(front);
  EXPECT_EQ(choose_point({path_, "3.25"}).index, 1u);
  // A task's accuracy, where it was the loss, counts first.
  for (FrontPoint& point : front.points) point.task_accuracy = point.kl_heldout;
  write(front);
  EXPECT_EQ(choose_point({path_, "3.25"}).index, 2u);
}

TEST_F(FrontFile, ErrorsSayWhichPointsThereAre) {
  EXPECT_EQ(complaint_of("2"),
            "invalid_argument: F.json@2: no point has so few code bits: the smallest is "
            "F.json@2.50");
  for (const char* which : {"", "best", "-3", "nan", "inf", "0x3", "3.25 ", "3,25", "1e1"}) {
    EXPECT_EQ(complaint_of(which),
              "invalid_argument: F.json@" + std::string(which) + ": '" + which +
                  "' names no point: the most code bits, such as F.json@3.25, or lossless, "
                  "balanced or compact");
  }
  Front front = front_of_four();
  front.points.resize(2);
  write(front);
  EXPECT_EQ(complaint_of("lossless"),
            "invalid_argument: F.json@lossless: no point keeps perplexity within 0.5%, KL at most "
            "0.01 on held-out text: the best, 3.23 bits, has perplexity +1.30%, KL 0.0110");
  EXPECT_EQ(complaint([&] { parse_recipe(path_); }),
            "invalid_argument: " + path_ + ": a front of several recipes: say which, as " + path_ +
                "@3.25 (the most code bits) or @balanced");
  EXPECT_EQ(complaint([] { parse_recipe("/no/front.json@3"); }),
            "not_found: /no/front.json: cannot open: No such file or directory");
}

TEST(FrontReference, MayNameAnIntactPrefix) {
  const auto reference = parse_front_reference("a/f.json@3.25+i@b@2/p.safetensors");
  ASSERT_TRUE(reference);
  EXPECT_EQ(reference->file, "a/f.json");
  EXPECT_EQ(reference->which, "3.25");
  EXPECT_EQ(reference->prefix, "b@2/p.safetensors");
  EXPECT_EQ(parse_front_reference("a+i@b/f.json@3")->file, "a+i@b/f.json");
  EXPECT_FALSE(parse_front_reference("kivi-2:r32+i@p.safetensors"));
  EXPECT_EQ(complaint([] { parse_front_reference("f.json@3+i@"); }),
            "invalid_argument: f.json@3+i@: +i@ wants the intact prefix's file: "
            "f.json@3+i@prefix.safetensors");
}

TEST(FrontReference, IsWhatHasJsonAndAnAt) {
  EXPECT_EQ(parse_front_reference("a.json@b.json@3.25")->file, "a.json@b.json");
  EXPECT_EQ(parse_front_reference("dir@2/a.json@3.25")->which, "3.25");
  for (const char* text :
       {"a.json@b/recipe.json", "kivi-4", ".json@3", "a.json", "a@3.json", "{\"x.json@3\": 1}"}) {
    EXPECT_FALSE(parse_front_reference(text)) << text;
  }
}

TEST_F(FrontFile, IsFoundInItsFolder) {
  EXPECT_EQ(front_path(folder_.path()), path_);
  EXPECT_EQ(front_path(path_), path_);
  const std::string empty = (folder_ / "empty").string();
  std::filesystem::create_directory(empty);
  EXPECT_EQ(
      complaint([&] { front_path(empty); }),
      "not_found: " + empty + ": no front.json in this folder; 'lowkey tune MODEL' makes one");
  EXPECT_EQ(complaint([] { front_path("/no/front.json"); }),
            "not_found: /no/front.json: no such front; 'lowkey tune MODEL' makes one");
  const std::string text = (folder_ / "front.txt").string();
  write_file_atomically(text, "");
  EXPECT_EQ(complaint([&] { front_path(text); }),
            "invalid_argument: " + text +
                ": a front is a .json file, or a folder with a front.json in it");
}

TEST(OtherModel, ByNameAndLayers) {
  const Front front = front_of_four();
  EXPECT_FALSE(other_model(front, "m.gguf", 3));
  EXPECT_EQ(other_model(front, "n.gguf", 3), "made for m.gguf, not for n.gguf");
  EXPECT_EQ(other_model(front, "m.gguf", 4),
            "made for m.gguf with 3 layers, not for m.gguf with 4");
  Front unknown = front;
  unknown.num_layers = 0;
  EXPECT_FALSE(other_model(unknown, "m.gguf", 4));
  EXPECT_FALSE(other_model(front, "", 3));
  EXPECT_EQ(front_model_name("/models/m.gguf"), "m.gguf");
  EXPECT_EQ(front_model_name("/models/folder/"), "folder");
  EXPECT_EQ(front_model_name("/models/folder/."), "folder");
}

}  // namespace
}  // namespace lowkey
