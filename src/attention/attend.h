#pragma once
// Attention over a packed cache: for decode (one or a few new tokens per sequence) and prefill
// (many). Torch-free.
//
// For the query of token t (absolute position) and query head h, with kv = h / (num_qo_heads /
// num_kv_heads):
//   out = softmax(scale * q . K^T) V over tokens view.first_seen(t)..t, where a token is read from
//   its page if it is among the first view.stored_for(side, t) tokens after the prefix, and exactly
//   otherwise. What a layer's window hides costs nothing but its share of a page or tile.
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "cache/kv_cache.h"
#include "core/cpu.h"
#include "core/threads.h"

namespace lowkey {

// One sequence's part of a step. Rows of q and out belong to the view's new tokens, in order.
struct AttendItem {
  const LayerView* view = nullptr;
  const float* q =
      nullptr;           // [num_tokens, num_qo_heads, head_dim], keys' channel order, after RoPE
  float* out = nullptr;  // the same shape; must not alias q
};

// Decode multiplies packed codes by integers: queries times scales, probabilities times scales.
enum class DecodeDots : uint8_t {
  kTwoPass,  // 16 bits in two signed bytes: far below what 8-bit quantization changes
  kOnePass,  // 8 bits: up to twice as fast where arithmetic limits; its error is about that of an
             // 8-bit cache, so it suits 2 to 4 bits
};

// Prefill multiplies floats. kBF16 lets it round queries, keys, values and probabilities to bf16
// where the machine multiplies that faster (AVX512_BF16); sums stay f32, and so does everything
// where a side has 32 bits. For callers whose own products are in bf16 anyway.
enum class AttendPrecision : uint8_t { kF32, kBF16 };

// A decode step cuts a sequence into about this many runs at most, each with partial results of its
// own in the workspace.
inline constexpr int64_t kMaxDecodeRuns = 32;

struct AttendArgs {
  std::span<const AttendItem> items;
  int32_t num_qo_heads = 0;
  float scale = 0.0f;  // usually 1 / sqrt(head_dim)
  // Scores s = scale * q . k become cap * tanh(s / cap); 0: they do not.
  float softcap = 0.0f;
  // ALiBi: [num_qo_heads] or empty; then s += slope * (key's position - query's).
  std::span<const float> alibi_slopes = {};
  AttendPrecision precision = AttendPrecision::kF32;
  DecodeDots decode_dots = DecodeDots::kTwoPass;
};

// The specification: one query at a time, in double precision, reading every element through
// quant/.
void attend_ref(const AttendArgs& args);

// Scratch of attend(), reused between calls. Not thread-safe: one per caller.
class AttendWorkspace {
 public:
  AttendWorkspace();
  ~AttendWorkspace();
  AttendWorkspace(const AttendWorkspace&) = delete;
  AttendWorkspace& operator=(const AttendWorkspace&) = delete;

 private:
  friend void attend(const AttendArgs&, ThreadPool&, AttendWorkspace&, Isa);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The same on all threads of `pool`. The result depends on neither the number of threads nor who
// ran what: tokens are split into fixed runs of pages, merged in order by log-sum-exp.
void attend(const AttendArgs& args, ThreadPool& pool, AttendWorkspace& workspace,
            Isa isa = active_isa());

}  // namespace lowkey
