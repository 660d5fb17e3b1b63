#pragma once
// Which rows of a step go to which expert of a mixture, and how much each counts. Torch-free;
// belongs to one thread.
#include <cstdint>
#include <span>
#include <vector>

#include "core/threads.h"
#include "linear/matmul.h"
#include "load/model_file.h"
#include "model/weights.h"

namespace lowkey {

// Rows by expert, so that each expert's weights are read once per step. Reused, so that a decode
// step allocates nothing.
class Routing {
 public:
  // logits: [rows, experts]. A row goes to the `chosen` experts of the largest softmax
  // probabilities (the lower index of equal ones) with those as weights; `normalize`: made to sum
  // to 1.
  void assign(const float* logits, int64_t rows, int32_t experts, int32_t chosen, bool normalize);

  // Of one expert, rows ascending.
  std::span<const int64_t> rows(int32_t expert) const { return part(rows_, expert); }
  std::span<const float> weights(int32_t expert) const { return part(weights_, expert); }

 private:
  template <typename T>
  std::span<const T> part(const std::vector<T>& all, int32_t expert) const {
    const auto e = static_cast<size_t>(expert);
    return {all.data() + first_[e], all.data() + first_[e + 1]};
  }

  struct Choice {
    int32_t expert;
    float weight;
  };
  std::vector<float> probabilities_;  // of one row
  std::vector<int32_t> order_;        // its experts, the most probable first
  std::vector<Choice> choices_;       // [rows, chosen]
  std::vector<int64_t> first_;        // [experts + 1]
  std::vector<int64_t> next_;         // [experts]
  std::vector<int64_t> rows_;         // [rows * chosen], by expert
  std::vector<float> weights_;
};

// The router's product and what follows from it. In f32 whatever else the step computes in: a
// rounding could choose another expert.
class Router {
 public:
  Router(const ModelConfig& config, ThreadPool& pool);

  // x: [rows, hidden]. Valid until the next call.
  const Routing& route(const float* x, int64_t rows, const Linear& router);

 private:
  const int32_t chosen_;
  const bool normalize_;
  ThreadPool& pool_;
  MatmulScratch scratch_;
  std::vector<float> logits_;
  Routing routing_;
};

}  // namespace lowkey
