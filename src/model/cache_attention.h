#pragma once
// Attention of a step's rows on the packed cache: store K and V, attend, let the windows move on.
// What every set of operations does at inference. Torch-free; belongs to one thread.
#include <cstdint>
#include <span>
#include <vector>

#include "attention/attend.h"
#include "cache/kv_cache.h"
#include "core/threads.h"
#include "load/model_file.h"
#include "model/step.h"

namespace lowkey {

// ALiBi's slopes per head, as transformers' build_alibi_tensor makes them for Falcon: powers of
// 2^(-8 / n) for the greatest power of two n <= num_heads, then every second one of those for 2n,
// rounded to bf16.
std::vector<float> alibi_slopes(int32_t num_heads);

class CacheAttention {
 public:
  CacheAttention(const ModelConfig& config, ThreadPool& pool);

  // Rows of all items, in order. q, out: [rows, num_qo_heads, head_dim]; k, v: [rows, num_kv_heads,
  // head_dim]; q and k after RoPE. Throws Error as KvSequence::append; then the sequences of the
  // step have layers of different lengths and must be given up.
  void run(int32_t layer, std::span<const StepItem> items, const float* q, const float* k,
           const float* v, float* out, AttendPrecision precision = AttendPrecision::kF32);

  // The same without attending: nobody wants these rows' results.
  void store(int32_t layer, std::span<const StepItem> items, const float* k, const float* v);

 private:
  void append(int32_t layer, std::span<const StepItem> items, const float* k, const float* v);
  void commit(int32_t layer, std::span<const StepItem> items);

  const int32_t num_qo_heads_;
  const int32_t num_kv_heads_;
  const int32_t head_dim_;
  const float scale_;
  const float softcap_;
  std::vector<float> alibi_slopes_;
  ThreadPool& pool_;
  AttendWorkspace workspace_;
  std::vector<AppendStage> stages_;  // one per item
  std::vector<AttendItem> attend_items_;
};

}  // namespace lowkey
