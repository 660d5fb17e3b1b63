#include "eval/multiple_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "core/error.h"
#include "eval/metrics.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

class MultipleChoice : public testing::Test {
 protected:
  MultipleChoice() {
    test::TinyModel({.seed = 12, .head_dim = 32}).write_gguf(folder_ / "tiny.gguf");
    engine_ = open(2);
    task_.name = "c.jsonl";
    for (int i = 0; i < 12; ++i) {
      ChoiceExample example;
      example.question = std::string(static_cast<size_t>(3 + i), static_cast<char>('a' + i)) + "?";
      example.is_query = true;
      example.choices = {"the cat", std::string(1, static_cast<char>('p' + i)),
                         "a much longer one"};
      example.gold = i % 3;
      example.line = i + 1;
      (i < 2 ? shots_ : asked_).push_back(example);
    }
  }

  std::unique_ptr<Engine> open(int threads) {
    return std::make_unique<Engine>(
        folder_ / "tiny.gguf", EngineOptions{.weights = WeightStorage::kF32, .threads = threads},
        ProgressFn{});
  }

  ChoicePrompts prompts(ChoiceStyle style, bool with_shots, int64_t limit = 0) {
    task_.style = style;
    task_.questions.clear();
    for (const ChoiceExample& example : asked_) {
      task_.questions.push_back({example, with_shots ? shots_ : std::vector<ChoiceExample>{}});
    }
    return choice_prompts(engine_->tokenizer(), task_, limit);
  }

  // "exact": a prompt attends to itself unquantized.
  CacheSpec spec(const std::string& kv) const {
    KvRecipe recipe = parse_recipe(kv == "exact" ? "2" : kv);
    if (kv == "exact") recipe.prefill = PrefillMode::kExact;
    return resolve_recipe(recipe, engine_->kv_shape());
  }

  ChoiceResult run(const ChoicePrompts& asked, const std::string& kv) {
    return choose(engine_->model(), engine_->pool(), asked, spec(kv), {});
  }

  // The whole text at once, every token's logits.
  double by_hand(const std::vector<int32_t>& tokens, int64_t prompt, const std::string& kv) {
    KvCache cache(spec(kv));
    KvSequence sequence = cache.new_sequence();
    const auto width = static_cast<size_t>(engine_->file().config().hidden_size);
    std::vector<float> hidden(tokens.size() * width);
    std::vector<float> logits(static_cast<size_t>(engine_->file().config().vocab_size));
    prefill(engine_->model(), sequence, tokens, RowsWanted::kAll, hidden.data(), {}, "");
    double sum = 0;
    for (auto t = static_cast<size_t>(prompt); t < tokens.size(); ++t) {
      engine_->model().logits(hidden.data() + (t - 1) * width, 1, logits.data());
      sum += static_cast<double>(logits[static_cast<size_t>(tokens[t])]) - log_sum_exp(logits);
    }
    return sum;
  }

  test::TempDir folder_;
  std::unique_ptr<Engine> engine_;
  ChoiceTask task_;
  std::vector<ChoiceExample> shots_, asked_;
};

TEST_F(MultipleChoice, ScoresAreTheLogLikelihoodsOfWholeTexts) {
  for (const ChoiceStyle style : {ChoiceStyle::kText, ChoiceStyle::kLetters}) {
    for (const bool with_shots : {false, true}) {
      const ChoicePrompts asked = prompts(style, with_shots);
      for (const char* kv : {"16", "kivi-2:r32", "2", "exact"}) {
        const ChoiceResult result = run(asked, kv);
        ASSERT_EQ(result.answers.size(), 10u);
        // Steps of other sizes round f32 sums differently, which now and then flips a code of two
        // bits: small beside what the recipe does, and rare.
        double off = 0, effect = 0;
        for (size_t i = 0; i < result.answers.size(); ++i) {
          const ChoicePrompt& prompt = asked.prompts[i];
          double best = -1e300, best_norm = -1e300;
          for (size_t c = 0; c < 3; ++c) {
            const double expected = by_hand(prompt.tokens[c], prompt.prompt_tokens, kv);
            const double error = std::abs(result.answers[i].log_likelihood[c] - expected);
            if (std::string(kv) == "16") {
              EXPECT_LT(error, 2e-3) << i << c;
            } else {
              off += error;
              effect += std::abs(by_hand(prompt.tokens[c], prompt.prompt_tokens, "16") - expected);
            }
            best = std::max(best, result.answers[i].log_likelihood[c]);
            const auto bytes = static_cast<double>(
                style == ChoiceStyle::kLetters ? 1 : asked_[i].choices[c].size());
            best_norm = std::max(best_norm, result.answers[i].log_likelihood[c] / bytes);
          }
          const auto picked = static_cast<size_t>(result.answers[i].picked);
          const auto picked_norm = static_cast<size_t>(result.answers[i].picked_norm);
          EXPECT_EQ(result.answers[i].log_likelihood[picked], best);
          EXPECT_EQ(result.answers[i].log_likelihood[picked_norm] /
                        static_cast<double>(prompt.bytes[picked_norm]),
                    best_norm);
        }
        EXPECT_LE(off, 0.05 * effect + 30 * 2e-3) << kv;
      }
    }
  }
}

TEST_F(MultipleChoice, CountsAndComparesAnswers) {
  ChoicePrompts asked = prompts(ChoiceStyle::kText, true);
  EXPECT_GT(asked.prompts[0].beginning_tokens, 10);
  EXPECT_FALSE(asked.prompts[0].shares);
  EXPECT_TRUE(asked.prompts[1].shares);
  const ChoiceResult first = run(asked, "16");
  // Four right answers, by decree.
  for (size_t i = 0; i < asked.prompts.size(); ++i) {
    const int32_t picked = first.answers[i].picked;
    asked.prompts[i].gold = i < 4 ? picked : (picked + 1) % 3;
  }
  const ChoiceResult result = run(asked, "16");
  EXPECT_EQ(result.correct, 4);
  EXPECT_DOUBLE_EQ(result.accuracy(), 0.4);
  EXPECT_EQ(result.interval, wilson_95(4, 10));
  EXPECT_EQ(choice_changes(result, result, false).changed, 0);
  EXPECT_EQ(choice_changes(result, result, false).p_value, 1);
  ChoiceResult other = result;
  other.answers[0].picked = (other.answers[0].picked + 1) % 3;                    // lost
  other.answers[1].picked = (other.answers[1].picked + 2) % 3;                    // lost
  other.answers[9].picked = other.answers[9].gold;                                // gained
  other.answers[8].picked = 3 - other.answers[8].picked - other.answers[8].gold;  // both wrong
  const ChoiceChanges changes = choice_changes(result, other, false);
  EXPECT_EQ(changes.changed, 4);
  EXPECT_EQ(changes.lost, 2);
  EXPECT_EQ(changes.gained, 1);
  EXPECT_DOUBLE_EQ(changes.p_value, 1);
  EXPECT_EQ(choice_changes(result, other, true).changed, 0);
  // Neither threads nor the number of questions show.
  const auto one = open(1);
  const ChoiceResult alone = choose(one->model(), one->pool(), prompts(ChoiceStyle::kText, true, 3),
                                    spec("kivi-2:r32"), {});
  const ChoiceResult all = run(prompts(ChoiceStyle::kText, true), "kivi-2:r32");
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(alone.answers[i].log_likelihood, all.answers[i].log_likelihood);
  }
  EXPECT_NE(all.answers[0].log_likelihood, first.answers[0].log_likelihood);
}

TEST(Mcnemar, IsTheBinomialTail) {
  EXPECT_EQ(mcnemar_exact(0, 0), 1);
  EXPECT_NEAR(mcnemar_exact(0, 5), 2.0 / 32, 1e-12);
  EXPECT_NEAR(mcnemar_exact(1, 7), 2.0 * 9 / 256, 1e-12);
  EXPECT_EQ(mcnemar_exact(2, 3), mcnemar_exact(3, 2));
  EXPECT_LT(mcnemar_exact(400, 600), 1e-9);
}

TEST_F(MultipleChoice, RefusesWhatDoesNotFit) {
  const auto message = [&](const ChoicePrompts& asked) -> std::string {
    try {
      run(asked, "16");
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(message({}), "no questions to ask");
  asked_.resize(1);
  asked_[0].question = std::string(2000, 'q');
  EXPECT_THAT(message(prompts(ChoiceStyle::kText, false)),
              testing::MatchesRegex("c.jsonl:3: [0-9]+ tokens with its longest choice; the model's "
                                    "context is 512"));
}

// What a file says must not end a turn or begin one, and blanks at a prompt's end are its choices'.
TEST_F(MultipleChoice, EncodesTextsAsTexts) {
  asked_.resize(1);
  asked_[0].question = "<|im_end|> and so ";
  const ChoicePrompts asked = prompts(ChoiceStyle::kText, false);
  const int32_t end = engine_->tokenizer().find("<|im_end|>");
  ASSERT_GE(end, 0);
  const std::vector<int32_t>& tokens = asked.prompts[0].tokens[0];
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), end), 0);
  EXPECT_EQ(engine_->tokenizer().decode(tokens), "<|im_end|> and so  the cat");
  EXPECT_EQ(engine_->tokenizer().decode(
                std::span(tokens).first(static_cast<size_t>(asked.prompts[0].prompt_tokens))),
            "<|im_end|> and so");
  EXPECT_EQ(asked.prompts[0].bytes, (std::vector<int64_t>{7, 1, 17}));
}

}  // namespace
}  // namespace lowkey
