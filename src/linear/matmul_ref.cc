#include <vector>

#include "linear/matmul.h"

namespace lowkey {

void matmul_ref(const MatmulArgs& args) {
  for (const MatmulOutput& output : args.outputs) {
    const WeightMatrix& weight = *output.weight;
    std::vector<float> w(static_cast<size_t>(weight.cols()));
    std::vector<std::byte> blocks(static_cast<size_t>(weight.row_bytes()));
    for (int64_t r = 0; r < weight.rows(); ++r) {
      // The specification's decoder, not the kernels'.
      weight.copy_blocks(r, 0, weight.cols() / dtype_block_elements(weight.dtype()), blocks.data());
      dequantize(weight.dtype(), blocks.data(), weight.cols(), w.data());
      for (int64_t i = 0; i < args.num_rows; ++i) {
        double sum = output.bias ? output.bias[r] : 0.0;
        for (int64_t c = 0; c < weight.cols(); ++c) {
          sum += static_cast<double>(w[static_cast<size_t>(c)]) * args.x[i * weight.cols() + c];
        }
        output.y[i * weight.rows() + r] = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace lowkey
