#pragma once
// The Llama architecture as its papers write it, in double precision, without a cache and with no
// line in common with src/model but the RoPE frequencies (which have goldens of their own).
#include <cstdint>
#include <span>
#include <vector>

#include "linear/weight_matrix.h"
#include "load/model_file.h"

namespace lowkey::test {

// Logits of every position, [tokens, vocab]. Matrices are rounded to bf16 first if storage is
// kBF16.
std::vector<double> reference_logits(const ModelFile& file, std::span<const int32_t> tokens,
                                     WeightStorage storage = WeightStorage::kF32);

}  // namespace lowkey::test
