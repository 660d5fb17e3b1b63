#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>

#include "core/error.h"
#include "core/files.h"
#include "engine/engine.h"
#include "eval/chat_prefix.h"
#include "eval/scorer.h"
#include "probe/pivot_study.h"
#include "probe/prefix_error.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using testing::ElementsAre;

constexpr int32_t kBos = 3;

class PivotsTest : public testing::Test {
 protected:
  // A tiny model in which token `massive` has one huge channel from the embedding on.
  std::unique_ptr<Engine> load(const std::string& name, int32_t massive, float noise = 0) {
    test::TinyModel model({.seed = 9, .layers = 3, .head_dim = 32});
    test::GgufWriter writer = model.gguf();
    for (test::GgufWriter::Tensor& tensor : writer.tensors) {
      auto* values = reinterpret_cast<float*>(tensor.data.data());
      if (tensor.name == "token_embd.weight" && massive >= 0) values[massive * 64 + 5] = 2000;
      if (tensor.name.find("blk.") == 0 && noise > 0) {
        for (size_t i = 0; i < tensor.data.size() / 4; ++i) {
          values[i] *= 1 + noise * static_cast<float>(std::sin(static_cast<double>(i)));
        }
      }
    }
    writer.write(folder_ / name);
    return std::make_unique<Engine>(
        folder_ / name, EngineOptions{.weights = WeightStorage::kF32, .threads = 2}, ProgressFn{});
  }

  static std::vector<Document> documents(int count, int64_t length) {
    std::vector<Document> all;
    for (int d = 0; d < count; ++d) {
      Document document{"text", {kBos}, {}};
      for (int64_t i = 1; i < length; ++i) {
        document.tokens.push_back(static_cast<int32_t>(10 + (i * 37 + d * 11) % 200));
      }
      all.push_back(document);
    }
    return all;
  }

  test::TempDir folder_;
};

TEST_F(PivotsTest, FindsMassiveTokensAndRecommendsWhatCoversThem) {
  const auto engine = load("a.gguf", kBos);
  std::vector<Document> texts = documents(3, 100);
  texts[1].tokens[40] = kBos;  // one text's own: no prefix is for that
  const PivotStudy study = study_pivots(engine->model(), texts, engine->pool(), {});
  ASSERT_EQ(study.documents.size(), 3u);
  for (size_t d = 0; d < 3; ++d) {
    std::vector<int64_t> massive;
    for (const PivotToken& token : study.documents[d].found) {
      if (token.massive) massive.push_back(token.position);
    }
    EXPECT_EQ(massive, d == 1 ? (std::vector<int64_t>{0, 40}) : (std::vector<int64_t>{0})) << d;
  }
  const PivotToken& bos = study.documents[0].found[0];
  EXPECT_EQ(bos.token, kBos);
  EXPECT_EQ(bos.channels[0], 5);
  EXPECT_EQ(bos.first_layer, 0);
  EXPECT_EQ(bos.last_layer, 3);
  EXPECT_NEAR(bos.magnitude, 2000, 50);
  EXPECT_LT(bos.typical, 20);
  EXPECT_EQ(study.prefix, 1);
  // Attention is what it is: the share lies between nothing and all, and what is summed agrees.
  for (const double share : study.documents[0].pivot_attention) {
    EXPECT_GE(share, 0);
    EXPECT_LE(share, 1);
  }
  const auto plain = load("b.gguf", -1);
  EXPECT_EQ(study_pivots(plain->model(), texts, plain->pool(), {}).prefix, 0);
}

TEST_F(PivotsTest, AttentionIsTheSoftmaxOfDistantQueries) {
  // A single query is distant enough for none; with kSinkDistance = 16 a text of 40 tokens has
  // 40 - t - 16 queries for token t. Even attention would give each its share: their sum over
  // tokens, weighted by queries, can be at most the number of queries.
  const auto engine = load("a.gguf", kBos);
  const PivotStudy study = study_pivots(engine->model(), documents(1, 64), engine->pool(), {});
  const PivotToken& bos = study.documents[0].found.at(0);
  double mean = 0;
  for (const double share : study.documents[0].pivot_attention) mean += share / 3;
  EXPECT_NEAR(bos.attention, mean, 1e-12);
  EXPECT_GE(bos.attention_peak, bos.attention);
  EXPECT_EQ(study.documents[0].pivot_attention[static_cast<size_t>(bos.attention_layer)],
            bos.attention_peak);
}

TEST(RecommendedPrefix, CoversWhatMostDocumentsHaveInMostLayers) {
  const auto with = [](std::vector<int64_t> positions) {
    PivotDocument document;
    document.pivot_attention.assign(12, 0.5);
    for (const int64_t position : positions) {
      PivotToken token;
      token.position = position;
      token.massive = true;
      token.first_layer = 2;
      token.last_layer = 11;
      document.found.push_back(token);
    }
    return document;
  };
  const auto rule = [](std::vector<PivotDocument> documents) {
    return recommended_prefix(documents);
  };
  EXPECT_EQ(rule({with({0, 12}), with({0, 12}), with({0, 30})}), 13);
  EXPECT_EQ(rule({with({0, 12}), with({0, 30})}), 1);  // half are not most
  EXPECT_EQ(rule({with({}), with({})}), 0);
  PivotDocument sink = with({4});
  sink.found[0].massive = false;
  EXPECT_EQ(rule({sink}), 0);
  PivotDocument passing = with({0, 12});
  passing.found[1].last_layer = 6;  // 5 layers of 12
  EXPECT_EQ(rule({passing}), 1);
  passing.found[1].last_layer = 7;
  EXPECT_EQ(rule({passing}), 13);
}

TEST_F(PivotsTest, ExactPrefixesComeCloserToTheExactModel) {
  EXPECT_THAT(prefix_lengths(32), ElementsAre(0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32));
  EXPECT_THAT(prefix_lengths(5), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(prefix_lengths(1), ElementsAre(0, 1));
  const auto exact = load("a.gguf", kBos);
  const std::vector<Document> texts = documents(2, 60);
  const std::vector<int64_t> lengths = {0, 1, 16, 32};
  // The model itself: nothing to be wrong but the f16 of a cache, whoever made its prefix.
  for (const PrefixError& error : prefix_errors(*exact, *exact, texts, lengths, {})) {
    EXPECT_LT(error.hidden, 1e-6) << error.length;
    EXPECT_LT(error.kl, 1e-6) << error.length;
  }
  EXPECT_THROW(prefix_errors(*exact, *exact, documents(1, 32), lengths, {}),
               Error);  // nothing behind it
  const auto other = load("b.gguf", kBos, 0.2F);
  EXPECT_THROW(prefix_errors(*exact, *other, texts, lengths, {}), Error);  // another model
}

// The figure that IntactKV starts from.
TEST(Pivots, OfSmolLm2IsItsFirstToken) {
  const auto model = test::real_model();
  const auto file = test::shared_data("wikitext2/wiki.test.raw");
  if (!model || !file) GTEST_SKIP() << "needs SmolLM2 and wikitext2/wiki.test.raw";
  Engine engine(*model, {.weights = WeightStorage::kF32}, {});
  std::string text = read_file(*file);
  text.resize(text.rfind('\n', 6000));
  const auto tokens = engine.tokenizer().encode(text, SpecialTokens::kIgnore, false);
  std::vector<Document> texts = window_documents(tokens, 200, 2, "text");
  for (Document& one : texts) one.tokens[0] = 1;
  const PivotStudy study = study_pivots(engine.model(), texts, engine.pool(), {});
  EXPECT_EQ(study.prefix, 1);
  const PivotToken& first = study.documents[0].found.at(0);
  EXPECT_EQ(first.position, 0);
  EXPECT_GT(first.magnitude, 20000);
  EXPECT_LT(first.typical, 200);
  EXPECT_GT(first.attention_peak, 0.5);
}

}  // namespace
}  // namespace lowkey
