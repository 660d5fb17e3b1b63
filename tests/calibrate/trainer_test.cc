#include "calibrate/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "calibrate/quadratic.h"
#include "core/error.h"
#include "support/paths.h"

namespace lowkey::calibrate {
namespace {

TrainOptions quick() {
  TrainOptions options;
  options.steps = 60;
  options.accumulation = 4;
  options.adamw.learning_rate = 0.05;
  options.evaluate_every = 5;
  options.save_every = 0;  // after each step
  return options;
}

bool equal(const TrainResult& a, const TrainResult& b) {
  bool same = a.tensors.size() == b.tensors.size() && a.curve.size() == b.curve.size();
  for (size_t i = 0; same && i < a.tensors.size(); ++i) {
    same = at::equal(a.tensors[i], b.tensors[i]);
  }
  for (size_t i = 0; same && i < a.curve.size(); ++i) {
    same = a.curve[i].step == b.curve[i].step && a.curve[i].train == b.curve[i].train &&
           a.curve[i].heldout == b.curve[i].heldout;
  }
  return same;
}

TrainResult run(const TrainOptions& options, int threads, const std::filesystem::path& file = {},
                const ProgressFn& progress = {}, const nlohmann::json& settings = {{"a", 1}}) {
  ThreadPool pool(threads);
  return train(Quadratic(), options, file, settings, pool, progress);
}

TEST(Trainer, LowersTheHeldOutLossAndKeepsTheBest) {
  const TrainResult result = run(quick(), 1);
  EXPECT_LT(result.best_heldout, result.first_heldout / 100);
  EXPECT_EQ(result.curve.front().heldout, result.first_heldout);
  const double after = Quadratic().loss(result.tensors, SampleSet::kHeldout, 1).item<double>();
  EXPECT_NEAR(after, result.best_heldout, 1e-2);
  for (const CurvePoint& point : result.curve) {
    EXPECT_GE(point.heldout.value_or(HUGE_VAL), result.best_heldout);
  }
}

TEST(Trainer, ThreadsDoNotChangeTheResult) {
  EXPECT_TRUE(equal(run(quick(), 1), run(quick(), 3)));
}

TEST(Trainer, ProgressOnlyGrows) {
  int64_t before = 0;
  run(quick(), 1, {}, [&](std::string_view, int64_t done, int64_t) {
    EXPECT_GE(done, before);
    before = done;
  });
  EXPECT_GT(before, 0);
}

TEST(Trainer, NoStepsLeaveWhatWasThere) {
  TrainOptions options = quick();
  options.steps = 0;
  const TrainResult result = run(options, 2);
  EXPECT_TRUE(at::equal(result.tensors[0], Quadratic().initial()[0]));
  EXPECT_EQ(result.curve.size(), 1u);
  EXPECT_EQ(result.best_heldout, result.first_heldout);
}

TEST(Trainer, StopsWhenNothingGetsBetter) {
  TrainOptions options = quick();
  options.steps = 2000;
  options.patience = 3;
  const TrainResult result = run(options, 1);
  EXPECT_TRUE(result.stopped_early);
  EXPECT_LT(result.curve.back().step, 2000);
  EXPECT_EQ(result.curve.back().step, result.best_step + 3 * options.evaluate_every);
}

// Stopped anywhere, it goes on as if nothing had happened.
TEST(Trainer, GoesOnFromACheckpointBitForBit) {
  const TrainResult whole = run(quick(), 2);
  for (const int64_t calls : {1, 7, 40, 100}) {
    SCOPED_TRACE(calls);
    const test::TempDir folder;
    const std::filesystem::path file = folder / "run.checkpoint";
    TrainOptions options = quick();
    options.save_every = 1e9;  // saved by the interruption alone
    int64_t left = calls;
    const ProgressFn stop = [&](std::string_view, int64_t done, int64_t total) {
      EXPECT_LE(done, total);
      if (--left == 0) fail(ErrorCode::kCancelled, "stopped");
    };
    EXPECT_THROW(run(options, 1, file, stop), Error);
    const TrainResult rest = run(options, 2, file);
    EXPECT_TRUE(equal(rest, whole));
    EXPECT_EQ(rest.resumed_at > 0, calls >= 40);
  }
}

TEST(Trainer, ACheckpointOfOtherSettingsIsRefused) {
  const test::TempDir folder;
  const std::filesystem::path file = folder / "run.checkpoint";
  run(quick(), 1, file);
  try {
    run(quick(), 1, file, {}, {{"a", 2}});
    FAIL() << "taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("its a was 1, now it is 2"), std::string::npos);
  }
}

class Diverging : public Quadratic {
 public:
  at::Tensor loss(std::span<const at::Tensor> tensors, SampleSet set,
                  int64_t sample) const override {
    const at::Tensor loss = Quadratic::loss(tensors, set, sample);
    return set == SampleSet::kTrain ? loss * std::numeric_limits<double>::infinity() : loss;
  }
};

TEST(Trainer, ALossThatIsNoNumberIsRefused) {
  ThreadPool pool(2);
  EXPECT_THROW(train(Diverging(), quick(), {}, {}, pool, {}), Error);
}

}  // namespace
}  // namespace lowkey::calibrate
