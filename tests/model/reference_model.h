#pragma once
// A decoder-only transformer as its papers write it, with every variation that ModelConfig has, in
// double precision, without a cache and with no line in common with src/model but the RoPE
// frequencies (which have goldens of their own).
#include <cstdint>
#include <span>
#include <vector>

#include "linear/weight_matrix.h"
#include "load/model_file.h"
#include "model/weights.h"

namespace lowkey::test {

// Logits of every position, [tokens, vocab]. Matrices are rounded to bf16 first if storage is
// kBF16.
std::vector<double> reference_logits(const ModelConfig& config, const FindTensor& find,
                                     std::span<const int32_t> tokens,
                                     WeightStorage storage = WeightStorage::kF32);
std::vector<double> reference_logits(const ModelFile& file, std::span<const int32_t> tokens,
                                     WeightStorage storage = WeightStorage::kF32);

}  // namespace lowkey::test
