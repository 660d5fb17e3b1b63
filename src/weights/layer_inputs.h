#pragma once
// What each matrix of a model is given when it reads a text, layer by layer: the residual streams
// of all samples are kept, nothing else, so that memory does not grow with the number of layers.
// Belongs to one thread; shares samples out over its pool.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/threads.h"
#include "model/weights.h"
#include "weights/float_model.h"

namespace lowkey {

// Matrices that are given the same rows, and sums over all of these.
struct LayerInputs {
  std::vector<std::string> linears;  // canonical names
  at::Tensor gram;                   // [cols, cols]: of x^T x, float32
  at::Tensor magnitude;              // [cols]: of |x|
  int64_t rows = 0;                  // 0: no token came by (an expert nobody chose)
};

// The matrices of a layer by what they are given: q, k and v; o; gate and up; down; of mixtures the
// last two for each expert.
std::vector<std::vector<std::string>> linears_by_input(const ModelConfig& config, int32_t layer);

class LayerRunner {
 public:
  // Stands before the first layer. `model` and `samples` must outlive it. The sums depend on the
  // pool's number of threads in their last bits, not on chance.
  LayerRunner(const FloatModel& model, std::span<const std::vector<int32_t>> samples,
              ThreadPool& pool);

  int32_t layer() const { return layer_; }
  // The residual stream before the layer, [tokens, hidden_size] for each sample.
  std::span<const at::Tensor> hidden() const { return hidden_; }

  // Takes the model's norms and biases, which are copies, as they are now; matrices are always read
  // as they are.
  void refresh();

  // Runs the layer and sums up. Calls `progress` with one more sample done each time.
  std::vector<LayerInputs> inputs(const ProgressFn& progress = {});
  // Runs the layer and moves behind it.
  void advance(const ProgressFn& progress = {});
  // Both in one run, where nothing changes between.
  std::vector<LayerInputs> inputs_and_advance(const ProgressFn& progress = {});

 private:
  std::vector<LayerInputs> run(bool sum, bool move, const ProgressFn& progress);

  const FloatModel& model_;
  std::span<const std::vector<int32_t>> samples_;
  ThreadPool& pool_;
  ModelWeights weights_;
  std::vector<at::Tensor> hidden_;
  int32_t layer_ = 0;
};

// Mean squares of what two versions of a matrix make of the same rows: of (a - b) x, and of a x.
struct OutputError {
  double difference = 0.0;
  double reference = 0.0;
};
OutputError output_error(const at::Tensor& reference, const at::Tensor& other,
                         const at::Tensor& gram);

// [rows, cols] over the tensor's values, which must outlive it.
at::Tensor matrix_view(const FloatTensor& tensor);

}  // namespace lowkey
