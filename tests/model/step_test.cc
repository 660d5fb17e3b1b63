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
    config_.layers.resize(2);
    config_.num_kv_heads = 1;
    config_.head_dim = 8;
    config_.vocab_size = 10;
    config_.max_context = 4;
    config_.rope.dim = 8;
  }

  std::string error_of(std::vector<StepItem> items, ErrorCode code) {
    try {
      StepRows rows;
      rows.assign(items, config_, RopeTables(config_));
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
  const RopeTables rope(config_);
  StepRows rows;
  rows.assign(items, config_, rope);
  EXPECT_EQ(rows.num_rows(), 6);
  EXPECT_THAT(rows.tokens(), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(rows.wanted_rows(), ElementsAre(2, 3, 4));
  const int64_t positions[] = {0, 1, 2, 1, 2, 0};
  for (int64_t row = 0; row < 6; ++row) {
    float cos[4], sin[4];
    rope.main.at(positions[row], cos, sin);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(rows.angles(RopeUse::kMain).cos_of(row)[i], cos[i]) << "row " << row;
      EXPECT_EQ(rows.angles(RopeUse::kMain).sin_of(row)[i], sin[i]) << "row " << row;
    }
  }

  rows.assign({}, config_, rope);  // nothing of the step before is left
  EXPECT_EQ(rows.num_rows(), 0);
  EXPECT_THAT(rows.wanted_rows(), IsEmpty());
}

TEST_F(StepRowsTest, HoldsTheAnglesOfTablesInUseAndRowsOfLearnedPositions) {
  KvSequence a = cache_.new_sequence();
  const std::vector<int32_t> tokens{1, 2, 3};
  const StepItem item{&a, tokens};
  StepRows rows;
  rows.assign({&item, 1}, config_, RopeTables(config_));
  EXPECT_EQ(rows.angles(RopeUse::kLocal).half_dim, 0);
  EXPECT_THAT(rows.position_rows(), IsEmpty());

  config_.layers[0].rope = RopeUse::kLocal;
  config_.layers[1].rope = RopeUse::kNone;
  config_.local_rope.dim = 4;
  config_.learned_positions = true;
  config_.position_offset = 2;
  const RopeTables tables(config_);
  rows.assign({&item, 1}, config_, tables);
  EXPECT_EQ(rows.angles(RopeUse::kMain).half_dim, 0);
  ASSERT_EQ(rows.angles(RopeUse::kLocal).half_dim, 2);
  float cos[2], sin[2];
  tables.local.at(2, cos, sin);
  EXPECT_EQ(rows.angles(RopeUse::kLocal).sin_of(2)[1], sin[1]);
  EXPECT_THAT(rows.position_rows(), ElementsAre(2, 3, 4));
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

TEST_F(StepRowsTest, RefusesACacheOfOtherWindows) {
  KvSequence a = cache_.new_sequence();
  const std::vector<int32_t> token{1};
  config_.layers[1].window = 3;
  EXPECT_EQ(error_of({{&a, token}}, ErrorCode::kInvalidArgument),
            "the cache was made for a window of 0 tokens in layer 1, the model's is 3 (0: none)");
}

}  // namespace
}  // namespace lowkey
