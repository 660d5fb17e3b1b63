#pragma once
// The operations of ops.h for the many rows of a prompt, in bf16: products on gemm(), attention in
// bf16 too (AttendPrecision), sums, norms and what lies between in f32. Torch-free; belongs to one
// thread. For machines with AVX512_BF16 and weights that are no 32-bit floats; AtenOps does the
// rest and is what tests compare this with.
#include <array>
#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/half.h"
#include "core/threads.h"
#include "linear/gemm.h"
#include "linear/packed_matrix.h"
#include "model/cache_attention.h"
#include "model/native_ops.h"
#include "model/ops.h"
#include "model/routing.h"
#include "model/row_ops.h"
#include "model/step.h"
#include "model/weights.h"

namespace lowkey {

class PrefillOps {
 public:
  using Value = RowBuffers::Rows;

  // Whether this machine can, and whether rounding to bf16 is what these weights ask for: f32
  // weights are kept that way by those who want f32 results.
  static bool suits(const ModelWeights& weights);

  // Packs the linears of `weights`, which must stay where they are as long as this; but where they
  // are kept as the file has them (WeightStorage::kFile), so that a model larger than half the
  // memory can be run: then products pack what they read on the way. Requires suits(weights).
  PrefillOps(const ModelWeights& weights, ThreadPool& pool, CacheAttention& attention);

  int64_t packed_bytes() const;  // memory of the packed copies; 0 if there are none

  // Before each step: where its rows belong. `step` must outlive the step. No Value may be left.
  void begin(const StepRows& step);

  Value rows_of(const float* x, int64_t rows, int64_t cols);
  Value zeros(int64_t rows, int64_t cols);
  int64_t rows(const Value& x) const { return x.rows(); }
  const float* floats(const Value& x) const { return x.data(); }
  Value embed(const WeightMatrix& table, std::span<const int32_t> tokens);
  Value linear(const Value& x, const Linear& linear) { return std::move(linears(x, linear)[0]); }
  template <std::same_as<Linear>... Linears>
  std::array<Value, sizeof...(Linears)> linears(const Value& x, const Linears&... weights) {
    round(x);
    return products(weights...);
  }
  Value norm(const Value& x, const Norm& norm);
  Value norm_heads(Value x, const std::vector<float>& weight, int32_t num_heads);
  Value rope(Value x, int32_t num_heads, RopeUse use);
  Value attend(int32_t layer, const Value& q, const Value& k, const Value& v);
  void store(int32_t layer, const Value& k, const Value& v);
  Value activate(Value x);
  Value gate(Value x, const Value& y);
  Value add(Value x, const Value& y);
  Value scale(Value x, float factor);
  Value select_rows(const Value& x, std::span<const int64_t> rows);
  Value add_to_rows(Value x, const Value& y, std::span<const int64_t> rows,
                    std::span<const float> factors);
  const Routing& route(const Value& x, const Linear& router) {
    return router_.route(x.data(), x.rows(), router);
  }

  template <std::same_as<Linear>... Linears>
  std::array<Value, sizeof...(Linears)> linears_of_norm(const Value& x, const Norm& norm,
                                                        const Linears&... weights) {
    round_norm(x, norm);
    return products(weights...);
  }
  Value add_linear(Value x, const Value& y, const Linear& linear);
  Value add_silu_mlp(Value x, const Norm& norm, const Mlp& mlp);

 private:
  // Fill input_, the bf16 rows that the next products read.
  void round(const Value& x);
  void round_norm(const Value& x, const Norm& norm);
  void size_input(int64_t rows, int64_t cols);

  template <std::same_as<Linear>... Linears>
  std::array<Value, sizeof...(Linears)> products(const Linears&... weights) {
    std::array<Value, sizeof...(Linears)> y{
        buffers_->lend(input_.num_rows, weights.weight.rows())...};
    size_t i = 0;
    multiply(input_,
             std::array{StreamedOutput{&weights.weight, weights.bias_data(), y[i++].data()}...},
             std::array{&weights...}, GemmStore::kReplace);
    return y;
  }
  // outputs[i] is of linears[i].
  void multiply(const Bf16Rows& x, std::span<const StreamedOutput> outputs,
                std::span<const Linear* const> linears, GemmStore store);
  const PackedMatrix& packed(const Linear& linear) const { return packed_.at(&linear); }

  // work(first row, number of rows, thread), for ranges that cover [0, rows), on all threads.
  template <typename Work>
  void by_rows(int64_t rows, const Work& work);

  const RowOps row_ops_;
  const bool streams_;  // nothing is packed before it is needed
  ThreadPool& pool_;
  CacheAttention& attention_;
  Router router_;
  std::unordered_map<const Linear*, PackedMatrix> packed_;
  GemmScratch gemm_scratch_;

  std::optional<RowBuffers> buffers_;  // made anew for a step longer than all before
  int64_t max_rows_ = 0;
  std::vector<BFloat16> input_data_, gated_data_;
  Bf16Rows input_;
  std::vector<std::vector<float>> normed_;  // per thread: one row
  const StepRows* step_ = nullptr;
};

}  // namespace lowkey
