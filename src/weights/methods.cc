#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "weights/awq.h"
#include "weights/gptq.h"
#include "weights/layer_inputs.h"
#include "weights/method.h"
#include "weights/omniquant.h"
#include "weights/quarot.h"
#include "weights/smoothquant.h"

namespace lowkey {
namespace {

double relative(double difference, double reference) {
  return reference > 0.0 ? std::sqrt(std::max(difference, 0.0) / reference) : 0.0;
}

void check_options(const QuantizeOptions& options, const WeightMethod& method) {
  check_bits(method, options.grid);
  if (const int32_t bits = options.activation_bits; bits != kFloatBits && (bits < 2 || bits > 8)) {
    fail(ErrorCode::kInvalidArgument, "activations of {} bits: 2 to 8, or 16: not rounded", bits);
  }
  if (const double clip = options.activation_clip.value_or(1.0); !(clip > 0 && clip <= 1)) {
    fail(ErrorCode::kInvalidArgument, "activations clipped at {}: above 0, at most 1", clip);
  }
  if (method.needs_text && options.samples.empty()) {
    fail(ErrorCode::kInvalidArgument, "{} needs a text to calibrate on: --text FILE", method.name);
  }
  if (options.rounding == "gptq" && options.samples.empty())
    fail(ErrorCode::kInvalidArgument, "gptq needs a text to calibrate on: --text FILE");
  if (options.rounding != "nearest" && options.rounding != "gptq") {
    fail(ErrorCode::kInvalidArgument, "rounding '{}': nearest or gptq", options.rounding);
  }
}

// Blocks hold 32 weights: what is left as it was.
void note_unfit(Quantization& q) {
  if (q.options.grid.bits == kFloatBits) return;
  int64_t count = 0;
  std::string first;
  for (const std::string& name : linear_names(q.model.config)) {
    if (grid_fits(q.model.tensor(name).cols()) || q.blocks.contains(name)) continue;
    if (count++ == 0) first = name;
  }
  if (count > 0) {
    q.notes.push_back(fmt::format(
        "{} of the matrices stay as they were: their inputs are no multiple of 32 ({} has {})",
        count, first, q.model.tensor(first).cols()));
  }
}

}  // namespace

const std::vector<WeightMethod>& weight_methods() {
  static const std::vector<WeightMethod> kMethods{
      {"rtn", "round to nearest", false, round_weights},
      {"gptq", "GPTQ: rounding errors made up for, column by column", true, gptq_weights},
      {"awq", "AWQ: large channels scaled up, ranges clipped", true, awq_weights},
      {"omniquant", "OmniQuant: ranges and scales learned", true, quantize_omniquant},
      {"smoothquant", "SmoothQuant: loud activations scaled down", true, quantize_smoothquant,
       true},
      {"quarot", "QuaRot: rotated, so that no channel is loud", false, quantize_quarot, true},
  };
  return kMethods;
}

const WeightMethod& find_weight_method(std::string_view name) {
  std::vector<std::string_view> names;
  for (const WeightMethod& method : weight_methods()) {
    if (method.name == name) return method;
    names.push_back(method.name);
  }
  fail(ErrorCode::kInvalidArgument, "method '{}': not one of {}", name, fmt::join(names, ", "));
}

void check_bits(const WeightMethod& method, const WeightGrid& grid) {
  if (grid.bits != kFloatBits) return check_grid(grid);
  if (method.changes_floats) return;
  fail(ErrorCode::kInvalidArgument, "{} with 16 bits would leave the model as it is", method.name);
}

void put_blocks(Quantization& q, const std::string& name, BlockMatrix blocks,
                const at::Tensor* gram) {
  const c10::NoGradGuard no_grad;
  const FloatTensor& tensor = q.model.tensor(name);
  const at::Tensor weight = matrix_view(tensor);
  at::Tensor rounded = at::empty_like(weight);
  decode_blocks(blocks, rounded.mutable_data_ptr<float>(), q.pool);
  q.weight_errors[name] = relative((weight - rounded).square().sum(at::kDouble).item<double>(),
                                   weight.square().sum(at::kDouble).item<double>());
  if (gram) {
    const OutputError error = output_error(weight, rounded, *gram);
    q.output_errors[name] = relative(error.difference, error.reference);
  }
  q.blocks.insert_or_assign(name, std::move(blocks));
}

ProgressFn layer_progress(const Quantization& q, std::string what, int32_t layer) {
  return [&q, what = std::move(what), layer](std::string_view, int64_t done, int64_t total) {
    report(q.progress, what, layer * total + done, q.model.config.num_layers * total);
  };
}

void quantize_weights(Quantization& q) {
  const WeightMethod& method = find_weight_method(q.options.method);
  check_options(q.options, method);
  method.run(q);
  note_unfit(q);
  if (q.options.grid.f32_params) {
    q.notes.emplace_back("scales and minima are f32 numbers, matrices are floats: a simulation");
  }
}

void round_weights(Quantization& q) {
  const std::vector<std::string> names = linear_names(q.model.config);
  int64_t done = 0;
  for (const std::string& name : names) {
    report(q.progress, "rounding", done++, std::ssize(names));
    const FloatTensor& tensor = q.model.tensor(name);
    if (!grid_fits(tensor.cols()) || q.blocks.contains(name)) continue;
    put_blocks(q, name,
               round_to_nearest(q.options.grid, tensor.values.data(), tensor.rows(), tensor.cols(),
                                q.pool));
  }
}

void finish_weights(Quantization& q) {
  if (q.options.grid.bits == kFloatBits) return;
  if (q.options.rounding == "gptq") {
    gptq_weights(q);
  } else {
    round_weights(q);
  }
}

}  // namespace lowkey
