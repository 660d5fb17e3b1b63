#include "calibrate/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <numeric>

#include "calibrate/checkpoint.h"
#include "core/error.h"
#include "core/rng.h"

namespace lowkey::calibrate {
namespace {

using Clock = std::chrono::steady_clock;

// Samples in the order of their epoch: a shuffle that depends on the seed and the epoch alone, so
// that a run taken up again needs no memory of those before.
class SampleOrder {
 public:
  SampleOrder(int64_t samples, uint64_t seed) : samples_(samples), seed_(seed) {}

  // Of the `index`-th sample since training began.
  int64_t at(int64_t index) {
    const int64_t epoch = index / samples_;
    if (epoch != epoch_) shuffle(epoch);
    return order_[static_cast<size_t>(index % samples_)];
  }

 private:
  void shuffle(int64_t epoch) {
    epoch_ = epoch;
    order_.resize(static_cast<size_t>(samples_));
    std::iota(order_.begin(), order_.end(), 0);
    SplitMix64 rng(seed_ + static_cast<uint64_t>(epoch) * 0x9e3779b97f4a7c15ull);
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[rng.below(i)]);
  }

  int64_t samples_;
  uint64_t seed_;
  int64_t epoch_ = -1;
  std::vector<int64_t> order_;
};

struct Best {
  int64_t step = 0;
  double loss = 0;
  int64_t looks_since = 0;
};

Best best_of(const std::vector<CurvePoint>& curve) {
  Best best;
  bool first = true;
  for (const CurvePoint& point : curve) {
    if (!point.heldout) continue;
    ++best.looks_since;
    if (first || *point.heldout < best.loss) best = {point.step, *point.heldout, 0};
    first = false;
  }
  return best;
}

class Run {
 public:
  Run(const Objective& objective, const TrainOptions& options,
      const std::filesystem::path& checkpoint, const nlohmann::json& settings, ThreadPool& pool,
      const ProgressFn& progress)
      : objective_(objective),
        options_(options),
        checkpoint_(checkpoint),
        settings_(settings),
        pool_(pool),
        progress_(progress),
        num_train_(objective.num_samples(SampleSet::kTrain)),
        num_heldout_(objective.num_samples(SampleSet::kHeldout)),
        order_(num_train_, options.seed) {
    if (num_train_ < 1 || num_heldout_ < 1) {
      fail(ErrorCode::kInvalidArgument,
           "{} samples to train on and {} held out: one of each is "
           "the least",
           num_train_, num_heldout_);
    }
    batch_ = std::clamp<int64_t>(options.accumulation, 1, num_train_);
  }

  TrainResult run() {
    TrainResult result;
    const std::vector<at::Tensor> initial = objective_.initial();
    std::optional<TrainState> saved;
    if (!checkpoint_.empty()) saved = read_checkpoint(checkpoint_, settings_, initial);
    if (saved) {
      state_ = std::move(*saved);
      result.resumed_at = state_.step;
    } else {
      for (const at::Tensor& tensor : initial) state_.tensors.push_back(tensor.clone());
      state_.adamw = AdamWState::zeros(initial);
    }
    saved_at_ = Clock::now();
    try {
      result.stopped_early = go();
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kCancelled) save();
      throw;
    }
    const Best best = best_of(state_.curve);
    result.tensors = objective_.stored(state_.best);
    result.best_step = best.step;
    result.best_heldout = best.loss;
    result.first_heldout = state_.curve.front().heldout.value_or(best.loss);
    result.curve = std::move(state_.curve);
    return result;
  }

 private:
  // Whether it stopped before the last step.
  bool go() {
    while (true) {
      const bool last = state_.step >= options_.steps;
      const int64_t every = std::max<int64_t>(1, options_.evaluate_every);
      if ((last || state_.step % every == 0) && !looked()) look();
      if (last) return false;
      const Best best = best_of(state_.curve);
      if (options_.patience > 0 && best.looks_since >= options_.patience) return true;
      step();
      const std::chrono::duration<double> since = Clock::now() - saved_at_;
      if (since.count() >= options_.save_every) save();
    }
  }

  void save() {
    if (checkpoint_.empty()) return;
    write_checkpoint(checkpoint_, settings_, state_);
    saved_at_ = Clock::now();
  }

  CurvePoint& point() {
    if (state_.curve.empty() || state_.curve.back().step != state_.step) {
      state_.curve.push_back({.step = state_.step, .train = {}, .heldout = {}});
    }
    return state_.curve.back();
  }

  bool looked() const {
    return !state_.curve.empty() && state_.curve.back().step == state_.step &&
           state_.curve.back().heldout.has_value();
  }

  // Samples computed so far, of those there are at most: what takes the time.
  void tell(int64_t of_this_part) {
    const int64_t every = std::max<int64_t>(1, options_.evaluate_every);
    const auto samples = [&](int64_t steps, int64_t looks) {
      // A held-out sample takes a forward pass alone: a third of the time.
      return 3 * steps * batch_ + looks * num_heldout_;
    };
    const auto looks =
        std::count_if(state_.curve.begin(), state_.curve.end(),
                      [](const CurvePoint& point) { return point.heldout.has_value(); });
    const int64_t done = samples(state_.step, looks) + of_this_part;
    const int64_t total = samples(options_.steps, options_.steps / every + 1);
    report(progress_, "calibrating", std::min(done, total), total);
  }

  // work(sample) for each, on all threads; `weight` is what one of them counts for in progress.
  template <typename Work>
  void share(int64_t samples, int64_t weight, const Work& work) {
    std::atomic<int64_t> done{0};
    pool_.run(samples, [&](int64_t sample, int thread) {
      at::init_num_threads();  // this thread's OpenMP is to use one: Model::load
      if (thread == 0) tell(weight * done);
      work(sample);
      ++done;
    });
  }

  static double finite(const at::Tensor& loss, int64_t step) {
    const double value = loss.item<double>();
    if (!std::isfinite(value)) {
      fail(ErrorCode::kInvalidArgument,
           "the loss is no number after {} steps: try a smaller learning rate, or f32 weights",
           step);
    }
    return value;
  }

  void look() {
    const std::vector<at::Tensor> stored = objective_.stored(state_.tensors);
    std::vector<double> losses(static_cast<size_t>(num_heldout_));
    share(num_heldout_, 1, [&](int64_t sample) {
      const at::Tensor loss = objective_.loss(stored, SampleSet::kHeldout, sample);
      losses[static_cast<size_t>(sample)] = finite(loss, state_.step);
    });
    const double mean =
        std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(num_heldout_);
    point().heldout = mean;
    if (best_of(state_.curve).step != state_.step) return;
    state_.best.clear();
    for (const at::Tensor& tensor : state_.tensors) state_.best.push_back(tensor.clone());
  }

  // Every sample has leaves of its own: nothing is summed in an order that threads decide.
  void step() {
    std::vector<double> losses(static_cast<size_t>(batch_));
    std::vector<std::vector<at::Tensor>> gradients(static_cast<size_t>(batch_));
    std::vector<int64_t> samples;
    for (int64_t i = 0; i < batch_; ++i) samples.push_back(order_.at(state_.step * batch_ + i));
    share(batch_, 3, [&](int64_t i) {
      const auto at = static_cast<size_t>(i);
      std::vector<at::Tensor> leaves;
      for (const at::Tensor& tensor : state_.tensors) {
        leaves.push_back(tensor.detach().requires_grad_(true));
      }
      const at::Tensor loss = objective_.loss(leaves, SampleSet::kTrain, samples[at]);
      losses[at] = finite(loss, state_.step);
      loss.backward();
      for (const at::Tensor& leaf : leaves) {
        gradients[at].push_back(leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf));
      }
    });
    std::vector<at::Tensor> sums = std::move(gradients[0]);
    for (size_t i = 1; i < gradients.size(); ++i) {
      for (size_t t = 0; t < sums.size(); ++t) sums[t].add_(gradients[i][t]);
    }
    for (at::Tensor& sum : sums) sum.div_(static_cast<double>(batch_));
    clip_norm(sums, options_.clip);
    point().train =
        std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(batch_);
    adamw_step(options_.adamw, state_.adamw, state_.tensors, sums);
    ++state_.step;
  }

  const Objective& objective_;
  const TrainOptions& options_;
  const std::filesystem::path& checkpoint_;
  const nlohmann::json& settings_;
  ThreadPool& pool_;
  const ProgressFn& progress_;
  const int64_t num_train_, num_heldout_;
  int64_t batch_ = 1;
  SampleOrder order_;
  TrainState state_;
  Clock::time_point saved_at_;
};

}  // namespace

TrainResult train(const Objective& objective, const TrainOptions& options,
                  const std::filesystem::path& checkpoint, const nlohmann::json& settings,
                  ThreadPool& pool, const ProgressFn& progress) {
  return Run(objective, options, checkpoint, settings, pool, progress).run();
}

}  // namespace lowkey::calibrate
