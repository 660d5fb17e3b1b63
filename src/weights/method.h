#pragma once
// How a method of weight quantization plugs in: it is handed a model in floats and a text's tokens,
// may change the floats, and leaves the matrices in blocks. One row of methods.cc for each.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/progress.h"
#include "core/threads.h"
#include "weights/float_model.h"
#include "weights/grid.h"

namespace at {
class Tensor;
}

namespace lowkey {

struct QuantizeOptions {
  std::string method = "rtn";
  WeightGrid grid = {};
  // Windows of the calibration text, each seen alone from position 0. Empty for methods that look
  // at the weights alone.
  std::vector<std::vector<int32_t>> samples = {};
  uint64_t seed = 0;
  int32_t activation_bits = 16;  // of methods that round what the matrices are given
  // Of a token's largest magnitude; nothing: the method's own, 0.9 for quarot, else 1.
  std::optional<double> activation_clip = std::nullopt;
  double alpha = 0.5;                // SmoothQuant's strength of migration
  int32_t epochs = 20;               // of methods that train: rounds of all samples per layer,
  double learning_rate = 5e-3;       // and AdamW's rate
  std::string rounding = "nearest";  // of methods that change the weights first: "nearest", "gptq"
};

// What a method works on and what it leaves behind. A method fills `blocks`, changes `model` (its
// config too) and says in `notes` what a person should know: places it left out, above all.
struct Quantization {
  const QuantizeOptions& options;
  FloatModel& model;
  ThreadPool& pool;
  const ProgressFn& progress;

  std::map<std::string, BlockMatrix, std::less<>> blocks = {};  // by canonical name
  // Of each matrix, relative root mean squares: of the weights, as put_blocks() found the floats,
  // and of what it makes of the calibration text.
  std::map<std::string, double, std::less<>> weight_errors = {}, output_errors = {};
  std::vector<std::string> notes = {};  // a line each, without its end
};

struct WeightMethod {
  std::string_view name;         // "gptq"
  std::string_view description;  // for help and messages: one line
  bool needs_text = false;
  void (*run)(Quantization& quantization) = nullptr;
  bool changes_floats = false;  // worth having with weights that nothing rounds (kFloatBits)
};

const std::vector<WeightMethod>& weight_methods();
// Throws Error kInvalidArgument listing them all.
const WeightMethod& find_weight_method(std::string_view name);

// Bits of a weight that is not rounded.
inline constexpr int32_t kFloatBits = 16;
// As check_grid, and kFloatBits where the method changes floats.
void check_bits(const WeightMethod& method, const WeightGrid& grid);

// Checks the options, runs the method. Matrices whose inputs are no multiple of 32 stay as they are
// and are named in the notes. Throws what methods throw, Error kCancelled by `progress`.
void quantize_weights(Quantization& quantization);

// What a method calls for each matrix: keeps the blocks and how far they are from the model's
// floats of that name; `gram` (weights/layer_inputs.h) says what those are worth in the output.
void put_blocks(Quantization& quantization, const std::string& name, BlockMatrix blocks,
                const at::Tensor* gram = nullptr);

// For work on one layer after another: what is reported as done of that layer becomes a part of the
// whole. `quantization` must outlive it.
ProgressFn layer_progress(const Quantization& quantization, std::string what, int32_t layer);

// Round to nearest: every matrix of the layers that has no blocks yet. The floats stay as they are.
void round_weights(Quantization& quantization);
// As QuantizeOptions::rounding says: round_weights or gptq. At kFloatBits neither.
void finish_weights(Quantization& quantization);

}  // namespace lowkey
