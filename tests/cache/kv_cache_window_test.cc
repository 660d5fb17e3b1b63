// Layers with a window: what is held, for how long, and what can be come back to.
#include <gtest/gtest.h>

#include "cache/kv_cache.h"
#include "cache/naive_cache.h"
#include "core/error.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

constexpr KvShape kOneHead{.num_layers = 2, .num_kv_heads = 1, .head_dim = 32};
constexpr int64_t kPage16 = 2 * 128 * 32 * 2;  // keys and values of 16 bits

// The layer with a window holds two pages at most, however long the sequence.
TEST(WindowedCache, PagesInUseStayBounded) {
  for (const char* text : {"16 w100,100", "4:r20 w100,100", "kivi-2:r32+i3 w100,100"}) {
    const ResolvedRecipe recipe = resolve(text, kOneHead);
    const int64_t page = page_bytes(recipe.layers[0].heads[0], kOneHead.head_dim);
    KvCache cache(recipe);
    KvSequence sequence = cache.new_sequence();
    SplitMix64 rng(1);
    std::vector<Token> tokens;
    while (tokens.size() < 20000) {
      const size_t first = tokens.size();
      const size_t n = 1 + rng.below(60);
      for (size_t i = 0; i < n; ++i) tokens.push_back(random_token(rng, kOneHead));
      append_tokens(sequence, recipe, tokens, first, tokens.size());
      ASSERT_LE(cache.usage().page_bytes, 2 * 2 * page) << tokens.size();
    }
    EXPECT_LE(cache.usage().reserved_bytes, int64_t{1} << 20)
        << "pages that came back go out again";
  }
}

// A step holds what its first query sees, whatever it brings itself; pages are numbered as ever.
TEST(WindowedCache, AStepSeesWhatItsFirstQueryNeeds) {
  const ResolvedRecipe recipe = resolve("16 w100,0", kOneHead);
  const std::vector<Token> tokens = random_tokens(1000, kOneHead);
  KvCache cache(recipe);
  KvSequence sequence = cache.new_sequence();
  append_tokens(sequence, recipe, tokens, 0, 400);
  AppendStage stage;
  std::vector<float> k(300 * 32, 1.0f), v(300 * 32, 1.0f);
  const LayerView& view = sequence.append(0, k.data(), v.data(), 300, stage);
  EXPECT_EQ(view.window, 100);
  EXPECT_EQ(view.first_seen(400), 301);
  EXPECT_EQ(view.first_seen(50), 0);
  const HeadView& head = view.heads[0];
  EXPECT_EQ(head.first_page, 2);
  EXPECT_EQ(head.num_pages, 4);
  EXPECT_FALSE(head.holds(1));
  EXPECT_TRUE(head.holds(5));
  EXPECT_FALSE(head.holds(6));
  const auto* row = reinterpret_cast<const Half*>(head.page(2) + (301 - 256) * 32 * 2);
  EXPECT_EQ(half_to_float(row[3]), half_to_float(float_to_half(tokens[301].k[3])));
  sequence.commit(0, stage);
  EXPECT_EQ(cache.usage().page_bytes, 2 * kPage16 + 4 * kPage16) << "pages 4 and 5, and layer 1's";
}

TEST(WindowedCache, TruncateSaysWherePagesAreGone) {
  const ResolvedRecipe recipe = resolve("16 w100,0", kOneHead);
  const std::vector<Token> tokens = random_tokens(600, kOneHead);
  KvCache cache(recipe);
  KvSequence sequence = cache.new_sequence();
  append_tokens(sequence, recipe, tokens, 0, 500);
  // At 500, page 3 (tokens 384 on) is the first held; at 483 and before, page 2 is needed too.
  EXPECT_EQ(sequence.nearest_restorable(499), 499);
  EXPECT_FALSE(sequence.truncate(482));
  EXPECT_EQ(sequence.nearest_restorable(482), 0);
  EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, 500)), "");
  ASSERT_TRUE(sequence.truncate(483));
  EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, 483)), "");
  append_tokens(sequence, recipe, tokens, 483, 600);
  EXPECT_EQ(state_difference(sequence, recipe, tokens), "");
  ASSERT_TRUE(sequence.truncate(0));
  EXPECT_EQ(cache.usage().page_bytes, 0);
}

TEST(WindowedCache, SavePointsKeepThePagesTheyComeBackTo) {
  for (const char* text : {"16 w100,0", "kivi-2:r32+i3 w150,40", "4:r9 w1,300"}) {
    SCOPED_TRACE(text);
    const ResolvedRecipe recipe = resolve(text, kOneHead);
    const std::vector<Token> tokens = random_tokens(1500, kOneHead);
    std::vector<Token> other = first_of(tokens, 450);
    for (Token& token : random_tokens(1000, kOneHead, 9)) other.push_back(token);
    KvCache cache(recipe);
    KvSequence sequence = cache.new_sequence();
    append_tokens(sequence, recipe, tokens, 0, 300);
    sequence.save_point();
    append_tokens(sequence, recipe, tokens, 300, 450);
    sequence.save_point();
    append_tokens(sequence, recipe, tokens, 450, 1500);
    KvSequence fork = sequence.fork();
    ASSERT_TRUE(sequence.truncate(450));
    EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, 450)), "");
    append_tokens(sequence, recipe, other, 450, other.size());
    EXPECT_EQ(state_difference(sequence, recipe, other), "");
    ASSERT_TRUE(sequence.truncate(450)) << "again";
    EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, 450)), "");
    ASSERT_TRUE(sequence.truncate(300));
    EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, 300)), "");
    EXPECT_EQ(state_difference(fork, recipe, tokens), "");
    ASSERT_TRUE(fork.truncate(300)) << "a fork has the save points too";
    EXPECT_EQ(state_difference(fork, recipe, first_of(tokens, 300)), "");
    append_tokens(fork, recipe, tokens, 300, 1500);
    EXPECT_EQ(state_difference(fork, recipe, tokens), "");
    fork.drop_save_points(0);
    sequence = cache.new_sequence();
    EXPECT_EQ(cache.usage().page_bytes, bytes_at(recipe, 1500).pages) << "nothing else is held";
  }
}

// What try_reserve() grants is there, in steps of any size; and it does not refuse what would fit
// with two pages to spare.
TEST(WindowedCache, ReservationsHold) {
  SplitMix64 rng(4);
  int granted = 0, refused = 0;
  for (int round = 0; round < 150; ++round) {
    const char* recipes[] = {"16 w100,0", "4:r9 w1,300", "kivi-2:r32+i3 w150,40", "16 w70,200"};
    const ResolvedRecipe recipe = resolve(recipes[rng.below(4)], kOneHead);
    const int64_t page = page_bytes(recipe.layers[0].heads[0], kOneHead.head_dim);
    const std::vector<Token> tokens = random_tokens(900, kOneHead, rng.next());
    const int64_t fixed = bytes_at(recipe, 0).total();
    const int64_t limit = 2 * fixed + page * static_cast<int64_t>(3 + rng.below(14));
    KvCache cache(recipe, limit);
    KvSequence sequence = cache.new_sequence();
    size_t length = 0;
    const auto grow = [&](size_t to) {
      while (length < to) {
        const size_t next = std::min(to, length + 1 + rng.below(rng.below(2) == 0 ? 10 : 900));
        append_tokens(sequence, recipe, tokens, length, next);
        length = next;
      }
    };
    while (length < tokens.size()) {
      const size_t more = 1 + rng.below(tokens.size() - length);
      if (!cache.try_reserve(sequence, static_cast<int64_t>(more))) {
        ++refused;
        break;
      }
      ++granted;
      ASSERT_NO_THROW(grow(length + more)) << recipe.label << " at " << length << " of " << more;
      ASSERT_EQ(state_difference(sequence, recipe, first_of(tokens, length)), "");
      if (rng.below(3) > 0 || cache.usage().in_use() + fixed > limit) continue;
      sequence.save_point();
    }
  }
  EXPECT_GT(granted, 100);
  EXPECT_GT(refused, 10);
}

// The pages of a save point stay when its layers' windows have moved on: they are not counted as
// free for what follows. Each grant is put to the test in steps of several sizes.
TEST(WindowedCache, ReservationsKnowWhatSavePointsKeep) {
  const ResolvedRecipe recipe = resolve("16 w100,100", kOneHead);
  const std::vector<Token> tokens = random_tokens(900, kOneHead);
  int64_t least[2] = {0, 0};  // pages with which it is granted
  for (const bool save : {false, true}) {
    for (int64_t pages = 4; pages < 24; ++pages) {
      bool granted = false;
      for (const size_t step : {1, 50, 600}) {
        KvCache cache(recipe, pages * kPage16);
        KvSequence sequence = cache.new_sequence();
        for (size_t t = 0; t < 300; t += 10) append_tokens(sequence, recipe, tokens, t, t + 10);
        if (save) sequence.save_point();
        granted = cache.try_reserve(sequence, 600);
        if (!granted) break;
        for (size_t t = 300; t < 900; t += step) {
          ASSERT_NO_THROW(append_tokens(sequence, recipe, tokens, t, t + step))
              << pages << " pages, steps of " << step << ", at " << t;
        }
      }
      if (granted && least[save] == 0) least[save] = pages;
    }
  }
  // A step of 600 tokens needs pages 1 to 7 of one layer, and two of the other.
  EXPECT_GE(least[0], 9);
  EXPECT_LE(least[0], 11);
  EXPECT_GE(least[1], least[0] + 2) << "of the layer that is through";
  EXPECT_LE(least[1], least[0] + 4);
}

TEST(WindowedCache, ReservationsAreNotShy) {
  const ResolvedRecipe recipe = resolve("16 w100,100", kOneHead);
  const std::vector<Token> tokens = random_tokens(300, kOneHead);
  // Two layers hold two pages each, and a step of 256 tokens two more in one layer.
  KvCache cache(recipe, 7 * kPage16);
  KvSequence sequence = cache.new_sequence();
  append_tokens(sequence, recipe, tokens, 0, 300);
  EXPECT_TRUE(cache.try_reserve(sequence, 128));
  EXPECT_FALSE(cache.try_reserve(sequence, 128 * 8));
}

// A full pool leaves the sequence as it was, behind the window too.
TEST(WindowedCache, AFullPoolLeavesTheSequenceAsItWas) {
  const ResolvedRecipe recipe = resolve("16 w100,100", kOneHead);
  const std::vector<Token> tokens = random_tokens(2000, kOneHead);
  KvCache cache(recipe, 8 * kPage16);
  KvSequence sequence = cache.new_sequence();
  append_tokens(sequence, recipe, tokens, 0, 500);
  const int64_t before = cache.usage().page_bytes;
  EXPECT_THROW(append_tokens(sequence, recipe, tokens, 500, 2000), Error);
  EXPECT_EQ(cache.usage().page_bytes, before);
  EXPECT_EQ(state_difference(sequence, recipe, first_of(tokens, 500)), "");
  for (size_t t = 500; t < 2000; ++t) append_tokens(sequence, recipe, tokens, t, t + 1);
  EXPECT_EQ(state_difference(sequence, recipe, tokens), "");
}

}  // namespace
}  // namespace lowkey
