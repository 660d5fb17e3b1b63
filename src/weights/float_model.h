#pragma once
// A model's weights as floats that may be changed: what weight quantization works on. Torch-free;
// belongs to one thread.
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/progress.h"
#include "core/threads.h"
#include "load/model_file.h"
#include "model/weights.h"

namespace lowkey {

struct FloatTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;  // row-major, rows in lowkey's order
  // Differs from the source's, and is written as floats; else its bytes are.
  bool changed = false;

  int64_t rows() const { return shape.size() > 1 ? shape.front() : 1; }
  int64_t cols() const { return shape.back(); }
  TensorView view(std::string name) const;  // borrows the values
};

class FloatModel {
 public:
  // All of `file` as floats: four bytes for each weight.
  FloatModel(const ModelFile& file, ThreadPool& pool, const ProgressFn& progress);

  // May be changed: a head untied, rotations declared. quantization.json carries what differs.
  ModelConfig config;

  // By canonical name (ModelFile::tensor); throws Error kNotFound. `edit` marks it as changed.
  const FloatTensor& tensor(std::string_view name) const;
  const FloatTensor* find(std::string_view name) const;
  FloatTensor& edit(std::string_view name);
  // Puts a tensor there that the source lacks (an untied head).
  FloatTensor& add(std::string name, std::vector<int64_t> shape, std::vector<float> values);

  // Norm weights as they multiply: files of some families hold them less 1
  // (ModelConfig::norm_plus_one).
  std::vector<float> norm_weight(const std::string& name) const;
  void set_norm_weight(const std::string& name, std::span<const float> weight);

  // Views of the matrices as they are, WeightStorage::kF32, for computing with: changes of a
  // matrix's values show in them, those of norms and biases do not. `add` invalidates nothing.
  ModelWeights weights(ThreadPool& pool) const;

  const std::map<std::string, FloatTensor, std::less<>>& tensors() const { return tensors_; }

 private:
  std::map<std::string, FloatTensor, std::less<>> tensors_;
};

// The layers' matrices, those that methods round: "layers.N.q.weight" ... in the order in which a
// layer uses them, a layer's experts included, routers not. `layer` -1: of all layers.
std::vector<std::string> linear_names(const ModelConfig& config, int32_t layer = -1);

// "q" of "layers.3.q.weight", "down" of "layers.3.experts.7.down.weight".
std::string_view linear_kind(std::string_view name);

}  // namespace lowkey
