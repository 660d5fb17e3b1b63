#include "eval/scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "engine/engine.h"
#include "engine/make_prefix.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using testing::HasSubstr;

// Bit for bit.
void expect_same(const std::vector<PositionScore>& a, const std::vector<PositionScore>& b,
                 const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_TRUE(a[i].nll == b[i].nll && a[i].kl == b[i].kl && a[i].same_top == b[i].same_top)
        << what << ", position " << i;
  }
}

class ScorerTest : public testing::Test {
 protected:
  ScorerTest() : engine_(make_engine(2)) {}

  std::unique_ptr<Engine> make_engine(int threads) {
    const auto path = folder_.path() / "tiny.gguf";
    if (!std::filesystem::exists(path)) {
      test::TinyModel({.seed = 9, .layers = 4, .head_dim = 32}).write_gguf(path);
    }
    return std::make_unique<Engine>(
        path, EngineOptions{.weights = WeightStorage::kF32, .threads = threads}, ProgressFn{});
  }

  ResolvedRecipe recipe(const std::string& text) const {
    return resolve_recipe(parse_recipe(text), engine_->kv_shape());
  }

  static std::vector<Document> documents() {
    std::vector<Document> all;
    for (int d = 0; d < 3; ++d) {
      Document document;
      document.name = "document " + std::to_string(d);
      for (int i = 0; i < 150 + 20 * d; ++i) document.tokens.push_back((i * 53 + d * 7) % 250);
      document.scored = {{1, 40}, {60, 100 + 20 * d}};
      all.push_back(document);
    }
    return all;
  }

  test::TempDir folder_;
  std::unique_ptr<Engine> engine_;
};

// Straight from the model, one document at a time, nothing kept.
TEST_F(ScorerTest, ScoresAreThoseOfTheModel) {
  Model& model = engine_->model();
  Scorer scorer(model, documents(), engine_->pool());
  const std::string text = "kivi-2:r32+i1";
  const auto scores = scorer.score(recipe(text));
  const auto reference = scorer.reference();
  ASSERT_EQ(std::ssize(scores), scorer.scored_tokens());
  size_t at = 0;
  for (const Document& document : documents()) {
    std::vector<std::vector<float>> logits;
    for (const std::string& kv : {std::string("16"), text}) {
      KvCache cache(recipe(kv));
      KvSequence sequence = cache.new_sequence();
      const auto rows = std::ssize(document.tokens);
      std::vector<float> hidden(static_cast<size_t>(rows * model.config().hidden_size));
      prefill(model, sequence, document.tokens, RowsWanted::kAll, hidden.data(), {}, "");
      logits.emplace_back(static_cast<size_t>(rows * model.config().vocab_size));
      model.logits(hidden.data(), rows, logits.back().data());
    }
    const auto vocab = static_cast<size_t>(model.config().vocab_size);
    for (const TokenRange& range : document.scored) {
      for (int64_t target = range.first; target < range.last; ++target, ++at) {
        const size_t row = static_cast<size_t>(target - 1) * vocab;
        ReferencePrediction prediction;
        prediction.assign({logits[0].data() + row, vocab});
        const int32_t token = document.tokens[static_cast<size_t>(target)];
        const PositionScore expected = prediction.compare({logits[1].data() + row, vocab}, token);
        // Products of other numbers of rows differ in their last bits.
        ASSERT_NEAR(scores[at].kl, expected.kl, 1e-5) << document.name << ", " << target;
        ASSERT_NEAR(scores[at].nll, expected.nll, 1e-4);
        ASSERT_NEAR(reference[at].nll, prediction.nll(token), 1e-4);
        EXPECT_EQ(reference[at].kl, 0);
      }
    }
  }
  EXPECT_EQ(at, scores.size());
}

TEST_F(ScorerTest, StartingBehindExactLayersChangesNoBit) {
  Scorer keeps(engine_->model(), documents(), engine_->pool());
  Scorer does_not(engine_->model(), documents(), engine_->pool(), {.keep_residuals = false});
  for (const char* text : {"3=kivi-2:r32,*=16", "1-2=2,*=16", "0=kivi-2:r32,*=16+i1", "16", "8"}) {
    expect_same(keeps.score(recipe(text)), does_not.score(recipe(text)), text);
  }
}

// A document that begins with the prefix, and one that gets it: both as if a recipe that keeps as
// many tokens exact had read it itself.
TEST_F(ScorerTest, DocumentsBehindAPrefix) {
  constexpr int32_t kPrefix = 24;
  std::vector<Document> whole = documents();
  for (Document& document : whole) {
    std::copy_n(whole[0].tokens.begin(), kPrefix, document.tokens.begin());
    document.scored = {{kPrefix, 40}, {60, 100}};
  }
  std::vector<Document> without = whole;
  for (Document& document : without) {
    document.tokens.erase(document.tokens.begin(), document.tokens.begin() + kPrefix);
    document.scored = {{1, 16}, {36, 76}};
  }
  const auto prefix =
      make_prefix(engine_->model(), engine_->file(), std::span(whole[0].tokens).first(kPrefix))
          .prefix;
  Scorer matched(engine_->model(), whole, engine_->pool());
  Scorer prepended(engine_->model(), without, engine_->pool());
  for (const std::string text : {"16", "0-1=16,*=kivi-2:r32"}) {
    const CacheSpec spec(resolve_recipe(parse_recipe(text), engine_->kv_shape(), kPrefix), prefix);
    const auto expected = matched.score(recipe(text + "+i24"));
    const auto a = matched.score(spec);
    const auto b = prepended.score(spec);
    ASSERT_EQ(a.size(), expected.size());
    // Of each document the first prediction is the prefix's own; what follows token 24 comes next.
    // Products of other numbers of rows differ in their last bits, and codes with them.
    size_t other = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      ASSERT_NEAR(a[i].nll, expected[i].nll, 1e-3) << text << " " << i;
      if (i % 56 == 0) continue;
      ASSERT_NEAR(b[other++].nll, expected[i].nll, 1e-3) << text << " " << i;
    }
    EXPECT_EQ(other, b.size());
  }
  Scorer inside(engine_->model(), {{"notes", whole[0].tokens, {{kPrefix - 1, 40}}}},
                engine_->pool());
  Scorer long_one(engine_->model(), {{"book", std::vector<int32_t>(489, 1), {{1, 40}}}},
                  engine_->pool());
  for (const auto& [scorer, message] :
       {std::pair<Scorer*, const char*>{&inside, "notes: token 23 is scored"},
        {&long_one, "book: 513 tokens with the prefix before it"}}) {
    try {
      scorer->score({recipe("16+i24"), prefix});
      FAIL();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(message));
    }
  }
}

TEST_F(ScorerTest, WhatIsKeptChangesNoBit) {
  Scorer all(engine_->model(), documents(), engine_->pool());
  const auto expected = all.score(recipe("kivi-2:r32"));
  for (int64_t bytes : {0, 200000, 600000}) {
    Scorer some(engine_->model(), documents(), engine_->pool(), {.keep_bytes = bytes});
    const std::string what = std::to_string(bytes) + " bytes kept";
    expect_same(some.score(recipe("kivi-2:r32")), expected, what);
    expect_same(some.reference(), all.reference(), what);
  }
}

TEST_F(ScorerTest, ThreadsChangeNoBit) {
  Scorer two(engine_->model(), documents(), engine_->pool());
  const auto expected = two.score(recipe("kivi-4/2:r32"));
  for (int threads : {1, 3}) {
    const auto engine = make_engine(threads);
    Scorer scorer(engine->model(), documents(), engine->pool());
    expect_same(scorer.score(recipe("kivi-4/2:r32")), expected,
                std::to_string(threads) + " threads");
  }
}

TEST_F(ScorerTest, RefusesDocumentsThatMakeNoSense) {
  const auto error_of = [&](Document document) -> std::string {
    document.name = "notes";
    try {
      Scorer(engine_->model(), {document}, engine_->pool());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(error_of({"", {1}, {}}), HasSubstr("notes: 1 tokens"));
  EXPECT_THAT(error_of({"", std::vector<int32_t>(600, 1), {}}), HasSubstr("the model's 512"));
  EXPECT_THAT(error_of({"", {1, 2, 3}, {{0, 2}}}), HasSubstr("scored tokens 0 to 2"));
  EXPECT_THAT(error_of({"", {1, 2, 3}, {{1, 4}}}), HasSubstr("scored tokens 1 to 4"));
  EXPECT_THAT(error_of({"", {1, 2, 3}, {{2, 3}, {1, 2}}}), HasSubstr("out of order"));
}

TEST(WindowDocuments, AreWholeAndDisjoint) {
  std::vector<int32_t> tokens(35);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i);
  const auto all = window_documents(tokens, 10, 0, "text");
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[2].tokens[0], 20);
  EXPECT_EQ(all[1].scored, (std::vector<TokenRange>{{1, 10}}));
  EXPECT_EQ(window_documents(tokens, 10, 2, "text").size(), 2u);
  EXPECT_TRUE(window_documents(tokens, 40, 0, "text").empty());
}

}  // namespace
}  // namespace lowkey
