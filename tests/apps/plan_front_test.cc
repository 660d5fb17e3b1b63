// plan --front: which point of a front is used, and where its bytes are.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/front_sample.h"
#include "core/error.h"
#include "core/files.h"
#include "memory_plan.h"
#include "plan.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

class PlanFrontTest : public testing::Test {
 protected:
  PlanFrontTest() {
    tiny_.write_gguf(folder_ / "tiny.gguf");
    write(test::front_for("tiny.gguf"));
    options_.model = path("tiny.gguf");
    options_.front = path("front.json");
    options_.ctx = 256;
    options_.batch = 3;
    options_.memory = int64_t{1} << 30;
  }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  void write(const Front& front) const {
    write_file_atomically(folder_ / "front.json", front_to_json(front));
  }
  std::string text() const { return plan(options_, Terminal{}); }
  json as_json() const {
    PlanOptions options = options_;
    options.json = true;
    return json::parse(plan(options, Terminal{}));
  }
  int64_t total_of(const char* recipe) const {
    const ModelFile file = ModelFile::open(options_.model);
    return MemoryPlan(parse_recipe(recipe), file.config(),
                      static_cast<int64_t>(file.weight_bytes()))
        .need(*options_.ctx, options_.batch)
        .total();
  }
  std::string refusal() const {
    try {
      text();
    } catch (const Error& error) {
      return std::string(error_code_name(error.code())) + ": " + error.what();
    }
    return "(no error)";
  }

  test::TempDir folder_;
  test::TinyModel tiny_{{.layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 16}};
  PlanOptions options_;
};

// Memory for exactly one point more or less, down to the byte.
TEST_F(PlanFrontTest, TakesTheBestLossThatFits) {
  const char* recipes[] = {"2", "0=4/2,*=2", "0=4,*=4/2", "8"};
  for (int i = 0; i < 4; ++i) {
    options_.memory = total_of(recipes[i]);
    EXPECT_EQ(as_json()["point"], i) << recipes[i];
    options_.memory = *options_.memory - 1;
    const json plan = as_json();
    EXPECT_EQ(plan["point"], i == 0 ? json() : json(i - 1)) << recipes[i];
    for (int j = 0; j < 4; ++j) EXPECT_EQ(plan["points"][j]["fits"], j < i) << recipes[j];
  }
}

TEST_F(PlanFrontTest, BestIsByHeldOutLossNotByBits) {
  Front front = test::front_for("tiny.gguf");
  front.points[3].kl_heldout = 0.5;
  write(front);
  EXPECT_EQ(as_json()["point"], 2);
}

TEST_F(PlanFrontTest, BytesByLayerAreTheCaches) {
  options_.memory = total_of("0=4,*=4/2");
  const json plan = as_json();
  ASSERT_EQ(plan["point"], 2);
  EXPECT_EQ(plan["points"][2]["kv"], path("front.json") + "@3.50");
  ASSERT_EQ(plan["layers"].size(), 2u);
  EXPECT_EQ(plan["layers"][1]["k_bits"], json({4, 4}));
  EXPECT_EQ(plan["layers"][1]["v_bits"], json({2, 2}));
  // 3 sequences x 2 heads x 2 pages; a page: 4 bits 1024 codes + 512 parameters, 2 bits 512 + 512.
  EXPECT_EQ(plan["layers"][0]["bytes"], 12 * (1536 + 1536));
  EXPECT_EQ(plan["layers"][1]["bytes"], 12 * (1536 + 1024));
  EXPECT_EQ(plan["points"][2]["kv_bytes"],
            plan["layers"][0]["bytes"].get<int64_t>() + plan["layers"][1]["bytes"].get<int64_t>());
  EXPECT_FALSE(plan["fits_16bit"]);
}

TEST_F(PlanFrontTest, TextSaysWhichAndHow) {
  options_.memory = total_of("0=4,*=4/2");
  EXPECT_THAT(
      text(),
      AllOf(
          HasSubstr("at 3 sequences of 256 tokens, of " + path("front.json") + "\n"),
          ContainsRegex("\nyes +2.50 "), ContainsRegex("\nuse +3.50 "),
          ContainsRegex("\nno +8.00 "),
          HasSubstr("\n3.50 code bits lose least of what fits: KL 0.0090, perplexity +0.40% on "
                    "held-out text\n"),
          ContainsRegex("\n0 +4 bits per token, g16 +4 bits per token, g16 +none +36,864 +36,864\n"
                        "1 +4 bits per token, g16 +2 bits per token, g16 +none +30,720 +30,720\n"
                        "all +67,584\n"),
          HasSubstr("\nUse it: --kv " + path("front.json") + "@3.50\n"),
          Not(HasSubstr("16 bits fit")), Not(HasSubstr("Warning"))));
  options_.memory = total_of("16");
  EXPECT_THAT(text(), HasSubstr("\n16 bits fit as well: nothing needs to be quantized.\n"));
  // Layers that are alike share a line.
  EXPECT_THAT(text(), ContainsRegex("\n0-1 +8 bits per token, g16 .* +61,440 +122,880\n"));
}

TEST_F(PlanFrontTest, NothingFitsSaysWhatWould) {
  options_.memory = total_of("2") - 1;
  const std::string out = text();
  const json smallest = as_json()["points"][0];
  const int64_t ctx = smallest["longest_ctx"];
  EXPECT_GE(ctx, 128);
  EXPECT_LT(ctx, 256);
  EXPECT_EQ(smallest["largest_batch"], 2);
  EXPECT_THAT(out, AllOf(HasSubstr("\nNone fits: the smallest, 2.00 code bits, needs "),
                         HasSubstr(fmt::format(" hold 3 sequences of {} tokens, or 2 sequences of "
                                               "256 tokens.\n",
                                               ctx)),
                         Not(HasSubstr("Use it"))));
  options_.memory = 1000;
  EXPECT_THAT(text(), ContainsRegex("\nWeights alone are .*: not even one token fits.\n"));
}

TEST_F(PlanFrontTest, AnotherModelsFrontIsWarnedOf) {
  write(test::front_for("other.gguf"));
  EXPECT_THAT(text(), HasSubstr("Warning: " + path("front.json") +
                                ": made for other.gguf, not for tiny.gguf.\n"));
  EXPECT_EQ(as_json()["warning"], "made for other.gguf, not for tiny.gguf");
}

TEST_F(PlanFrontTest, WellKnownModelsAndFoldersAndNarrowTables) {
  Front front = test::front_for("Llama-3.1-8B");
  front.num_layers = 32;
  front.points = {
      test::front_point("0-3=kivi-4:r32,7=kivi-8:r128,20-25=16,*=kivi-4/2:g64:r64+i1", 3, 0.01, 1)};
  write(front);
  options_.arch = "Llama-3.1-8B";
  options_.front = folder_.path().string();
  options_.memory = int64_t{1} << 50;
  options_.ctx = 131072;
  options_.batch = 100000;
  std::istringstream lines(text());
  for (std::string line; std::getline(lines, line);) {
    if (line.find(folder_.path().string()) != line.npos) continue;
    EXPECT_LE(text_width(line), 100) << line;
  }
  options_.batch = 1;
  EXPECT_THAT(text(), AllOf(ContainsRegex("\n4-6 +4 bits per channel, g64 "),
                            ContainsRegex("\n20-25 +f16 +f16 +- ")));
}

TEST_F(PlanFrontTest, ErrorsSayWhatToDo) {
  options_.front = path("nowhere");
  EXPECT_EQ(refusal(),
            "not_found: " + path("nowhere") + ": no such front; 'lowkey tune MODEL' makes one");
  write_file_atomically(folder_ / "front.json", "{}");
  options_.front = path("front.json");
  EXPECT_THAT(refusal(), HasSubstr("front.json: not a front of recipes: \"lowkey_front\": 1 is "));
  Front front = test::front_for("tiny.gguf");
  front.points[1].recipe = "0-5=4,*=2";  // more layers than the model has
  write(front);
  EXPECT_THAT(refusal(), HasSubstr("invalid_argument: recipe 0-5=4,*=2: "));
}

}  // namespace
}  // namespace lowkey
