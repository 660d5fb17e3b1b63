#include "speed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "core/error.h"
#include "recipe/bytes.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::Gt;
using testing::HasSubstr;
using testing::SizeIs;

class SpeedTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    file_ = std::filesystem::temp_directory_path() /
            ("lowkey_speed_test_" + std::to_string(::getpid()) + ".gguf");
    test::TinyModel({.seed = 5, .layers = 2, .head_dim = 32, .max_context = 512}).write_gguf(file_);
    engine_ = std::make_unique<Engine>(
        file_, EngineOptions{.weights = WeightStorage::kF32, .threads = 2}, ProgressFn{});
  }
  static void TearDownTestSuite() {
    engine_.reset();
    std::filesystem::remove(file_);
  }

  static std::vector<CacheSpec> recipes(const std::vector<std::string>& texts) {
    std::vector<CacheSpec> resolved;
    for (const std::string& text : texts) {
      resolved.push_back(resolve_recipe(parse_recipe(text), engine_->kv_shape()));
    }
    return resolved;
  }

  static std::filesystem::path file_;
  static std::unique_ptr<Engine> engine_;
};
std::filesystem::path SpeedTest::file_;
std::unique_ptr<Engine> SpeedTest::engine_;

TEST_F(SpeedTest, MeasuresEveryTestOfEveryRecipe) {
  const std::vector<CacheSpec> two = recipes({"16", "kivi-4:r32"});
  const std::vector<SpeedRow> rows =
      measure_speed(*engine_, two,
                    {.prompt = {8, 40}, .generate = {3}, .depths = {0, 200}, .repetitions = 2}, {});
  std::vector<std::string> tests;
  for (const SpeedRow& row : rows) {
    tests.push_back(std::to_string(row.recipe) + " " + row.test() + "@" +
                    std::to_string(row.depth));
    EXPECT_THAT(row.tokens_per_second, SizeIs(2));
    EXPECT_THAT(row.tokens_per_second, Each(Gt(0.0)));
    const int64_t length = row.depth + row.tokens;
    EXPECT_DOUBLE_EQ(row.kv_bytes_per_token * static_cast<double>(length),
                     static_cast<double>(bytes_at(two[row.recipe].recipe, length).total()));
  }
  EXPECT_THAT(
      tests, ElementsAre("0 pp8@0", "0 pp40@0", "0 tg3@0", "0 pp8@200", "0 pp40@200", "0 tg3@200",
                         "1 pp8@0", "1 pp40@0", "1 tg3@0", "1 pp8@200", "1 pp40@200", "1 tg3@200"));
}

TEST_F(SpeedTest, DepthOfOneToken) {
  const std::vector<SpeedRow> rows =
      measure_speed(*engine_, recipes({"kivi-2:r32+i1"}),
                    {.prompt = {}, .generate = {2}, .depths = {1}, .repetitions = 1}, {});
  ASSERT_THAT(rows, SizeIs(1));
  EXPECT_THAT(rows[0].tokens_per_second, Each(Gt(0.0)));
}

TEST_F(SpeedTest, RefusesWhatCannotBeMeasured) {
  const auto message = [](const SpeedOptions& options) -> std::string {
    try {
      measure_speed(*engine_, recipes({"16"}), options, {});
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message({.prompt = {0}, .generate = {0}}), HasSubstr("nothing to measure"));
  EXPECT_THAT(message({.prompt = {}, .generate = {128}, .depths = {0, 400}}),
              HasSubstr("tg128 at a depth of 400: the model's context is 512 tokens"));
}

TEST(SpeedRow, MeanAndSampleDeviation) {
  SpeedRow row;
  row.tokens_per_second = {1, 2, 3, 6};
  EXPECT_DOUBLE_EQ(row.mean(), 3);
  EXPECT_NEAR(row.stddev(), 2.160247, 1e-6);
  row.tokens_per_second = {5};
  EXPECT_EQ(row.stddev(), 0);
}

}  // namespace
}  // namespace lowkey
