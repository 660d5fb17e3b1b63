#include "engine/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>

#include "core/error.h"
#include "support/tiny_model.h"

namespace lowkey {
namespace {

using testing::HasSubstr;

class SessionTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::filesystem::temp_directory_path() /
              ("lowkey_session_test_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    test::TinyModel({.seed = 5, .layers = 2, .head_dim = 32, .max_context = 256})
        .write_gguf(folder_ / "tiny.gguf");
    engine_ = std::make_unique<Engine>(folder_ / "tiny.gguf",
                                       EngineOptions{.weights = WeightStorage::kF32, .threads = 2},
                                       ProgressFn{});
  }
  static void TearDownTestSuite() {
    engine_.reset();
    std::filesystem::remove_all(folder_);
  }

  static ResolvedRecipe recipe(const std::string& text) {
    return resolve_recipe(parse_recipe(text), engine_->kv_shape());
  }
  static GenerateOptions greedy(int64_t max_tokens) {
    GenerateOptions options;
    options.sampling.temperature = 0;
    options.max_tokens = max_tokens;
    return options;
  }
  static std::vector<int32_t> text_tokens(size_t count) {
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>((i * 37 + 11) % 250));
    return tokens;
  }

  static std::filesystem::path folder_;
  static std::unique_ptr<Engine> engine_;
};
std::filesystem::path SessionTest::folder_;
std::unique_ptr<Engine> SessionTest::engine_;

TEST_F(SessionTest, LargeFilesAreUsedInPlace) {
  const auto bytes = static_cast<int64_t>(engine_->file().weight_bytes());
  EXPECT_EQ(best_weight_storage(engine_->file(), 4 * bytes - 1), WeightStorage::kFile);
  EXPECT_NE(best_weight_storage(engine_->file(), 4 * bytes), WeightStorage::kFile);
  EXPECT_GT(available_memory(), int64_t{64} << 20);
}

TEST_F(SessionTest, StreamsWhatItReturns) {
  Session session(*engine_, recipe("kivi-2:r32"));
  std::string streamed;
  const GenerateResult result =
      session.generate(text_tokens(70), greedy(20), [&](std::string_view t) { streamed += t; });
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.prompt_tokens, 70);
  EXPECT_LE(result.tokens.size(), 20u);
  // The last token has not been fed: nobody asked what follows it.
  EXPECT_EQ(session.length(), 70 + result.decoded_tokens);
  EXPECT_EQ(session.cache().usage().page_bytes > 0, true);
}

// A second turn that begins with what the cache holds computes only the rest, and answers as a
// fresh session would.
TEST_F(SessionTest, ReusesTheConversationSoFar) {
  for (const char* text : {"16", "4:r8", "kivi-2:r32", "kivi-2:r32:block"}) {
    SCOPED_TRACE(text);
    Session session(*engine_, recipe(text));
    std::vector<int32_t> conversation = text_tokens(60);
    const GenerateResult first = session.generate(conversation, greedy(12), {});
    conversation.insert(conversation.end(), first.tokens.begin(), first.tokens.end());
    for (int32_t t : text_tokens(9)) conversation.push_back(t);
    const GenerateResult second = session.generate(conversation, greedy(12), {});
    EXPECT_EQ(second.reused_tokens, 60 + first.decoded_tokens);

    Session fresh(*engine_, recipe(text));
    const GenerateResult alone = fresh.generate(conversation, greedy(12), {});
    EXPECT_EQ(alone.reused_tokens, 0);
    EXPECT_EQ(second.tokens, alone.tokens);
  }
}

// A prompt that departs from what was said goes back to the end of the last prompt, or further;
// never to a wrong state.
TEST_F(SessionTest, ChangesItsMindAtASavePoint) {
  Session session(*engine_, recipe("4:r8"));
  std::vector<int32_t> prompt = text_tokens(60);
  session.generate(prompt, greedy(30), {});
  std::vector<int32_t> other = prompt;
  other.insert(other.end(), {7, 8, 9, 10});
  const GenerateResult second = session.generate(other, greedy(8), {});
  EXPECT_EQ(second.reused_tokens, 60);
  Session fresh(*engine_, recipe("4:r8"));
  EXPECT_EQ(fresh.generate(other, greedy(8), {}).tokens, second.tokens);
  other[3] = 200;
  EXPECT_EQ(session.generate(other, greedy(4), {}).reused_tokens, 0);
}

TEST_F(SessionTest, EndsForTheReasonItGives) {
  Session session(*engine_, recipe("8"));
  EXPECT_EQ(session.generate(text_tokens(10), greedy(5), {}).reason, StopReason::kTokenLimit);
  GenerateOptions options = greedy(0);
  const GenerateResult full = session.generate(text_tokens(200), options, {});
  if (full.reason == StopReason::kContextFull) {
    EXPECT_EQ(session.length(), 255);
  } else {
    EXPECT_EQ(full.reason, StopReason::kEndOfAnswer);
  }
  const std::atomic<bool> cancel{true};
  options.cancel = &cancel;
  const GenerateResult cancelled = session.generate(text_tokens(10), options, {});
  EXPECT_EQ(cancelled.reason, StopReason::kCancelled);
  EXPECT_TRUE(cancelled.tokens.empty());
  options = greedy(40);
  const GenerateResult plain = session.generate(text_tokens(30), options, {});
  ASSERT_GT(plain.text.size(), 4u);
  options.stop = {plain.text.substr(2, 2)};
  const GenerateResult stopped = session.generate(text_tokens(30), options, {});
  EXPECT_EQ(stopped.reason, StopReason::kStopString);
  EXPECT_EQ(stopped.text, plain.text.substr(0, plain.text.find(options.stop[0])));
}

TEST_F(SessionTest, RefusesWhatDoesNotFit) {
  Session session(*engine_, recipe("8"));
  auto message = [&](const std::vector<int32_t>& prompt) -> std::string {
    try {
      session.generate(prompt, greedy(1), {});
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(message({}), "the prompt is empty");
  EXPECT_EQ(message(text_tokens(256)),
            "the prompt is 256 tokens long and the context holds 256: shorten it, or raise --ctx "
            "(this model: up to "
            "256)");
  EXPECT_THAT(message({5, 100000}), HasSubstr("100000"));
  EXPECT_EQ(session.length(), 0) << "empty after an error, and usable:";
  EXPECT_EQ(message(text_tokens(255)), "");
}

TEST_F(SessionTest, SeedsRepeat) {
  GenerateOptions options;
  options.sampling = {.temperature = 1.5, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 42};
  options.max_tokens = 20;
  Session a(*engine_, recipe("4")), b(*engine_, recipe("4"));
  const auto first = a.generate(text_tokens(20), options, {}).tokens;
  EXPECT_EQ(b.generate(text_tokens(20), options, {}).tokens, first);
  options.sampling.seed = 43;
  EXPECT_NE(b.generate(text_tokens(20), options, {}).tokens, first);
}

TEST_F(SessionTest, ChatGoesThroughTheModelsTemplate) {
  const std::vector<int32_t> ids = engine_->encode_chat({{"user", "hi <|im_end|>"}});
  const std::string shown = engine_->tokenizer().decode(ids, true);
  EXPECT_THAT(shown, HasSubstr("<|im_start|>user\nhi "));
  // What the user typed is text, not a role marker.
  const int32_t end = engine_->tokenizer().find("<|im_end|>");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 1);
}

TEST(Engine, RefusesAContextBeyondTheModels) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("lowkey_engine_test_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  test::TinyModel({.max_context = 128}).write_gguf(folder / "tiny.gguf");
  try {
    Engine engine(folder / "tiny.gguf", {.max_context = 129}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("was made for at most 128"));
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace lowkey
