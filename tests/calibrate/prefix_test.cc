// Training of prefixes on tiny models: loss and gradients against plain PyTorch
// (tools/make_calibrate_golden.py), and what training promises.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "calibrate/calibrate.h"
#include "calibrate/distillation.h"
#include "calibrate/prefix_trainee.h"
#include "core/error.h"
#include "engine/prefix_file.h"
#include "model/exact_ops.h"
#include "support/paths.h"
#include "support/tiny_model.h"
#include "support/tiny_options.h"

namespace lowkey::calibrate {
namespace {

using nlohmann::json;

// The layers' matrices as multiples of 1/8: some three bits.
class RoundedTensors {
 public:
  explicit RoundedTensors(const ModelFile& file) {
    for (const std::string& name : file.tensor_names()) {
      Tensor& tensor = tensors_[name];
      tensor.view = file.tensor(name);
      tensor.bytes.assign(tensor.view.data.begin(), tensor.view.data.end());
      tensor.view.data = tensor.bytes;
      const bool matrix = tensor.view.shape.size() == 2 && name.starts_with("layers.");
      if (!matrix || tensor.view.dtype != DType::kF32) continue;
      std::vector<float> values(tensor.bytes.size() / sizeof(float));
      std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
      for (float& value : values) value = std::nearbyint(value * 8) / 8;
      std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
    }
  }
  FindTensor find() const {
    return [this](std::string_view name) {
      const auto found = tensors_.find(name);
      return found == tensors_.end() ? nullptr : &found->second.view;
    };
  }

 private:
  struct Tensor {
    std::vector<std::byte> bytes;
    TensorView view;
  };
  std::map<std::string, Tensor, std::less<>> tensors_;
};

// A teacher, its student, and what the teacher makes of a prefix.
class Pair {
 public:
  explicit Pair(const test::TinyModelOptions& options, const std::vector<int32_t>& prefix,
                WeightStorage storage = WeightStorage::kF32) {
    test::TinyModel(options).write_hugging_face(folder_ / "model");
    file_ = std::make_unique<ModelFile>(ModelFile::open(folder_ / "model"));
    rounded_ = std::make_unique<RoundedTensors>(*file_);
    teacher_ = load_weights(*file_, storage, pool_, {});
    student_ = make_weights(file_->config(), rounded_->find(), 1, storage, pool_, {});
    make_prefix(prefix);
  }
  const ModelWeights& teacher() const { return teacher_; }
  const ModelWeights& student() const { return student_; }
  const IntactPrefix& prefix() const { return prefix_; }
  ExactPrefix exact() const { return exact_prefix(prefix_tensors(prefix_), teacher_.config); }

 private:
  // Keys and values of the tokens alone, from the products that make them.
  void make_prefix(const std::vector<int32_t>& ids) {
    const ModelConfig& config = teacher_.config;
    std::map<const Linear*, at::Tensor> inputs;
    ExactOps seen(config,
                  [&](const Linear& linear, LinearTerms& terms) { inputs[&linear] = terms.x; });
    layer_outputs(seen, teacher_, ids);
    ExactOps ops(config);
    ops.begin(ids);
    std::vector<at::Tensor> tensors;
    const std::vector<int64_t> shape{std::ssize(ids), config.num_kv_heads, config.head_dim};
    for (const LayerWeights& layer : teacher_.layers) {
      const at::Tensor k = ops.linear(inputs.at(&layer.k), layer.k);
      tensors.push_back(ops.rope(k, config.num_kv_heads, RopeUse::kMain).view(shape));
      tensors.push_back(ops.linear(inputs.at(&layer.v), layer.v).view(shape));
    }
    prefix_.tokens = ids;
    prefix_.num_layers = config.num_layers;
    prefix_.num_kv_heads = config.num_kv_heads;
    prefix_.head_dim = config.head_dim;
    prefix_.k.resize(static_cast<size_t>(prefix_.offset(config.num_layers, 0)));
    prefix_.v.resize(prefix_.k.size());
    prefix_ = to_prefix(prefix_, tensors);
  }

  test::TempDir folder_;
  ThreadPool pool_{1};
  std::unique_ptr<ModelFile> file_;
  std::unique_ptr<RoundedTensors> rounded_;
  ModelWeights teacher_, student_;
  IntactPrefix prefix_;
};

const json& golden() {
  static const json* const read =
      new json(json::parse(std::ifstream(test::golden("calibrate.json"))));
  return *read;
}

Pair golden_pair(WeightStorage storage = WeightStorage::kF32) {
  return Pair(test::tiny_options(golden()["options"]), golden()["prefix"], storage);
}

Samples golden_samples() {
  Samples samples;
  for (const json& entry : golden()["samples"]) {
    samples.train.push_back({"golden", entry["tokens"], entry["rows"], entry["next"]});
  }
  samples.heldout = samples.train;
  return samples;
}

TEST(PrefixTraining, LossAndGradientsAreThoseOfPyTorch) {
  const Pair pair = golden_pair();
  const auto first = golden()["prefix_k0"].get<std::vector<float>>();
  const std::vector<at::Tensor> start = prefix_tensors(pair.prefix());
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_NEAR(start[0].flatten()[static_cast<int64_t>(i)].item<float>(), first[i], 1e-6);
  }
  for (const auto& [name, kind] :
       {std::pair{"layers", LossKind::kLayers}, std::pair{"kl", LossKind::kLogits},
        std::pair{"answers", LossKind::kAnswers}}) {
    SCOPED_TRACE(name);
    const Distillation objective(pair.teacher(), pair.student(), pair.exact(),
                                 prefix_trainee(pair.prefix(), pair.student().config, 16),
                                 golden_samples(), kind, 0);
    for (int64_t sample = 0; sample < objective.num_samples(SampleSet::kTrain); ++sample) {
      const json& entry = golden()["samples"][static_cast<size_t>(sample)];
      std::vector<at::Tensor> leaves;
      for (const at::Tensor& tensor : start) leaves.push_back(tensor.clone().requires_grad_(true));
      const at::Tensor loss = objective.loss(leaves, SampleSet::kTrain, sample);
      EXPECT_NEAR(loss.item<double>(), entry["loss"][name].get<double>(),
                  1e-5 * (1 + entry["loss"][name].get<double>()));
      loss.backward();
      for (size_t i = 0; i < leaves.size(); ++i) {
        const json& expected = entry["gradients"][name][i];
        const auto norm = expected["norm"].get<double>();
        const double bound = 1e-4 * norm + 1e-7;
        const at::Tensor flat = leaves[i].grad().flatten();
        EXPECT_NEAR(flat.norm().item<double>(), norm, bound) << i;
        for (int64_t j = 0; j < 4; ++j) {
          EXPECT_NEAR(flat[j].item<double>(), expected["first"][j].get<double>(), bound);
          EXPECT_NEAR(flat[flat.numel() - 4 + j].item<double>(), expected["last"][j].get<double>(),
                      bound);
        }
      }
    }
  }
}

PrefixTraining training_of(const Pair& pair, LossKind loss = LossKind::kLayers) {
  PrefixTraining training{.teacher = pair.teacher(),
                          .student = pair.student(),
                          .prefix = pair.prefix(),
                          .samples = golden_samples(),
                          .loss = loss,
                          .options = {},
                          .target_bytes = int64_t{1} << 20,
                          .checkpoint = {},
                          .settings = json::object()};
  training.options.steps = 40;
  training.options.adamw.learning_rate = 5e-3;
  return training;
}

CalibratedPrefix calibrate(const PrefixTraining& training, int threads = 1) {
  ThreadPool pool(threads);
  return calibrate_prefix(training, pool, {});
}

bool same_bits(const IntactPrefix& a, const IntactPrefix& b) {
  return a.tokens == b.tokens &&
         std::memcmp(a.k.data(), b.k.data(), a.k.size() * sizeof(Half)) == 0 &&
         std::memcmp(a.v.data(), b.v.data(), a.v.size() * sizeof(Half)) == 0;
}

TEST(PrefixTraining, LowersEveryLoss) {
  const Pair pair = golden_pair();
  for (const LossKind loss : {LossKind::kLayers, LossKind::kLogits, LossKind::kAnswers}) {
    const CalibratedPrefix trained = calibrate(training_of(pair, loss));
    EXPECT_LT(trained.best_heldout, 0.9 * trained.first_heldout) << static_cast<int>(loss);
    EXPECT_FALSE(same_bits(trained.prefix, pair.prefix()));
    EXPECT_EQ(trained.prefix.tokens, pair.prefix().tokens);
  }
}

TEST(PrefixTraining, WithoutStepsThePrefixKeepsItsBits) {
  const Pair pair = golden_pair();
  PrefixTraining training = training_of(pair);
  training.options.steps = 0;
  EXPECT_TRUE(same_bits(calibrate(training).prefix, pair.prefix()));
}

TEST(PrefixTraining, NeitherThreadsNorMemoryChangeTheResult) {
  for (const WeightStorage storage : {WeightStorage::kF32, WeightStorage::kBF16}) {
    const Pair pair = golden_pair(storage);
    PrefixTraining training = training_of(pair);
    training.options.steps = 10;
    const IntactPrefix expected = calibrate(training).prefix;
    EXPECT_TRUE(same_bits(calibrate(training, 3).prefix, expected));
    training.target_bytes = 0;
    EXPECT_TRUE(same_bits(calibrate(training, 2).prefix, expected));
  }
}

// The teacher itself needs no training.
TEST(PrefixTraining, ATeacherIsItsOwnStudent) {
  const Pair pair = golden_pair();
  PrefixTraining training{.teacher = pair.teacher(),
                          .student = pair.teacher(),
                          .prefix = pair.prefix(),
                          .samples = golden_samples(),
                          .options = {},
                          .checkpoint = {},
                          .settings = json::object()};
  training.options.steps = 0;
  EXPECT_EQ(calibrate(training).first_heldout, 0.0);
}

// Rotated models' caches turn the same prefix by another road.
TEST(PrefixTraining, RotatedStudentsSeeThePrefixAsTheirCacheDoes) {
  const Pair pair = golden_pair();
  for (const bool keys : {true, false}) {
    ModelConfig config = pair.student().config;
    config.hadamard_qk = keys;
    config.hadamard_v = !keys;
    const ExactPrefix ours = exact_prefix(prefix_tensors(pair.prefix()), config);
    const auto theirs = prefix_for(std::make_shared<const IntactPrefix>(pair.prefix()), config);
    const std::vector<at::Tensor> expected = prefix_tensors(*theirs);
    for (size_t layer = 0; layer < ours.k.size(); ++layer) {
      for (const auto& [a, b] : {std::pair{ours.k[layer], expected[2 * layer]},
                                 std::pair{ours.v[layer], expected[2 * layer + 1]}}) {
        EXPECT_LE((a - b).abs().max().item<double>(), 1e-3 * b.abs().max().item<double>());
      }
    }
    EXPECT_FALSE(
        at::equal(keys ? ours.k[0] : ours.v[0], prefix_tensors(pair.prefix())[keys ? 0 : 1]));
  }
}

TEST(RoundPrefix, HasSoManyValuesPerTokenAndHead) {
  const Pair pair = golden_pair();
  for (const int32_t bits : {2, 3, 4, 8}) {
    IntactPrefix rounded = pair.prefix();
    round_prefix(rounded, bits);
    for (size_t first = 0; first < rounded.k.size(); first += 16) {
      std::map<float, int> values;
      float least = INFINITY, greatest = -INFINITY;
      for (size_t i = first; i < first + 16; ++i) {
        ++values[half_to_float(rounded.k[i])];
        least = std::min(least, half_to_float(pair.prefix().k[i]));
        greatest = std::max(greatest, half_to_float(pair.prefix().k[i]));
      }
      EXPECT_LE(std::ssize(values), 1 << bits);
      const float scale = (greatest - least) / static_cast<float>((1 << bits) - 1);
      for (size_t i = first; i < first + 16; ++i) {
        EXPECT_NEAR(half_to_float(rounded.k[i]), half_to_float(pair.prefix().k[i]),
                    0.5f * scale + 2e-3f * (1 + std::abs(greatest) + std::abs(least)));
      }
    }
  }
  IntactPrefix same = pair.prefix();
  round_prefix(same, 16);
  EXPECT_TRUE(same_bits(same, pair.prefix()));
}

TEST(RoundPrefix, IsWhatHeldOutLossesAreOf) {
  const Pair pair = golden_pair();
  PrefixTraining training = training_of(pair);
  training.options.steps = 0;
  training.bits = 2;
  const CalibratedPrefix rounded = calibrate(training);
  IntactPrefix expected = pair.prefix();
  round_prefix(expected, 2);
  EXPECT_TRUE(same_bits(rounded.prefix, expected));
  training.bits = 16;
  EXPECT_NE(rounded.first_heldout, calibrate(training).first_heldout);
}

}  // namespace
}  // namespace lowkey::calibrate
