#pragma once
// The operations on ATen that simulation.h speaks of, for AtenOps and for training. Autograd
// follows both; nothing here allocates but the results. Thread-safe after construction.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

#include "load/model_file.h"

namespace lowkey {

// Rows of x [rows, channels] rounded as ModelConfig's activation fields say, codes half to even:
//   symmetric   scale = clip * max|x| / (2^(bits - 1) - 1), codes -2^(bits - 1) ... 2^(bits - 1) -
//   1 asymmetric  from clip * min to clip * max in 2^bits - 1 steps; the zero point is real
// x itself at 16 bits. Gradients pass straight through where a value was not clipped, and see the
// row's scale as given.
at::Tensor rounded_activations(const ModelConfig& config, const at::Tensor& x);

// The rotations a model may need, by size: H / sqrt(n) as HadamardRotation has it, so that what it
// did to weights fits.
class Rotations {
 public:
  // Throws Error kUnsupported for a size there is no Hadamard matrix for.
  explicit Rotations(const ModelConfig& config);

  // Each of the `parts` equal parts of each row turned: heads, or whole rows.
  at::Tensor turned(const at::Tensor& x, int64_t parts) const;

 private:
  void add(int64_t size, const char* what);

  // H = the Kronecker product of small symmetric or square matrices, each orthogonal: [n, n].
  std::map<int64_t, std::vector<at::Tensor>> factors_;
};

}  // namespace lowkey
