// A random life: sequences are born, grow in steps of any size, fork, set save points, go back,
// die. At every moment each has the state of its own tokens, and the pool holds what they account
// for.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <list>

#include "cache/kv_cache.h"
#include "cache/naive_cache.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

struct Life {
  KvSequence sequence;
  std::vector<Token> tokens;
};

class KvCacheLife : public testing::TestWithParam<const char*> {};

TEST_P(KvCacheLife, StatesStayThoseOfTheirTokens) {
  const KvShape shape{.num_layers = 2, .num_kv_heads = 1, .head_dim = 32};
  const ResolvedRecipe recipe = resolve(GetParam(), shape);
  const bool windowed = !recipe.shape.windows.empty();
  for (uint64_t seed = 0; seed < 6; ++seed) {
    SplitMix64 rng(seed);
    KvCache cache(recipe);
    std::list<Life> lives;
    for (int step = 0; step < 120; ++step) {
      SCOPED_TRACE(fmt::format("seed {} step {}", seed, step));
      if (lives.empty() || (lives.size() < 5 && rng.below(8) == 0))
        lives.push_back({cache.new_sequence(), {}});
      auto life = lives.begin();
      std::advance(life, static_cast<std::ptrdiff_t>(rng.below(lives.size())));
      switch (rng.below(10)) {
        case 0:
          if (lives.size() < 6) lives.push_back({life->sequence.fork(), life->tokens});
          break;
        case 1:
          life->sequence.save_point();
          if (rng.below(4) == 0) life->sequence.drop_save_points(rng.below(3));
          break;
        case 2: lives.erase(life); continue;
        case 3:
        case 4: {
          const auto wanted = static_cast<int64_t>(rng.below(life->tokens.size() + 1));
          const int64_t reached = life->sequence.nearest_restorable(wanted);
          ASSERT_LE(reached, wanted);
          ASSERT_EQ(life->sequence.truncate(wanted), reached == wanted);
          ASSERT_TRUE(life->sequence.truncate(reached));
          life->tokens.resize(static_cast<size_t>(reached));
          break;
        }
        default: {
          const size_t first = life->tokens.size();
          const size_t count = 1 + rng.below(rng.below(3) == 0 ? 90 : 6);
          for (size_t i = 0; i < count; ++i) life->tokens.push_back(random_token(rng, shape));
          append_tokens(life->sequence, recipe, life->tokens, first, life->tokens.size());
        }
      }
      if (step % 8 == 0) {
        for (const Life& each : lives)
          ASSERT_EQ(state_difference(each.sequence, recipe, each.tokens), "");
      } else {
        ASSERT_EQ(state_difference(life->sequence, recipe, life->tokens), "");
      }
      // Shared pages are counted once, so the sum over sequences bounds the pool from above; the
      // largest from below. (Save points may hold pages that their layers' windows left behind.)
      int64_t sum = 0, largest = 0;
      for (const Life& each : lives) {
        const KvBytes bytes = bytes_at(recipe, each.sequence.length());
        sum += bytes.total();
        largest = std::max(largest, bytes.pages);
      }
      const CacheUsage usage = cache.usage();
      if (!windowed) {
        ASSERT_LE(usage.in_use() - usage.save_point_bytes, sum);
      }
      ASSERT_GE(usage.page_bytes, largest);
      ASSERT_EQ(usage.window_bytes,
                static_cast<int64_t>(lives.size()) * bytes_at(recipe, 0).windows);
    }
    int64_t sum = 0;
    for (Life& each : lives) {
      each.sequence.drop_save_points(0);
      sum += bytes_at(recipe, each.sequence.length()).total();
    }
    ASSERT_LE(cache.usage().in_use(), sum) << "save points gave back what only they held";
    lives.clear();
    EXPECT_EQ(cache.usage().in_use(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Recipes, KvCacheLife,
                         testing::Values("16", "4", "8/2:r5+i3", "3:r16:block", "kivi-2:r32",
                                         "kivi-4:r32:block+i1", "16 w60,0", "4:r9 w1,130",
                                         "kivi-2:r32+i3 w40,200", "8/2:r64:block w100,20"),
                         [](const auto& p) { return "recipe" + std::to_string(p.index); });

}  // namespace
}  // namespace lowkey
