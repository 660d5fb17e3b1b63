// Conversations on a cache that begins with an intact prefix.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "engine/make_prefix.h"
#include "engine/session.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

constexpr size_t kPrefix = 24;

std::vector<int32_t> text(size_t first, size_t count) {
  std::vector<int32_t> ids;
  for (size_t i = first; i < first + count; ++i) {
    ids.push_back(static_cast<int32_t>((i * 37 + 11) % 250));
  }
  return ids;
}

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

GenerateOptions greedy(int64_t max_tokens) {
  GenerateOptions options;
  options.sampling.temperature = 0;
  options.max_tokens = max_tokens;
  return options;
}

class SessionPrefixTest : public testing::Test {
 protected:
  SessionPrefixTest() {
    test::TinyModel({.seed = 5, .layers = 2, .head_dim = 32, .max_context = 256})
        .write_gguf(folder_ / "tiny.gguf");
    engine_ = std::make_unique<Engine>(folder_ / "tiny.gguf",
                                       EngineOptions{.weights = WeightStorage::kF32, .threads = 2},
                                       ProgressFn{});
    prefix_ = make_prefix(engine_->model(), engine_->file(), text(0, kPrefix)).prefix;
  }

  CacheSpec spec(const std::string& recipe, int64_t tokens = kPrefix) const {
    return {resolve_recipe(parse_recipe(recipe), engine_->kv_shape(), tokens),
            tokens > 0 ? prefix_ : nullptr};
  }

  test::TempDir folder_;
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<const IntactPrefix> prefix_;
};

// As if the same recipe had kept as many tokens exact and read the prefix itself.
TEST_F(SessionPrefixTest, MatchedOrPrependedTheAnswerIsTheSame) {
  for (const char* recipe : {"16", "4:r8", "kivi-2:r32", "kivi-2:r32+i40"}) {
    SCOPED_TRACE(recipe);
    const std::string exact =
        std::string(recipe).find('+') == std::string::npos ? std::string(recipe) + "+i24" : recipe;
    Session plain(*engine_, spec(exact, 0));
    const std::vector<int32_t> whole = text(0, kPrefix + 50);
    const GenerateResult expected = plain.generate(whole, greedy(12), {});
    EXPECT_EQ(expected.prefix_use, PrefixUse::kNone);

    Session matched(*engine_, spec(recipe));
    const GenerateResult a = matched.generate(whole, greedy(12), {});
    EXPECT_EQ(a.tokens, expected.tokens);
    EXPECT_EQ(a.prefix_use, PrefixUse::kMatched);
    EXPECT_EQ(a.prefix_tokens, 24);
    EXPECT_EQ(a.prompt_tokens, 74);
    EXPECT_EQ(a.reused_tokens, 0);
    EXPECT_EQ(matched.length(), plain.length());

    Session prepended(*engine_, spec(recipe));
    const GenerateResult b = prepended.generate(text(kPrefix, 50), greedy(12), {});
    EXPECT_EQ(b.tokens, expected.tokens);
    EXPECT_EQ(b.prefix_use, PrefixUse::kPrepended);
    EXPECT_EQ(b.prompt_tokens, 50);
    EXPECT_EQ(prepended.length(), plain.length());
    EXPECT_EQ(prepended.cache().usage().prefix_bytes, plain.cache().usage().prefix_bytes);
  }
}

TEST_F(SessionPrefixTest, StaysOverTheTurns) {
  Session session(*engine_, spec("kivi-2:r32"));
  std::vector<int32_t> conversation = text(kPrefix, 40);
  const GenerateResult first = session.generate(conversation, greedy(6), {});
  conversation = joined(joined(conversation, first.tokens), text(90, 9));
  const GenerateResult second = session.generate(conversation, greedy(6), {});
  EXPECT_EQ(second.reused_tokens, 40 + first.decoded_tokens);
  Session fresh(*engine_, spec("kivi-2:r32"));
  EXPECT_EQ(fresh.generate(conversation, greedy(6), {}).tokens, second.tokens);
  // A conversation that begins anew keeps the prefix and nothing else.
  const GenerateResult third = session.generate(text(7, 30), greedy(6), {});
  EXPECT_EQ(third.reused_tokens, 0);
  EXPECT_EQ(third.prefix_use, PrefixUse::kPrepended);
  Session other(*engine_, spec("kivi-2:r32"));
  EXPECT_EQ(other.generate(text(7, 30), greedy(6), {}).tokens, third.tokens);
}

TEST_F(SessionPrefixTest, ThePrefixAloneIsAPrompt) {
  Session plain(*engine_, spec("kivi-2:r32+i24", 0));
  const GenerateResult expected = plain.generate(text(0, kPrefix), greedy(8), {});
  Session session(*engine_, spec("kivi-2:r32"));
  EXPECT_EQ(session.generate(text(0, kPrefix), greedy(8), {}).tokens, expected.tokens);
  // And again, from whatever the cache holds by then.
  EXPECT_EQ(session.generate(text(0, kPrefix), greedy(8), {}).tokens, expected.tokens);

  auto silent = std::make_shared<IntactPrefix>(*prefix_);
  silent->hidden.clear();
  Session without(*engine_, {spec("16").recipe, silent});
  EXPECT_THROW(without.generate(text(0, kPrefix), greedy(1), {}), Error);
  EXPECT_EQ(without.length(), 24) << "usable:";
  EXPECT_EQ(without.generate(text(0, kPrefix + 1), greedy(1), {}).prefix_use, PrefixUse::kMatched);
}

TEST_F(SessionPrefixTest, CountsInTheContext) {
  Session session(*engine_, spec("8"));
  try {
    session.generate(text(kPrefix, 232), greedy(1), {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("256 tokens long with the prefix before it"));
  }
  EXPECT_NO_THROW(session.generate(text(kPrefix, 231), greedy(1), {}));
  EXPECT_EQ(session.length(), 255);
}

}  // namespace
}  // namespace lowkey
