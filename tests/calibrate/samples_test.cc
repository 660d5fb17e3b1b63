#include "calibrate/samples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace lowkey::calibrate {
namespace {

using testing::ElementsAre;

const std::vector<int32_t> kPrefix{7, 8};

TEST(Samples, BeginAfterThePrefix) {
  const Document document{"with", {7, 8, 20, 21, 22, 23}, {{3, 4}, {5, 6}}};
  const Sample sample = make_sample(document, kPrefix, LossKind::kLayers, 100);
  EXPECT_THAT(sample.tokens, ElementsAre(20, 21, 22, 23));
  EXPECT_THAT(sample.rows, ElementsAre(1, 3));
  const Sample without = make_sample({"", {7, 20, 21}, {{1, 3}}}, kPrefix, LossKind::kLayers, 100);
  EXPECT_THAT(without.tokens, ElementsAre(7, 20, 21));
  EXPECT_THAT(without.rows, ElementsAre(1, 2));
}

TEST(Samples, PredictionsAreMadeOneTokenEarlier) {
  const Document document{"with", {7, 8, 20, 21, 22, 23}, {{2, 6}}};
  for (const LossKind loss : {LossKind::kLogits, LossKind::kAnswers}) {
    const Sample sample = make_sample(document, kPrefix, loss, 100);
    EXPECT_THAT(sample.rows, ElementsAre(0, 1, 2));  // 20 is predicted within the prefix
    EXPECT_THAT(sample.next, ElementsAre(21, 22, 23));
  }
}

TEST(Samples, AreCut) {
  const Document document{"with", {7, 8, 20, 21, 22, 23}, {{3, 6}}};
  const Sample sample = make_sample(document, kPrefix, LossKind::kLayers, 2);
  EXPECT_THAT(sample.tokens, ElementsAre(20, 21));
  EXPECT_THAT(sample.rows, ElementsAre(1));
}

TEST(Samples, SomeAreHeldOut) {
  std::vector<Document> documents;
  for (int32_t i = 0; i < 20; ++i) documents.push_back({"", {100 + i, 1}, {{1, 2}}});
  documents.insert(documents.begin(), {"nothing scored", {1, 2}, {}});
  const Samples samples = make_samples(documents, kPrefix, LossKind::kLayers, 8, 8, 2);
  EXPECT_EQ(samples.train.size(), 8u);
  ASSERT_EQ(samples.heldout.size(), 2u);
  EXPECT_EQ(samples.heldout[0].tokens[0], 104);
  EXPECT_EQ(samples.heldout[1].tokens[0], 109);
  const Samples few =
      make_samples(std::span(documents).first(4), kPrefix, LossKind::kLayers, 8, 128, 16);
  EXPECT_EQ(few.train.size(), 2u);
  EXPECT_EQ(few.heldout.size(), 1u);
  EXPECT_THROW(make_samples(std::span(documents).first(2), kPrefix, LossKind::kLayers, 8, 128, 16),
               Error);
}

}  // namespace
}  // namespace lowkey::calibrate
