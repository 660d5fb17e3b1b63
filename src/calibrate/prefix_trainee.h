#pragma once
// An intact prefix (cache/intact_prefix.h) as what is trained, and as what is stored.
#include <cstdint>

#include "cache/intact_prefix.h"
#include "calibrate/calibrate.h"
#include "calibrate/distillation.h"
#include "load/model_file.h"
#include "model/exact_ops.h"

namespace lowkey::calibrate {

// Per layer k, then v: [tokens, num_kv_heads, head_dim] in float32. to_prefix takes ids and shape
// from `like`; numbers beyond f16's become its greatest.
std::vector<at::Tensor> prefix_tensors(const IntactPrefix& prefix);
IntactPrefix to_prefix(const IntactPrefix& like, std::span<const at::Tensor> tensors);

// As a model with this configuration takes them: of rotated ones (hadamard_qk, hadamard_v) every
// row times H / sqrt(head_dim), as prefix_for (engine/prefix_file.h) turns those of files.
ExactPrefix exact_prefix(std::span<const at::Tensor> tensors, const ModelConfig& config);

// Starts at `prefix` bit for bit; stored as f16, rounded to `bits`.
Trainee prefix_trainee(const IntactPrefix& prefix, const ModelConfig& student, int32_t bits);

}  // namespace lowkey::calibrate
