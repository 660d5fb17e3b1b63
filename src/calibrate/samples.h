#pragma once
// Texts as samples of training: what follows the prefix, which rows count, and for what.
// Torch-free.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/document.h"

namespace lowkey::calibrate {

enum class LossKind : uint8_t {
  kLayers,   // sum over layers of mean((student - teacher)^2) / 2
  kLogits,   // KL(teacher || student), nats per token
  kAnswers,  // cross-entropy of the next token, nats per token; asks no teacher
};

// One sequence after the prefix.
struct Sample {
  std::string name;
  std::vector<int32_t> tokens;
  // Which rows count, ascending: for kLayers the answer's tokens, else those that predict them.
  std::vector<int64_t> rows;
  std::vector<int32_t> next;  // after each of `rows`; of use to kAnswers alone
};

struct Samples {
  std::vector<Sample> train, heldout;
};

// At most `tokens` tokens. A document that begins with the prefix is what comes after it; others
// follow it as they are. Its scored tokens count; with no rows left the sample is of no use.
Sample make_sample(const Document& document, std::span<const int32_t> prefix, LossKind loss,
                   int64_t tokens);

// As many as there are up to train + heldout, every (train + heldout) / heldout-th held out, at
// least one. Documents that are of no use are left out. Throws Error kInvalidArgument for fewer
// than two.
Samples make_samples(std::span<const Document> documents, std::span<const int32_t> prefix,
                     LossKind loss, int64_t tokens, int64_t train, int64_t heldout);

}  // namespace lowkey::calibrate
