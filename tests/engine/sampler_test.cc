#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "engine/stop_strings.h"

namespace lowkey {
namespace {

constexpr SamplingOptions kPlain{.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 7};

std::map<int32_t, double> frequencies(SamplingOptions options, std::vector<float> logits) {
  Sampler sampler(options);
  std::map<int32_t, double> counts;
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) counts[sampler.sample(logits)] += 1.0 / kDraws;
  return counts;
}

const std::vector<float> kLogits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f),
                                    -INFINITY};

TEST(Sampler, FollowsTheDistribution) {
  const auto f = frequencies(kPlain, kLogits);
  // Four standard deviations of 40,000 draws: 0.01.
  EXPECT_NEAR(f.at(0), 0.1, 0.01);
  EXPECT_NEAR(f.at(1), 0.4, 0.01);
  EXPECT_NEAR(f.at(2), 0.2, 0.01);
  EXPECT_NEAR(f.at(3), 0.3, 0.01);
  EXPECT_FALSE(f.contains(4));
}

TEST(Sampler, TemperatureSharpens) {
  SamplingOptions options = kPlain;
  options.temperature = 0.5;  // squares: 1, 16, 4, 9 of 30
  EXPECT_NEAR(frequencies(options, kLogits).at(1), 16.0 / 30, 0.01);
}

TEST(Sampler, CutsAreWhatTheirNamesSay) {
  SamplingOptions options = kPlain;
  options.top_k = 2;
  EXPECT_EQ(frequencies(options, kLogits).size(), 2u);
  options = kPlain;
  options.top_p = 0.7;  // 0.4 + 0.3 reach it exactly or a rounding short of it
  EXPECT_LE(frequencies(options, kLogits).size(), 3u);
  options.top_p = 0.65;
  EXPECT_EQ(frequencies(options, kLogits).size(), 2u);
  options = kPlain;
  options.min_p = 0.6;  // of 0.4: 0.24
  EXPECT_EQ(frequencies(options, kLogits).size(), 2u);
  options.min_p = 1.0;
  EXPECT_EQ(frequencies(options, kLogits).size(), 1u);
}

TEST(Sampler, ZeroTemperatureIsGreedyAndSeedsRepeat) {
  SamplingOptions options = kPlain;
  options.temperature = 0;
  EXPECT_EQ(frequencies(options, kLogits).size(), 1u);
  EXPECT_EQ(Sampler(options).sample(kLogits), 1);
  Sampler a(kPlain), b(kPlain);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(a.sample(kLogits), b.sample(kLogits));
}

TEST(Sampler, RefusesNonsense) {
  auto message = [](SamplingOptions options) -> std::string {
    try {
      Sampler sampler(options);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(message({.temperature = -1}), "temperature -1: must be 0 or more");
  EXPECT_EQ(message({.temperature = NAN}), "temperature nan: must be 0 or more");
  EXPECT_EQ(message({.top_k = -2}), "top-k -2: must be 0 (all tokens) or more");
  EXPECT_EQ(message({.top_p = 0}), "top-p 0: must be above 0, at most 1");
  EXPECT_EQ(message({.min_p = 1.5}), "min-p 1.5: must be between 0 and 1");
  EXPECT_THROW(Sampler(kPlain).sample(std::vector<float>{0.0f, NAN}), Error);
  EXPECT_THROW(Sampler(kPlain).sample(std::vector<float>{-INFINITY, -INFINITY}), Error);
}

TEST(StopStrings, NeverShowsAPartOfAStopString) {
  StopStrings stops({"END", "\nUser:", ""});
  EXPECT_EQ(stops.push("Hello E"), "Hello ");
  EXPECT_EQ(stops.push("N"), "");
  EXPECT_EQ(stops.push("ough\n"), "ENough");
  EXPECT_EQ(stops.push("User"), "");
  EXPECT_EQ(stops.push(": hi"), "");
  EXPECT_TRUE(stops.stopped());
  EXPECT_EQ(stops.push("more"), "");
}

TEST(StopStrings, TheEarliestWinsAndTheRestComesAtTheEnd) {
  StopStrings stops({"bc", "abcd"});
  EXPECT_EQ(stops.push("xabcd"), "x");  // "abcd" begins before "bc"
  StopStrings other({"stop"});
  EXPECT_EQ(other.push("a st"), "a ");
  EXPECT_EQ(other.finish(), "st");
  EXPECT_FALSE(other.stopped());
}

// The same text in pieces of any size shows the same.
TEST(StopStrings, PiecesDoNotMatter) {
  const std::string text = "aabaabaacaabaaad";
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    StopStrings stops({"aabaaa"});
    std::string shown;
    for (size_t i = 0; i < text.size(); i += piece) shown += stops.push(text.substr(i, piece));
    EXPECT_EQ(shown, "aabaabaac") << piece;
  }
}

}  // namespace
}  // namespace lowkey
