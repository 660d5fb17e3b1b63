#pragma once
// Choosing the next token from logits. Torch-free. A Sampler belongs to one thread.
#include <cstdint>
#include <span>
#include <vector>

#include "core/rng.h"

namespace lowkey {

// Applied in llama.cpp's order: top-k, top-p, min-p, temperature.
struct SamplingOptions {
  double temperature = 0.8;  // 0: always the most likely token
  int32_t top_k = 40;        // 0: all
  double top_p = 0.95;       // 1: all; smallest set of tokens with at least this probability
  double min_p = 0.05;  // 0: all; tokens at least this share of the most likely one's probability
  uint64_t seed = 0;
};

class Sampler {
 public:
  // Throws Error kInvalidArgument naming the option that is out of range.
  explicit Sampler(const SamplingOptions& options);

  // Throws Error kNumeric if a logit is NaN or all are -infinity. The same options and logits give
  // the same tokens.
  int32_t sample(std::span<const float> logits);

 private:
  struct Candidate {
    int32_t id;
    float logit;
  };
  SamplingOptions options_;
  SplitMix64 rng_;
  std::vector<Candidate> candidates_;  // scratch
  std::vector<double> weights_;
};

// The most likely token; the lowest id among equals. Throws like Sampler::sample.
int32_t argmax(std::span<const float> logits);

}  // namespace lowkey
