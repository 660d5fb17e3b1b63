#include "weights/quarot.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/hadamard_matrix.h"
#include "core/rng.h"
#include "weights/norm_readers.h"

namespace lowkey {
namespace {

// The released code's.
constexpr double kActivationClip = 0.9;

// y = H D x / sqrt(n), D the signs; none: y = H x / sqrt(n).
struct Turn {
  HadamardRotation rotation;
  std::vector<double> signs;

  void operator()(std::span<double> x) const {
    for (size_t i = 0; i < signs.size(); ++i) x[i] *= signs[i];
    rotation.turn(x);
  }
};

// Every consecutive part of every row.
void turn_inputs(FloatTensor& tensor, const Turn& turn, ThreadPool& pool) {
  const int64_t size = turn.rotation.size(), parts = std::ssize(tensor.values) / size;
  LOWKEY_CHECK(tensor.cols() % size == 0, "rows of {} in parts of {}", tensor.cols(), size);
  pool.run(parts, [&](int64_t part, int) {
    const std::span values =
        std::span(tensor.values)
            .subspan(static_cast<size_t>(part * size), static_cast<size_t>(size));
    std::vector<double> exact(values.begin(), values.end());
    turn(exact);
    std::transform(exact.begin(), exact.end(), values.begin(),
                   [](double x) { return static_cast<float>(x); });
  });
}

// Every consecutive part of every column: what the matrix puts out.
void turn_outputs(FloatTensor& tensor, const Turn& turn, ThreadPool& pool) {
  const int64_t size = turn.rotation.size(), cols = tensor.cols(), parts = tensor.rows() / size;
  LOWKEY_CHECK(tensor.rows() % size == 0, "columns of {} in parts of {}", tensor.rows(), size);
  pool.run(parts * cols, [&](int64_t task, int) {
    float* const values = tensor.values.data() + task / cols * size * cols + task % cols;
    std::vector<double> exact(static_cast<size_t>(size));
    for (int64_t i = 0; i < size; ++i) exact[static_cast<size_t>(i)] = values[i * cols];
    turn(exact);
    for (int64_t i = 0; i < size; ++i) {
      values[i * cols] = static_cast<float>(exact[static_cast<size_t>(i)]);
    }
  });
}

// A matrix's outputs are its rows' and its bias's.
void turn_outputs_of(FloatModel& model, const std::string& weight, const Turn& turn,
                     ThreadPool& pool) {
  turn_outputs(model.edit(weight), turn, pool);
  const std::string bias = weight.substr(0, weight.size() - std::string("weight").size()) + "bias";
  if (model.find(bias) != nullptr) turn_inputs(model.edit(bias), turn, pool);
}

void refuse_if(bool reason, const ModelConfig& config, const char* what) {
  if (!reason) return;
  fail(ErrorCode::kUnsupported, "QuaRot cannot rotate {} models ({}); try gptq, awq or omniquant",
       config.architecture, what);
}

void check_rotatable(const ModelConfig& config) {
  refuse_if(config.norm != NormKind::kRms, config, "LayerNorm: it subtracts the mean");
  refuse_if(config.post_norms, config, "norms after attention and MLP");
  refuse_if(config.parallel, config, "attention and MLP in parallel");
  refuse_if(config.learned_positions, config, "a table of learned positions");
  refuse_if(config.hadamard_qk || config.hadamard_v || config.hadamard_down, config,
            "rotated already");
  if (!std::has_single_bit(static_cast<uint64_t>(config.head_dim))) {
    fail(ErrorCode::kUnsupported,
         "QuaRot rotates heads by Sylvester's matrices, and a head size of {} is no power of two",
         config.head_dim);
  }
}

Turn plain_turn(int64_t size, const char* what) {
  return {HadamardRotation(size, what), {}};
}

Turn random_turn(int64_t size, const char* what, uint64_t seed) {
  Turn turn = plain_turn(size, what);
  SplitMix64 rng(seed);
  for (int64_t i = 0; i < size; ++i) turn.signs.push_back(rng.below(2) == 0 ? 1.0 : -1.0);
  return turn;
}

void untie_head(FloatModel& model) {
  if (!model.config.tied_embeddings) return;
  const FloatTensor& embedding = model.tensor("embed.weight");
  model.add("head.weight", embedding.shape, embedding.values);
  model.config.tied_embeddings = false;
}

// Into the columns of what reads it; the norm then multiplies by one.
void fold_norm(FloatModel& model, const NormReaders& readers) {
  const std::vector<float> weight = model.norm_weight(readers.norm);
  for (const std::string& name : readers.matrices) {
    FloatTensor& matrix = model.edit(name);
    for (size_t i = 0; i < matrix.values.size(); ++i) matrix.values[i] *= weight[i % weight.size()];
  }
  model.set_norm_weight(readers.norm, std::vector<float>(weight.size(), 1.0f));
}

}  // namespace

void rotate_model(FloatModel& model, uint64_t seed, ThreadPool& pool) {
  ModelConfig& config = model.config;
  check_rotatable(config);
  const Turn stream = random_turn(config.hidden_size, "hidden size", seed);
  const Turn head = plain_turn(config.head_dim, "head size");
  std::vector<std::pair<std::string, Turn>> downs;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const std::string& name : linear_names(config, layer)) {
      if (linear_kind(name) != "down") continue;
      const int64_t size = model.tensor(name).cols();
      downs.emplace_back(name, plain_turn(size, "MLP size"));
    }
  }

  untie_head(model);
  for (const NormReaders& readers : all_norm_readers(model)) {
    fold_norm(model, readers);
    for (const std::string& name : readers.matrices) turn_inputs(model.edit(name), stream, pool);
  }
  turn_inputs(model.edit("embed.weight"), stream, pool);
  for (const std::string& name : linear_names(config)) {
    const std::string_view kind = linear_kind(name);
    if (kind == "v") turn_outputs_of(model, name, head, pool);
    if (kind == "o") turn_inputs(model.edit(name), head, pool);
    if (kind == "o" || kind == "down") turn_outputs_of(model, name, stream, pool);
  }
  for (const auto& [name, turn] : downs) turn_inputs(model.edit(name), turn, pool);
  config.hadamard_qk = config.hadamard_v = config.hadamard_down = true;
}

void quantize_quarot(Quantization& quantization) {
  const QuantizeOptions& options = quantization.options;
  FloatModel& model = quantization.model;
  report(quantization.progress, "rotating", 0, 1);
  rotate_model(model, options.seed, quantization.pool);
  report(quantization.progress, "rotating", 1, 1);
  model.config.activation_bits = options.activation_bits;
  model.config.activation_symmetric = true;
  model.config.activation_clip = options.activation_clip.value_or(kActivationClip);
  quantization.notes.emplace_back(
      "embedding and head are rotated too, and written apart from each other as f32");
  finish_weights(quantization);
}

}  // namespace lowkey
