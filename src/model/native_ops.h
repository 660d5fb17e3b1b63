#pragma once
// The operations of ops.h for the few rows of a decode step: our own kernels on our own threads, in
// memory set aside once. Torch-free; belongs to one thread.
#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/threads.h"
#include "linear/matmul.h"
#include "model/cache_attention.h"
#include "model/ops.h"
#include "model/routing.h"
#include "model/row_ops.h"
#include "model/step.h"
#include "model/weights.h"

namespace lowkey {

// Equally large buffers of floats, lent and given back.
class RowBuffers {
 public:
  // A loan: [rows, cols] floats, given back when it goes.
  class Rows {
   public:
    Rows() = default;
    Rows(Rows&& other) noexcept { *this = std::move(other); }
    Rows& operator=(Rows&& other) noexcept;
    ~Rows() { give_back(); }

    float* data() const { return data_; }
    float* row(int64_t index) const { return data_ + index * cols_; }
    int64_t rows() const { return rows_; }
    int64_t cols() const { return cols_; }
    int64_t count() const { return rows_ * cols_; }

   private:
    friend class RowBuffers;
    void give_back();

    RowBuffers* owner_ = nullptr;
    float* data_ = nullptr;
    int64_t rows_ = 0;
    int64_t cols_ = 0;
  };

  explicit RowBuffers(int64_t floats) : floats_(floats) {}

  // A buffer is made only when all are lent; as many as were ever needed at once are kept.
  Rows lend(int64_t rows, int64_t cols);

 private:
  const int64_t floats_;
  std::vector<std::vector<float>> buffers_;
  std::vector<float*> free_;
};

class NativeOps {
 public:
  using Value = RowBuffers::Rows;

  // At most max_rows rows in a step.
  NativeOps(const ModelConfig& config, int64_t max_rows, ThreadPool& pool,
            CacheAttention& attention);

  // Before each step: where its rows belong. `step` must outlive the step.
  void begin(const StepRows& step) { step_ = &step; }

  Value rows_of(const float* x, int64_t rows, int64_t cols);
  Value zeros(int64_t rows, int64_t cols);
  int64_t rows(const Value& x) const { return x.rows(); }
  const float* floats(const Value& x) const { return x.data(); }
  Value embed(const WeightMatrix& table, std::span<const int32_t> tokens);
  Value linear(const Value& x, const Linear& linear) { return std::move(linears(x, linear)[0]); }
  template <std::same_as<Linear>... Linears>
  std::array<Value, sizeof...(Linears)> linears(const Value& x, const Linears&... weights) {
    std::array<Value, sizeof...(Linears)> y{buffers_.lend(x.rows(), weights.weight.rows())...};
    size_t i = 0;
    multiply(x, std::array{MatmulOutput{&weights.weight, weights.bias_data(), y[i++].data()}...});
    return y;
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

  // Not an operation of layers: straight into the caller's memory [rows, head.rows()].
  void logits(const WeightMatrix& head, const float* hidden, int64_t rows, float* out);

 private:
  void multiply(const Value& x, std::span<const MatmulOutput> outputs);

  const RowOps row_ops_;
  const int64_t max_rows_;
  ThreadPool& pool_;
  CacheAttention& attention_;
  MatmulScratch matmul_scratch_;
  Router router_;
  RowBuffers buffers_;
  const StepRows* step_ = nullptr;
};

}  // namespace lowkey
