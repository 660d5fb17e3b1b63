// Against Hugging Face transformers (tools/make_goldens.py) and the reference run of stories260K.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>

#include "core/files.h"
#include "model/model_support.h"
#include "support/tiny_options.h"

namespace lowkey {
namespace {

using test::LoadedModel;

constexpr double kTolerance = 2e-3;  // the project's promise, absolute

nlohmann::json golden(const std::string& name) {
  return nlohmann::json::parse(read_file(test::golden(name)));
}

// Every logit the golden holds: the 32 largest, some at fixed ids, and the mean over the
// vocabulary.
void expect_golden_logits(const nlohmann::json& expected, const std::vector<float>& logits,
                          int64_t vocab, double tolerance) {
  const int64_t positions = std::ssize(logits) / vocab;
  ASSERT_EQ(positions, std::ssize(expected["top_ids"]));
  double largest = 0;
  for (int64_t p = 0; p < positions; ++p) {
    const std::span<const float> row(logits.data() + p * vocab, static_cast<size_t>(vocab));
    const auto& top_ids = expected["top_ids"][static_cast<size_t>(p)];
    const auto& top_logits = expected["top_logits"][static_cast<size_t>(p)];
    const auto& samples = expected["sample_logits"][static_cast<size_t>(p)];
    for (size_t i = 0; i < top_ids.size(); ++i) {
      const double error = std::abs(row[top_ids[i].get<size_t>()] - top_logits[i].get<double>());
      largest = std::max(largest, error);
      ASSERT_LE(error, tolerance) << "position " << p << ", rank " << i;
    }
    for (size_t i = 0; i < samples.size(); ++i) {
      const auto id = expected["sample_ids"][i].get<size_t>();
      ASSERT_NEAR(row[id], samples[i].get<double>(), tolerance) << "position " << p << " id " << id;
    }
    double mean = 0;
    for (float logit : row) mean += logit;
    mean /= static_cast<double>(vocab);
    ASSERT_NEAR(mean, expected["logit_means"][static_cast<size_t>(p)].get<double>(), tolerance)
        << "position " << p;
    // What is not among the 32 largest is not larger than the smallest of them.
    std::vector<float> sorted(row.begin(), row.end());
    std::nth_element(sorted.begin(), sorted.begin() + 31, sorted.end(), std::greater<>());
    ASSERT_NEAR(sorted[31], top_logits[31].get<double>(), tolerance) << "position " << p;
  }
  ::testing::Test::RecordProperty("largest_error", std::to_string(largest));
}

TEST(Golden, TinyModelsEqualTransformers) {
  for (const char* name : {"logits_tied.json", "logits_untied_biased_llama3.json",
                           "logits_linear_three_groups.json", "logits_wide_heads.json"}) {
    SCOPED_TRACE(name);
    const nlohmann::json expected = golden(name);
    const std::vector<int32_t> ids = expected["ids"];
    for (ModelFormat format : {ModelFormat::kHuggingFace, ModelFormat::kGguf}) {
      LoadedModel loaded(test::tiny_options(expected["options"]), WeightStorage::kF32, 2, format);
      const int64_t vocab = loaded.config().vocab_size;
      expect_golden_logits(expected, run_logits(loaded, "32", ids, std::ssize(ids), Backend::kAten),
                           vocab, kTolerance);
      expect_golden_logits(expected, run_logits(loaded, "32", ids, 1, Backend::kNative), vocab,
                           kTolerance);
    }
  }
}

TEST(Golden, SmolLm2EqualsTransformersOver512Tokens) {
  const auto path = test::real_model();
  if (!path) GTEST_SKIP() << "SmolLM2 is not here: ./dev setup brings it";
  const nlohmann::json expected = golden("smollm2_logits.json");
  std::vector<int32_t> ids = golden("demo_tokens.json")["ids"];
  ids.resize(expected["count"].get<size_t>());
  LoadedModel loaded(*path);
  const int64_t vocab = loaded.config().vocab_size;
  expect_golden_logits(expected, run_logits(loaded, "32", ids, 512, Backend::kAten), vocab,
                       kTolerance);
}

TEST(Golden, SmolLm2NativelyEqualsTransformers) {
  const auto path = test::real_model();
  if (!path) GTEST_SKIP() << "SmolLM2 is not here: ./dev setup brings it";
  nlohmann::json expected = golden("smollm2_logits.json");
  std::vector<int32_t> ids = golden("demo_tokens.json")["ids"];
  ids.resize(64);
  for (const char* key : {"top_ids", "top_logits", "sample_logits", "logit_means"}) {
    expected[key].erase(expected[key].begin() + 64, expected[key].end());
  }
  // Weights in their blocks: decoded exactly, so held to the same tolerance as f32.
  LoadedModel loaded(*path, WeightStorage::kFile);
  expect_golden_logits(expected, run_logits(loaded, "32", ids, kNativeRows, Backend::kNative),
                       loaded.config().vocab_size, kTolerance);
}

// llama2.c's 260K-parameter model: head_dim 8, interleaved GGUF, f32.
class Stories : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto path = test::shared_data("stories260K/stories260K-f32.gguf");
    const auto golden_path = test::shared_data("stories260K/golden.json");
    if (!path || !golden_path) GTEST_SKIP() << "shared data is not here: no stories260K";
    golden_ = nlohmann::json::parse(read_file(*golden_path));
    loaded_ = std::make_unique<LoadedModel>(*path);
  }

  nlohmann::json golden_;
  std::unique_ptr<LoadedModel> loaded_;
};

TEST_F(Stories, GreedyIdsAreThoseOfTheReference) {
  const std::vector<int32_t> expected = golden_["greedy_from_bos_256_ids"];
  for (const char* recipe : {"32", "16"}) {
    const auto cache = loaded_->cache(recipe);
    KvSequence sequence = cache->new_sequence();
    std::vector<float> hidden(static_cast<size_t>(loaded_->config().hidden_size));
    std::vector<float> logits(static_cast<size_t>(loaded_->config().vocab_size));
    std::vector<int32_t> ids{expected[0]};
    while (ids.size() < expected.size()) {
      const StepItem item{&sequence, {&ids.back(), 1}, RowsWanted::kLast};
      loaded_->model().forward({&item, 1}, hidden.data());
      loaded_->model().logits(hidden.data(), 1, logits.data());
      ids.push_back(
          static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    }
    EXPECT_EQ(ids, expected) << recipe;
  }
}

// What the file calls logits are log-probabilities.
TEST_F(Stories, PromptLogProbabilitiesAreThoseOfTheReference) {
  const std::vector<int32_t> prompt = golden_["prompt_ids"];
  const std::vector<float> logits = run_logits(*loaded_, "32", prompt, std::ssize(prompt));
  const auto last = logits.end() - loaded_->config().vocab_size;
  double sum = 0;
  for (auto logit = last; logit != logits.end(); ++logit) sum += std::exp(*logit);
  std::vector<double> sorted(last, logits.end());
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  for (size_t rank = 0; rank < 8; ++rank) {
    const auto& expected = golden_["prompt_last_logits_top8"][rank];
    const double logit = last[expected[0].get<int64_t>()];
    EXPECT_NEAR(logit - std::log(sum), expected[1].get<double>(), kTolerance);
    EXPECT_NEAR(sorted[rank] - std::log(sum), expected[1].get<double>(), kTolerance);
  }
}

}  // namespace
}  // namespace lowkey
