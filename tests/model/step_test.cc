#include "model/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "recipe/recipe.h"

namespace lowkey {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class StepRowsTest : public ::testing::Test {
 protected:
  StepRowsTest() : cache_(resolve_recipe(parse_recipe("16"), {2, 1, 8})) {
    config_.num_layers = 2;
    config_.num_kv_heads = 1;
    config_.head_dim = 8;
    config_.vocab_size = 10;
    config_.max_context = 4;
    config_.rope.dim = 8;
  }

  std::string error_of(std::vector<StepItem> items, ErrorCode code) {
    try {
      StepRows rows;
      rows.assign(items, config_, RopeFrequencies(config_.rope));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      return error.what();
    }
    return "no error";
  }

  ModelConfig config_;
  KvCache cache_;
};

TEST_F(StepRowsTest, LaysItemsOutInOrder) {
  KvSequence a = cache_.new_sequence(), b = cache_.new_sequence(), c = cache_.new_sequence();
  // b already holds one token.
  AppendStage stage;
  const std::vector<float> zeros(8);
  for (int32_t layer = 0; layer < 2; ++layer) {
    b.append(layer, zeros.data(), zeros.data(), 1, stage);
    b.commit(layer, stage);
  }
  const std::vector<int32_t> first{1, 2, 3}, second{4, 5}, third{6};
  const std::vector<StepItem> items{{&a, first, RowsWanted::kLast},
                                    {&b, second, RowsWanted::kAll},
                                    {&c, third, RowsWanted::kNone}};
  const RopeFrequencies rope(config_.rope);
  StepRows rows;
  rows.assign(items, config_, rope);
  EXPECT_EQ(rows.num_rows(), 6);
  EXPECT_THAT(rows.tokens(), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(rows.wanted_rows(), ElementsAre(2, 3, 4));
  const int64_t positions[] = {0, 1, 2, 1, 2, 0};
  for (int64_t row = 0; row < 6; ++row) {
    float cos[4], sin[4];
    rope.at(positions[row], cos, sin);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(rows.cos(row)[i], cos[i]) << "row " << row;
      EXPECT_EQ(rows.sin(row)[i], sin[i]) << "row " << row;
    }
  }

  rows.assign({}, config_, rope);  // nothing of the step before is left
  EXPECT_EQ(rows.num_rows(), 0);
  EXPECT_THAT(rows.wanted_rows(), IsEmpty());
}

TEST_F(StepRowsTest, RefusesTokensOutsideTheVocabulary) {
  KvSequence a = cache_.new_sequence();
  for (int32_t token : {-1, 10, 1 << 30}) {
    const std::vector<int32_t> tokens{3, token};
    EXPECT_EQ(error_of({{&a, tokens}}, ErrorCode::kInvalidArgument),
              fmt::format("token id {}: the vocabulary has 0 to 9", token));
  }
}

TEST_F(StepRowsTest, RefusesNoTokens) {
  KvSequence a = cache_.new_sequence();
  EXPECT_EQ(error_of({{&a, {}}}, ErrorCode::kInvalidArgument), "a step without tokens");
}

TEST_F(StepRowsTest, RefusesTheSameSequenceTwice) {
  KvSequence a = cache_.new_sequence(), b = cache_.new_sequence();
  const std::vector<int32_t> token{1};
  EXPECT_EQ(error_of({{&a, token}, {&b, token}, {&a, token}}, ErrorCode::kInvalidArgument),
            "a sequence appears twice in one step");
}

TEST_F(StepRowsTest, RefusesToOutgrowTheContext) {
  KvSequence a = cache_.new_sequence();
  const std::vector<int32_t> fits{1, 2, 3, 4}, too_many{1, 2, 3, 4, 5};
  EXPECT_EQ(error_of({{&a, fits}}, ErrorCode::kResourceExhausted), "no error");
  EXPECT_EQ(error_of({{&a, too_many}}, ErrorCode::kResourceExhausted),
            "a sequence of 5 tokens: the model's context is 4");
}

TEST_F(StepRowsTest, RefusesACacheOfAnotherShape) {
  KvCache other(resolve_recipe(parse_recipe("16"), {3, 1, 8}));
  KvSequence a = other.new_sequence();
  const std::vector<int32_t> token{1};
  EXPECT_EQ(error_of({{&a, token}}, ErrorCode::kInvalidArgument),
            "the cache was made for 3 layers of 1 KV heads x 8, the model has 2 of 1 x 8");
}

}  // namespace
}  // namespace lowkey
