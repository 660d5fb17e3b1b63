#pragma once
// A model of any configuration with random weights, in memory: variations of a layer that no file
// need be written for.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/threads.h"
#include "load/model_file.h"
#include "model/model.h"
#include "model/weights.h"

namespace lowkey::test {

// Three plain layers (RMS norm, RoPE, gated SiLU), small and ragged.
ModelConfig small_config();

// A change of small_config, with a name for messages.
struct ConfigVariation {
  std::string name;
  std::function<void(ModelConfig&)> apply;
};

// Everything that ModelConfig can say, one at a time.
const std::vector<ConfigVariation>& config_variations();

// As many of them at once as go together, drawn at random.
ModelConfig random_config(uint64_t seed);

// Owns the tensors that its weights borrow. Values: matrices of unit-variance outputs, norm weights
// around 1, small biases.
class RandomModel {
 public:
  explicit RandomModel(ModelConfig config, DType dtype = DType::kF32, uint64_t seed = 1);

  const ModelConfig& config() const { return config_; }
  FindTensor find() const;
  ModelWeights weights(WeightStorage storage, ThreadPool& pool) const;

 private:
  void add(const std::string& name, std::vector<int64_t> shape, double center, double spread);
  void add_linear(const std::string& name, int64_t out, int64_t in, bool bias);
  void add_norm(const std::string& name, int64_t size, bool bias);

  struct Tensor {
    std::vector<std::byte> bytes;
    TensorView view;
  };
  const ModelConfig config_;
  const DType dtype_;
  uint64_t seed_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace lowkey::test
