#pragma once
// How far a quantized model is from the 16-bit one when it gets the 16-bit model's keys and values
// of the first tokens: IntactKV's figure of the error against the prefix's length. Where the error
// drops, the pivots are.
#include <cstdint>
#include <span>
#include <vector>

#include "core/progress.h"
#include "engine/engine.h"
#include "eval/document.h"

namespace lowkey {

// Means over documents' tokens behind the longest prefix, the same for all lengths.
struct PrefixError {
  int64_t length = 0;
  // Of the final hidden states: sum (h^ - h)^2 over sum h^2. Not a number where the model's have
  // another basis (is_rotated).
  double hidden = 0;
  double kl = 0;  // KL(16-bit || quantized), nats
};

// 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, ... and `most`.
std::vector<int64_t> prefix_lengths(int64_t most);

// One entry per length; both caches are 16-bit. Throws Error kInvalidArgument where a document has
// no token behind the longest prefix, or does not fit, or `quantized` is another model's
// (check_prefix); as Model::forward.
std::vector<PrefixError> prefix_errors(Engine& exact, Engine& quantized,
                                       std::span<const Document> documents,
                                       std::span<const int64_t> lengths,
                                       const ProgressFn& progress);

}  // namespace lowkey
