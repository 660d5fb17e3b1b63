#include "weights/smoothquant.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "core/error.h"
#include "weights/input_maxima.h"
#include "weights/norm_readers.h"

namespace lowkey {
namespace {

// As the released code clamps them.
constexpr double kLeastScale = 1e-5;

void raise_to_columns(std::vector<float>& maxima, const FloatTensor& matrix) {
  for (size_t i = 0; i < matrix.values.size(); ++i) {
    float& largest = maxima[i % maxima.size()];
    largest = std::max(largest, std::abs(matrix.values[i]));
  }
}

// A router stays in floats and has no say in the scales.
bool is_router(const std::string& name) {
  return linear_kind(name) == "router";
}

// Each row of each matrix with one scale.
void round_rows(Quantization& quantization) {
  if (quantization.options.grid.bits == kFloatBits) return;
  const WeightGrid grid{.bits = quantization.options.grid.bits, .group = WeightGrid::kRow};
  const std::vector<std::string> names = linear_names(quantization.model.config);
  int64_t done = 0;
  for (const std::string& name : names) {
    report(quantization.progress, "rounding", done++, std::ssize(names));
    const FloatTensor& matrix = quantization.model.tensor(name);
    if (!grid_fits(matrix.cols())) continue;
    put_blocks(quantization, name,
               round_to_nearest(grid, matrix.values.data(), matrix.rows(), matrix.cols(),
                                quantization.pool));
  }
  report(quantization.progress, "rounding", done, std::ssize(names));
}

}  // namespace

std::vector<float> smoothing_scales(std::span<const float> input_maxima,
                                    std::span<const float> weight_maxima, double alpha) {
  LOWKEY_CHECK(input_maxima.size() == weight_maxima.size(), "{} inputs, {} columns",
               input_maxima.size(), weight_maxima.size());
  std::vector<float> scales(input_maxima.size(), 1.0f);
  for (size_t i = 0; i < scales.size(); ++i) {
    const double x = input_maxima[i], w = weight_maxima[i];
    if (x <= 0 || w <= 0) continue;
    scales[i] =
        static_cast<float>(std::max(std::pow(x, alpha) / std::pow(w, 1 - alpha), kLeastScale));
  }
  return scales;
}

void smooth_model(Quantization& quantization) {
  const QuantizeOptions& options = quantization.options;
  if (!(options.alpha >= 0 && options.alpha <= 1)) {
    fail(ErrorCode::kInvalidArgument, "SmoothQuant's alpha {} is not between 0 and 1",
         options.alpha);
  }
  FloatModel& model = quantization.model;
  std::vector<NormReaders> all;
  std::vector<std::string> names;
  for (int32_t layer = 0; layer < model.config.num_layers; ++layer) {
    for (NormReaders& readers : norm_readers(model, layer)) {
      // What a norm puts out is the same for all its readers, but an expert sees some rows only.
      for (const std::string& name : readers.matrices) {
        if (!is_router(name)) names.push_back(name);
      }
      all.push_back(std::move(readers));
    }
  }
  const ModelWeights weights = model.weights(quantization.pool);
  const std::map<std::string, std::vector<float>> inputs =
      input_maxima(weights, names, options.samples, quantization.pool, quantization.progress);
  for (const NormReaders& readers : all) {
    const auto hidden = static_cast<size_t>(model.config.hidden_size);
    std::vector<float> input(hidden, 0.0f), weight(hidden, 0.0f);
    for (const std::string& name : readers.matrices) {
      if (is_router(name)) continue;
      const std::vector<float>& seen = inputs.at(name);
      for (size_t i = 0; i < hidden; ++i) input[i] = std::max(input[i], seen[i]);
      raise_to_columns(weight, model.tensor(name));
    }
    move_scales(model, readers, smoothing_scales(input, weight, options.alpha));
  }
}

void quantize_smoothquant(Quantization& quantization) {
  smooth_model(quantization);
  ModelConfig& config = quantization.model.config;
  config.activation_bits = quantization.options.activation_bits;
  config.activation_symmetric = true;
  config.activation_clip = quantization.options.activation_clip.value_or(1.0);
  round_rows(quantization);
}

}  // namespace lowkey
