#include "progress_bar.h"

#include <gtest/gtest.h>

namespace lowkey {
namespace {

// A bar whose clock the test turns and whose output it reads.
class ProgressBarTest : public testing::Test {
 protected:
  ProgressBar make(Terminal terminal) {
    return ProgressBar(
        terminal, [this](std::string_view text) { output_ += text; }, [this] { return now_; });
  }
  std::string take() { return std::exchange(output_, ""); }

  double now_ = 1000;
  std::string output_;
  static constexpr Terminal kTty{.tty = true, .color = true, .utf8 = false, .width = 80};
  static constexpr Terminal kLog{.tty = false, .color = false, .utf8 = true, .width = 80};
};

TEST_F(ProgressBarTest, ShortWorkShowsNothing) {
  {
    ProgressBar bar = make(kTty);
    for (int i = 0; i <= 19; ++i, now_ += 0.1) bar.update("load", i, 19);
  }
  EXPECT_EQ(output_, "");
}

TEST_F(ProgressBarTest, DrawsAfterTwoSecondsAndErasesItself) {
  {
    ProgressBar bar = make(kTty);
    bar.update("eval kivi-2", 0, 100);
    now_ += 1.9;
    bar.update("eval kivi-2", 20, 100);
    EXPECT_EQ(take(), "");
    now_ += 0.1;
    bar.update("eval kivi-2", 25, 100);
    EXPECT_EQ(take(), "\reval kivi-2  [######------------------]  25%  2.0 s, 6.0 s left\x1b[K");
  }
  EXPECT_EQ(take(), "\r\x1b[K");
}

TEST_F(ProgressBarTest, RedrawsTenTimesASecondAtMost) {
  ProgressBar bar = make(kTty);
  bar.update("x", 0, 100);
  now_ += 3;
  bar.update("x", 1, 100);
  EXPECT_NE(take(), "");
  now_ += 0.05;
  bar.update("x", 2, 100);
  EXPECT_EQ(take(), "");
  now_ += 0.06;
  bar.update("x", 3, 100);
  EXPECT_NE(take(), "");
}

TEST_F(ProgressBarTest, ClearMakesRoomOnceAndTheNextUpdateDrawsAgain) {
  ProgressBar bar = make(kTty);
  bar.update("x", 0, 10);
  bar.clear();
  EXPECT_EQ(take(), "");  // nothing drawn, nothing to erase
  now_ += 3;
  bar.update("x", 5, 10);
  take();
  bar.clear();
  bar.clear();
  EXPECT_EQ(take(), "\r\x1b[K");
  now_ += 1;
  bar.update("x", 6, 10);
  EXPECT_NE(take(), "");
}

TEST_F(ProgressBarTest, AnotherStretchHasAnEstimateOfItsOwn) {
  ProgressBar bar = make(kTty);
  bar.update("load", 0, 10);
  now_ += 60;
  bar.update("load", 10, 10);
  take();
  bar.update("eval", 0, 10);
  now_ += 4;
  bar.update("eval", 5, 10);
  EXPECT_NE(take().find("eval  [############------------]  50%  4.0 s, 4.0 s left"),
            std::string::npos);
  // The same words from the start again: a second run of the same work.
  bar.update("eval", 0, 10);
  now_ += 1;
  bar.update("eval", 1, 10);
  EXPECT_NE(take().find("10%  1.0 s, 9.0 s left"), std::string::npos);
}

TEST_F(ProgressBarTest, NoEstimateFromNothingAndNoneBeyondTheEnd) {
  ProgressBar bar = make(kTty);
  bar.update("x", 0, 10);
  now_ += 3;
  bar.update("x", 0, 10);
  EXPECT_EQ(take(), "\rx  [------------------------]  0%  3.0 s\x1b[K");
  now_ += 1;
  bar.update("x", 12, 10);
  EXPECT_EQ(take(), "\rx  [########################]  100%  4.0 s, 0.0 s left\x1b[K");
}

TEST_F(ProgressBarTest, UnknownTotalCounts) {
  ProgressBar bar = make(kTty);
  bar.update("read", 0, 0);
  now_ += 12;
  bar.update("read", 123456, 0);
  EXPECT_EQ(take(), "\rread  123,456  12 s\x1b[K");
}

TEST_F(ProgressBarTest, LogsGetAPlainLineEveryTenSeconds) {
  {
    ProgressBar bar = make(kLog);
    bar.update("eval 8", 0, 100);
    for (int i = 1; i <= 25; ++i) {
      now_ += 1;
      bar.update("eval 8", i, 100);
    }
  }
  EXPECT_EQ(take(), "eval 8  10%  10 s, 1 min 30 s left\neval 8  20%  20 s, 1 min 20 s left\n");
}

TEST_F(ProgressBarTest, NeverWiderThanTheTerminal) {
  ProgressBar bar = make({.tty = true, .color = true, .utf8 = true, .width = 30});
  bar.update(std::string(50, 'w'), 0, 100);
  now_ += 3;
  bar.update(std::string(50, 'w'), 50, 100);
  EXPECT_EQ(take(), "\r" + std::string(28, 'w') + "…\x1b[K");
}

TEST_F(ProgressBarTest, Utf8TerminalsGetBlocks) {
  ProgressBar bar = make({.tty = true, .utf8 = true});
  bar.update("x", 0, 2);
  now_ += 3;
  bar.update("x", 1, 2);
  EXPECT_NE(take().find("[████████████░░░░░░░░░░░░]"), std::string::npos);
}

TEST_F(ProgressBarTest, CallbackIsTheBar) {
  ProgressBar bar = make(kTty);
  const ProgressFn progress = bar.callback();
  report(progress, "x", 0, 2);
  now_ += 3;
  report(progress, "x", 1, 2);
  EXPECT_NE(take(), "");
}

}  // namespace
}  // namespace lowkey
