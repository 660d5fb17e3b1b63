// Caches whose sequences begin with a prefix made elsewhere.
#include <gtest/gtest.h>

#include "cache/kv_cache.h"
#include "cache/naive_cache.h"
#include "core/error.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

constexpr KvShape kShape{.num_layers = 2, .num_kv_heads = 2, .head_dim = 32};

struct Given {
  const char* recipe;
  size_t prefix;  // tokens of the prefix; the recipe may keep more exact
};

ResolvedRecipe recipe_of(const Given& given) {
  ResolvedRecipe recipe = resolve(given.recipe, kShape);
  recipe.intact_prefix = std::max(recipe.intact_prefix, static_cast<int32_t>(given.prefix));
  return recipe;
}

// Values that a prefix's f16 holds: so that they are the same in f32 rows.
std::vector<Token> f16_tokens(size_t count) {
  std::vector<Token> tokens = random_tokens(count, kShape);
  for (Token& token : tokens) {
    for (std::vector<float>* side : {&token.k, &token.v}) {
      for (float& x : *side) x = half_to_float(float_to_half(x));
    }
  }
  return tokens;
}

class KvCacheOfPrefix : public testing::TestWithParam<Given> {};

// Every length's state is that of the same tokens appended one by one, and costs the same.
TEST_P(KvCacheOfPrefix, HoldsWhatAppendingWouldHave) {
  const ResolvedRecipe recipe = recipe_of(GetParam());
  const std::vector<Token> tokens =
      f16_tokens(static_cast<size_t>(recipe.intact_prefix) + 2 * kPageTokens + 40);
  KvCache cache({recipe, prefix_of(tokens, GetParam().prefix, recipe.shape)});
  KvSequence sequence = cache.new_sequence();
  SplitMix64 rng(3);
  for (size_t length = GetParam().prefix; length < tokens.size();) {
    ASSERT_EQ(state_difference(sequence, recipe, first_of(tokens, length)), "");
    const KvBytes bytes = bytes_at(recipe, static_cast<int64_t>(length));
    const CacheUsage usage = cache.usage();
    ASSERT_EQ(usage.page_bytes, bytes.pages) << "length " << length;
    ASSERT_EQ(usage.window_bytes, bytes.windows);
    ASSERT_EQ(usage.prefix_bytes, bytes.prefix);
    const size_t next = std::min(tokens.size(), length + 1 + rng.below(30));
    append_tokens(sequence, recipe, tokens, length, next);
    length = next;
  }
  EXPECT_EQ(state_difference(sequence, recipe, tokens), "");
}

TEST_P(KvCacheOfPrefix, SequencesAndForksGoTheirOwnWays) {
  const ResolvedRecipe recipe = recipe_of(GetParam());
  const size_t P = GetParam().prefix;
  const size_t half = static_cast<size_t>(recipe.intact_prefix) + 70;
  const std::vector<Token> prefix = f16_tokens(P);
  KvCache cache({recipe, prefix_of(prefix, P, recipe.shape)});
  const auto text = [&](uint64_t seed) {
    std::vector<Token> tokens = prefix;
    for (Token& token : random_tokens(2 * half - P, kShape, seed)) tokens.push_back(token);
    return tokens;
  };
  std::vector<KvSequence> sequences;
  std::vector<std::vector<Token>> texts;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    sequences.push_back(cache.new_sequence());
    texts.push_back(text(seed));
    append_tokens(sequences.back(), recipe, texts.back(), P, half);
  }
  const bool shared = recipe.intact_prefix == static_cast<int32_t>(P);
  EXPECT_EQ(cache.usage().prefix_bytes, bytes_at(recipe, 1000).prefix * (shared ? 1 : 3));
  sequences.push_back(sequences[0].fork());
  texts.push_back(first_of(texts[0], half));
  texts.back().insert(texts.back().end(), texts[1].begin() + static_cast<std::ptrdiff_t>(half),
                      texts[1].end());
  for (size_t i = 0; i < sequences.size(); ++i) {
    append_tokens(sequences[i], recipe, texts[i], half, 2 * half);
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_EQ(state_difference(sequences[i], recipe, texts[i]), "") << i;
  }
}

TEST_P(KvCacheOfPrefix, NeverGetsShorterThanIt) {
  const ResolvedRecipe recipe = recipe_of(GetParam());
  const size_t P = GetParam().prefix;
  const auto length = static_cast<int64_t>(P);
  const std::vector<Token> tokens = f16_tokens(P + 20);
  KvCache cache({recipe, prefix_of(tokens, P, recipe.shape)});
  KvSequence sequence = cache.new_sequence();
  EXPECT_EQ(sequence.length(), length);
  EXPECT_EQ(sequence.nearest_restorable(0), length);
  sequence.save_point();
  append_tokens(sequence, recipe, tokens, P, P + 20);
  EXPECT_EQ(sequence.nearest_restorable(length - 1), length);
  EXPECT_FALSE(sequence.truncate(length - 1));
  EXPECT_FALSE(sequence.truncate(0));
  EXPECT_EQ(sequence.length(), length + 20);
  ASSERT_TRUE(sequence.truncate(length));
  EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, P)), "");
  append_tokens(sequence, recipe, tokens, P, P + 20);
  EXPECT_EQ(state_difference(sequence, recipe, tokens), "");
}

INSTANTIATE_TEST_SUITE_P(Recipes, KvCacheOfPrefix,
                         testing::Values(Given{"16", 1}, Given{"16", 130}, Given{"32", 24},
                                         Given{"4", 300}, Given{"kivi-2:r32", 24},
                                         Given{"0=32/16,1=kivi-2/16:r32", 129},
                                         Given{"4:r8+i3", 24}, Given{"kivi-2:r32+i40", 24},
                                         Given{"32/4:r5+i140", 24}, Given{"16 w50,0", 24},
                                         Given{"kivi-2:r32 w0,20", 24},
                                         Given{"3:r40:block+i30 w30,200", 7}),
                         [](const auto& p) { return "recipe" + std::to_string(p.index); });

// The very rows of the prefix, not a copy of them.
TEST(KvCachePrefix, LiesInMemoryOnce) {
  const ResolvedRecipe recipe = recipe_of({"kivi-2:r32", 24});
  const std::vector<Token> tokens = f16_tokens(30);
  const auto prefix = prefix_of(tokens, 24, kShape);
  KvCache cache({recipe, prefix});
  EXPECT_EQ(cache.prefix(), prefix);
  EXPECT_EQ(cache.usage().prefix_bytes, bytes_at(recipe, 24).prefix) << "before any sequence";
  KvSequence sequence = cache.new_sequence();
  AppendStage stage;
  const std::vector<float> row(64, 1.0f);
  const LayerView& view = sequence.append(1, row.data(), row.data(), 1, stage);
  EXPECT_EQ(view.position, 24);
  for (int32_t head : {0, 1}) {
    const HeadView& seen = view.heads[static_cast<size_t>(head)];
    EXPECT_EQ(static_cast<const void*>(seen.k.prefix.rows),
              prefix->k.data() + prefix->offset(1, head));
    EXPECT_EQ(static_cast<const void*>(seen.v.prefix.rows),
              prefix->v.data() + prefix->offset(1, head));
  }
  sequence.commit(1, stage);
}

TEST(KvCachePrefix, IsAskedForBeforeAnySequence) {
  const ResolvedRecipe recipe = recipe_of({"16", 24});
  const auto prefix = prefix_of(f16_tokens(24), 24, kShape);
  const int64_t bytes = bytes_at(recipe, 24).total();
  EXPECT_NO_THROW(KvCache({recipe, prefix}, bytes));
  EXPECT_THROW(KvCache({recipe, prefix}, bytes - 1), Error);
}

TEST(KvCachePrefix, IsTakenOffTextsThatBeginWithIt) {
  const CacheSpec spec(recipe_of({"16", 3}), prefix_of(f16_tokens(3), 3, kShape));  // ids 0, 1, 2
  EXPECT_EQ(spec.prefix_tokens(), 3);
  EXPECT_EQ(spec.taken_off(std::vector<int32_t>{0, 1, 2, 9}), 3u);
  EXPECT_EQ(spec.taken_off(std::vector<int32_t>{0, 1, 2}), 3u);
  EXPECT_EQ(spec.taken_off(std::vector<int32_t>{0, 1}), 0u);
  EXPECT_EQ(spec.taken_off(std::vector<int32_t>{0, 1, 3, 2}), 0u);
  EXPECT_EQ(CacheSpec(spec.recipe).taken_off(std::vector<int32_t>{0, 1, 2}), 0u);
}

}  // namespace
}  // namespace lowkey
