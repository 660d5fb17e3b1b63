#include "calibrate/checkpoint.h"

#include <gtest/gtest.h>

#include "calibrate/quadratic.h"
#include "core/error.h"
#include "core/files.h"
#include "core/rng.h"
#include "support/paths.h"

namespace lowkey::calibrate {
namespace {

const nlohmann::json kSettings = {{"model", "abc"}, {"seed", 1}};

TrainState some_state() {
  TrainState state;
  state.step = 3;
  state.tensors = Quadratic().initial();
  state.adamw = AdamWState::zeros(state.tensors);
  state.adamw.steps = 3;
  state.adamw.square[1].fill_(0.1);
  state.curve = {{0, 1.0 / 3, 2.5}, {1, 0.25, std::nullopt}, {3, std::nullopt, 0.1}};
  state.best = Quadratic().initial();
  return state;
}

TEST(Checkpoint, ComesBackAsItWas) {
  const test::TempDir folder;
  const TrainState state = some_state();
  write_checkpoint(folder / "c", kSettings, state);
  const auto read = read_checkpoint(folder / "c", kSettings, state.tensors);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->step, 3);
  EXPECT_EQ(read->adamw.steps, 3);
  EXPECT_TRUE(at::equal(read->adamw.square[1], state.adamw.square[1]));
  EXPECT_TRUE(at::equal(read->best[1], state.best[1]));
  ASSERT_EQ(read->curve.size(), 3u);
  EXPECT_EQ(read->curve[0].train, 1.0 / 3);
  EXPECT_FALSE(read->curve[1].heldout);
  EXPECT_FALSE(read_checkpoint(folder / "none", kSettings, state.tensors));
}

TEST(Checkpoint, OfOtherShapesIsRefused) {
  const test::TempDir folder;
  write_checkpoint(folder / "c", kSettings, some_state());
  const std::vector<at::Tensor> other{at::zeros({2, 3}), at::zeros({5})};
  EXPECT_THROW(read_checkpoint(folder / "c", kSettings, other), Error);
  const std::vector<at::Tensor> more{at::zeros({2, 3}), at::zeros({4}), at::zeros({1})};
  EXPECT_THROW(read_checkpoint(folder / "c", kSettings, more), Error);
}

// Whatever is in the file: read, or refused with a message.
TEST(Checkpoint, DamageIsNoticedOrHarmless) {
  const test::TempDir folder;
  const TrainState state = some_state();
  write_checkpoint(folder / "c", kSettings, state);
  const std::string bytes = read_file(folder / "c");
  SplitMix64 rng(5);
  for (int i = 0; i < 120; ++i) {
    std::string damaged = bytes;
    if (i % 4 == 0) {
      damaged.resize(rng.below(damaged.size()));
    } else {
      damaged[rng.below(damaged.size())] ^= static_cast<char>(1 << rng.below(8));
    }
    write_file_atomically(folder / "d", damaged);
    try {
      read_checkpoint(folder / "d", kSettings, state.tensors);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find((folder / "d").string()), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace lowkey::calibrate
