#include "cache/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cache/naive_cache.h"
#include "core/error.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

constexpr KvShape kSmall{.num_layers = 2, .num_kv_heads = 2, .head_dim = 32};

class KvCacheOfRecipe : public testing::TestWithParam<const char*> {};

// Token by token, the state is the closed form's for every length up to three windows and more, bit
// for bit, and costs what the recipe's arithmetic says, as allocated.
TEST_P(KvCacheOfRecipe, StateAndBytesFollowTheClosedFormAtEveryLength) {
  const ResolvedRecipe recipe = resolve(GetParam(), kSmall);
  int64_t longest = 40;
  for (int32_t l = 0; l < recipe.shape.num_layers; ++l) {
    const int64_t R = recipe.layers[static_cast<size_t>(l)].residual_length;
    longest = std::max(longest, R * 3 + 5);
    const int64_t window = recipe.shape.window(l);
    if (window > 0) longest = std::max(longest, 3 * window + R + 2 * kPageTokens);
  }
  const std::vector<Token> tokens =
      random_tokens(static_cast<size_t>(longest + recipe.intact_prefix), kSmall);
  KvCache cache(recipe);
  KvSequence sequence = cache.new_sequence();
  for (size_t length = 0; length <= tokens.size(); ++length) {
    ASSERT_EQ(state_difference(sequence, recipe, first_of(tokens, length)), "");
    const KvBytes bytes = bytes_at(recipe, static_cast<int64_t>(length));
    const CacheUsage usage = cache.usage();
    ASSERT_EQ(usage.page_bytes, bytes.pages) << "length " << length;
    ASSERT_EQ(usage.window_bytes, bytes.windows);
    ASSERT_EQ(usage.prefix_bytes, bytes.prefix);
    ASSERT_EQ(usage.in_use(), bytes.total());
    if (length < tokens.size()) append_tokens(sequence, recipe, tokens, length, length + 1);
  }
}

TEST_P(KvCacheOfRecipe, ChunkingDoesNotShowInTheState) {
  const ResolvedRecipe recipe = resolve(GetParam(), kSmall);
  const std::vector<Token> tokens = random_tokens(300, kSmall);
  SplitMix64 rng(11);
  for (int round = 0; round < 4; ++round) {
    KvCache cache(recipe);
    KvSequence sequence = cache.new_sequence();
    size_t length = 0;
    while (length < tokens.size()) {
      const size_t chunk = round == 0 ? tokens.size() : 1 + rng.below(round == 1 ? 200 : 40);
      const size_t next = std::min(tokens.size(), length + chunk);
      append_tokens(sequence, recipe, tokens, length, next);
      length = next;
    }
    ASSERT_EQ(state_difference(sequence, recipe, tokens), "") << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(Recipes, KvCacheOfRecipe,
                         testing::Values("16", "32", "8", "4", "3", "2", "8/4", "16/2", "4:g32:r5",
                                         "8/4:r32", "4:r7:block", "kivi-2:g32:r32",
                                         "kivi-4:r64:g32", "0=16,1=kivi-2:r32+i3", "4/2:r1+i1",
                                         "kivi-2:r32+i40", "32+i2", "16 w50,0", "32+i2 w1,128",
                                         "4 w100,129", "4:r9 w0,64", "3:r40:block w30,200",
                                         "kivi-2:r32 w1,70", "kivi-4:r64:g32+i3 w40,256",
                                         "8/4:r160+i5 w33,140", "16/2:r32+i140 w20,100",
                                         "kivi-2:r32:block w128,31"),
                         [](const auto& p) { return "recipe" + std::to_string(p.index); });

TEST(KvCache, HeadsMayDiffer) {
  KvRecipe parsed = parse_recipe("4:r3");
  HeadRecipe other{.k = {.bits = 2}, .v = {.bits = 16}};
  parsed.rules[0].layer.heads[1] = other;
  const ResolvedRecipe recipe = resolve_recipe(parsed, kSmall);
  const std::vector<Token> tokens = random_tokens(150, kSmall);
  KvCache cache(recipe);
  KvSequence sequence = cache.new_sequence();
  append_tokens(sequence, recipe, tokens, 0, 149);
  append_tokens(sequence, recipe, tokens, 149, 150);
  EXPECT_EQ(state_difference(sequence, recipe, tokens), "");
  EXPECT_EQ(cache.usage().in_use(), bytes_at(recipe, 150).total());
}

TEST(KvCache, ForksSharePagesAndDivergeIndependently) {
  const ResolvedRecipe recipe =
      resolve("kivi-2:r32+i2", {.num_layers = 1, .num_kv_heads = 1, .head_dim = 32});
  const std::vector<Token> left = random_tokens(400, recipe.shape, 1);
  std::vector<Token> right = first_of(left, 200);
  for (Token& token : random_tokens(200, recipe.shape, 2)) right.push_back(token);

  KvCache cache(recipe);
  KvSequence a = cache.new_sequence();
  append_tokens(a, recipe, left, 0, 200);
  const int64_t pages = cache.usage().page_bytes;
  KvSequence b = a.fork();
  EXPECT_EQ(cache.usage().page_bytes, pages) << "a fork copies no page";
  EXPECT_EQ(cache.usage().prefix_bytes, bytes_at(recipe, 200).prefix)
      << "the prefix is shared by reference";

  append_tokens(b, recipe, right, 200, 400);
  append_tokens(a, recipe, left, 200, 400);
  EXPECT_EQ(state_difference(a, recipe, left), "");
  EXPECT_EQ(state_difference(b, recipe, right), "");
  // 198 tokens after the prefix: 192 packed keys fill one page of the two; only the open one was
  // copied.
  EXPECT_EQ(cache.usage().page_bytes, 2 * bytes_at(recipe, 400).pages - pages / 2);
}

TEST(KvCache, FreedSequencesGiveEverythingBack) {
  const ResolvedRecipe recipe = resolve("4:r8+i4", kSmall);
  KvCache cache(recipe);
  {
    KvSequence a = cache.new_sequence();
    append_tokens(a, recipe, random_tokens(200, kSmall), 0, 200);
    a.save_point();
    KvSequence b = a.fork();
    EXPECT_GT(cache.usage().in_use(), 0);
  }
  EXPECT_EQ(cache.usage().in_use(), 0);
}

TEST(KvCache, TruncateGoesBackWhereNothingWasForgotten) {
  struct Row {
    const char* recipe;
    int64_t from, to;
    bool possible;
  };
  // Sliding windows forget with every token beyond R; block windows at multiples of R; R = 0 and 16
  // bits never.
  const Row rows[] = {
      {"16", 100, 7, true},
      {"4", 100, 7, true},
      {"4:r8", 100, 99, false},
      {"4:r8", 8, 3, true},
      {"4:r8:block", 100, 96, true},
      {"4:r8:block", 100, 99, true},
      {"4:r8:block", 100, 95, false},
      {"4:r8:block", 100, 88, true},
      {"kivi-2:r32", 31, 5, true},
      {"kivi-2:r32", 33, 32, false},
      {"kivi-2:r32:block", 95, 70, true},
      {"kivi-2:r32:block", 96, 70, false},
      {"kivi-2:r32:block", 96, 64, true},
      {"kivi-2:r32+i5", 90, 5, true},
      {"kivi-2:r32+i5", 90, 3, true},
      {"4:r8", 100, 0, true},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(fmt::format("{} from {} to {}", row.recipe, row.from, row.to));
    const ResolvedRecipe recipe = resolve(row.recipe, kSmall);
    const std::vector<Token> tokens = random_tokens(static_cast<size_t>(row.from), kSmall);
    KvCache cache(recipe);
    KvSequence sequence = cache.new_sequence();
    append_tokens(sequence, recipe, tokens, 0, tokens.size());
    EXPECT_EQ(sequence.nearest_restorable(row.to) == row.to, row.possible);
    ASSERT_EQ(sequence.truncate(row.to), row.possible);
    const auto length = static_cast<size_t>(row.possible ? row.to : row.from);
    EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, length)), "");
    EXPECT_EQ(cache.usage().in_use(), bytes_at(recipe, static_cast<int64_t>(length)).total());
    // Life goes on with other tokens.
    std::vector<Token> other = first_of(tokens, length);
    for (Token& token : random_tokens(70, kSmall, 99)) other.push_back(token);
    append_tokens(sequence, recipe, other, length, other.size());
    EXPECT_EQ(state_difference(sequence, recipe, other), "");
  }
}

TEST(KvCache, SavePointsBringBackWhatPackingForgot) {
  const ResolvedRecipe recipe = resolve("4:r8", kSmall);
  const std::vector<Token> tokens = random_tokens(120, kSmall);
  KvCache cache(recipe);
  KvSequence sequence = cache.new_sequence();
  append_tokens(sequence, recipe, tokens, 0, 50);
  sequence.save_point();
  sequence.save_point();  // twice is once
  EXPECT_EQ(cache.usage().save_point_bytes, cache.usage().window_bytes);
  append_tokens(sequence, recipe, tokens, 50, 120);
  EXPECT_EQ(sequence.nearest_restorable(119), 50);
  EXPECT_FALSE(sequence.truncate(60));
  KvSequence fork = sequence.fork();
  ASSERT_TRUE(sequence.truncate(50));
  EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, 50)), "");
  ASSERT_TRUE(sequence.truncate(50)) << "the save point is still there";
  EXPECT_EQ(state_difference(fork, recipe, tokens), "") << "the fork did not notice";
  ASSERT_TRUE(fork.truncate(50)) << "a fork has the save points too";
  EXPECT_EQ(state_difference(fork, recipe, first_of(tokens, 50)), "");
  append_tokens(fork, recipe, tokens, 50, 90);
  fork.save_point();
  fork.drop_save_points(1);
  append_tokens(fork, recipe, tokens, 90, 120);
  EXPECT_EQ(fork.nearest_restorable(119), 90);
  EXPECT_FALSE(fork.truncate(50));
}

TEST(KvCache, NumbersThatCannotBeStoredAreNamed) {
  const ResolvedRecipe recipe = resolve("4:r8", kSmall);
  struct Row {
    float value;
    bool key;
    const char* says;
  };
  const Row rows[] = {
      {NAN, true, "layer 1, position 3, head 1: K holds nan"},
      {INFINITY, false, "layer 1, position 3, head 1: V holds inf"},
      {7e4f, true,
       "layer 1, position 3, head 1: K value 70000 is beyond f16's 65504; store this layer with 32 "
       "bits"},
  };
  for (const Row& row : rows) {
    KvCache cache(recipe);
    KvSequence sequence = cache.new_sequence();
    std::vector<Token> tokens = random_tokens(3, kSmall);
    append_tokens(sequence, recipe, tokens, 0, 3);
    AppendStage stage;
    std::vector<float> k(64, 1.0f), v(64, 1.0f);
    sequence.append(0, k.data(), v.data(), 1, stage);
    sequence.commit(0, stage);
    (row.key ? k : v)[33] = row.value;
    try {
      sequence.append(1, k.data(), v.data(), 1, stage);
      FAIL() << row.says;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNumeric);
      EXPECT_STREQ(error.what(), row.says);
    }
    EXPECT_EQ(sequence.length(), 3);
    ASSERT_TRUE(sequence.truncate(3)) << "layer 0 is taken back";
    EXPECT_EQ(state_difference(sequence, recipe, tokens), "");
  }
}

// Many tokens are shared out over a pool's threads: the same bytes, the same errors.
TEST(KvCache, ThreadsStoreWhatOneDoes) {
  for (const char* text : {"16", "4:r8", "kivi-2:r32+i3"}) {
    const ResolvedRecipe recipe =
        resolve(text, {.num_layers = 1, .num_kv_heads = 3, .head_dim = 32});
    KvCache cache(recipe);
    KvSequence alone = cache.new_sequence(), shared = cache.new_sequence();
    ThreadPool pool(3);
    SplitMix64 rng(6);
    for (int64_t n : {70, 5, 200}) {
      std::vector<float> k(static_cast<size_t>(n * 96)), v(k.size());
      for (float& x : k) x = static_cast<float>(rng.uniform());
      for (float& x : v) x = static_cast<float>(rng.uniform());
      AppendStage stage;
      alone.append(0, k.data(), v.data(), n, stage);
      alone.commit(0, stage);
      shared.append(0, k.data(), v.data(), n, stage, &pool);
      shared.commit(0, stage);
      v[static_cast<size_t>((n - 1) * 96 + 40)] = NAN;
      EXPECT_THROW(shared.append(0, k.data(), v.data(), n, stage, &pool), Error);
    }
    for (int32_t head = 0; head < 3; ++head) {
      for (Side side : {Side::kKey, Side::kValue}) {
        EXPECT_EQ(shared.state_bytes(0, head, side), alone.state_bytes(0, head, side)) << text;
      }
    }
  }
}

TEST(KvCache, LargestHalfIsStillExact) {
  const ResolvedRecipe recipe = resolve("16", {.num_layers = 1, .num_kv_heads = 1, .head_dim = 8});
  KvCache cache(recipe);
  KvSequence sequence = cache.new_sequence();
  AppendStage stage;
  std::vector<float> k(8, 65504.0f), v(8, 65519.0f);
  EXPECT_NO_THROW(sequence.append(0, k.data(), v.data(), 1, stage));
  v[0] = 65520.0f;
  EXPECT_THROW(sequence.append(0, k.data(), v.data(), 1, stage), Error);
}

TEST(KvCache, AFullPoolLeavesTheSequenceAsItWas) {
  const ResolvedRecipe recipe = resolve("4", kSmall);
  const std::vector<Token> tokens = random_tokens(300, kSmall);
  KvCache cache(recipe, bytes_at(recipe, 200).total());
  KvSequence sequence = cache.new_sequence();
  append_tokens(sequence, recipe, tokens, 0, 200);
  EXPECT_TRUE(cache.try_reserve(sequence, 56));
  EXPECT_FALSE(cache.try_reserve(sequence, 57));
  EXPECT_THROW(append_tokens(sequence, recipe, tokens, 200, 300), Error);
  EXPECT_EQ(cache.usage().in_use(), bytes_at(recipe, 200).total());
  EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, 200)), "");
  append_tokens(sequence, recipe, tokens, 200, 256);
  EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, 256)), "");
}

TEST(LayerView, StoredForIsTheClosedFormOfTheTokensBefore) {
  const ResolvedRecipe recipe =
      resolve("kivi-2:r32+i2", {.num_layers = 1, .num_kv_heads = 1, .head_dim = 32});
  KvCache cache(recipe);
  KvSequence sequence = cache.new_sequence();
  const std::vector<Token> tokens = random_tokens(150, recipe.shape);
  AppendStage stage;
  std::vector<float> k, v;
  for (const Token& token : tokens) {
    k.insert(k.end(), token.k.begin(), token.k.end());
    v.insert(v.end(), token.v.begin(), token.v.end());
  }
  const LayerView& view = sequence.append(0, k.data(), v.data(), 150, stage);
  for (int64_t t = 0; t < 150; ++t) {
    const int64_t before = std::max<int64_t>(0, t - 2);
    EXPECT_EQ(view.stored_for(view.heads[0].k, t), before / 32 * 32);
    EXPECT_EQ(view.stored_for(view.heads[0].v, t), std::max<int64_t>(0, before - 32));
  }
}

}  // namespace
}  // namespace lowkey
