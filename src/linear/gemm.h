#pragma once
// Matrix products for the many rows of a prompt, in bf16: inputs and weights are rounded to it,
// products and sums are f32 (AVX512_BF16's vdpbf16ps). matmul.h serves the few rows of a decode
// step. Torch-free; no allocation; results depend on neither the number of threads nor that of
// rows.
#include <cstdint>
#include <span>
#include <vector>

#include "core/half.h"
#include "core/threads.h"
#include "linear/packed_matrix.h"

namespace lowkey {

// Whether this machine has the instructions and active_isa() allows them. Everything below aborts
// where it has not.
bool gemm_available();

// Inputs as gemm() reads them: [num_rows, stride], with zeros from the matrix' cols to its
// padded_cols.
struct Bf16Rows {
  const BFloat16* data = nullptr;
  int64_t num_rows = 0;
  int64_t stride = 0;  // elements; at least padded_cols
};

struct GemmOutput {
  const PackedMatrix* weight = nullptr;
  const float* bias = nullptr;  // [weight->rows()], or null
  float* y = nullptr;           // [num_rows, weight->rows()]
};

enum class GemmStore : uint8_t { kReplace, kAdd };  // y = product, or y += product

// Matrices that share an input (Q, K and V) go in one call: one fork and join.
void gemm(const Bf16Rows& x, std::span<const GemmOutput> outputs, GemmStore store,
          ThreadPool& pool);

// The same with matrices as they lie in memory: every panel is packed by the thread that multiplies
// by it, for this call alone. A prompt of hundreds of rows pays a few percent for weights that
// exist once. Allocates until `scratch` has grown; one call at a time on a scratch.
struct StreamedOutput {
  const WeightMatrix* weight = nullptr;
  const float* bias = nullptr;  // [weight->rows()], or null
  float* y = nullptr;           // [num_rows, weight->rows()]
};
class GemmScratch {
 private:
  friend void gemm_streamed(const Bf16Rows&, std::span<const StreamedOutput>, GemmStore,
                            GemmScratch&, ThreadPool&);
  struct PerThread {
    PanelScratch packing;
    std::vector<BFloat16> panel;
  };
  std::vector<PerThread> threads_;
};
void gemm_streamed(const Bf16Rows& x, std::span<const StreamedOutput> outputs, GemmStore store,
                   GemmScratch& scratch, ThreadPool& pool);

// silu(x gate^T + gate_bias) * (x up^T + up_bias), rounded to bf16: the first half of a gated MLP,
// whose two products never reach memory.
struct GatedGemmOutput {
  const PackedMatrix* gate = nullptr;
  const PackedMatrix* up = nullptr;  // of the same shape
  const float* gate_bias = nullptr;  // or null
  const float* up_bias = nullptr;    // or null
  BFloat16* y = nullptr;             // [num_rows, stride]; the first gate->rows() are written
  int64_t stride = 0;
};
void gated_gemm(const Bf16Rows& x, const GatedGemmOutput& output, ThreadPool& pool);

// [num_rows, cols] floats -> out [num_rows, stride], rounded to nearest even (subnormals to zero)
// and padded with zeros to the stride. On the calling thread.
void round_to_bf16(const float* x, int64_t num_rows, int64_t cols, BFloat16* out, int64_t stride);

}  // namespace lowkey
