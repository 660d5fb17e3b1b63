#pragma once
// Checks that both file formats share: a configuration is believed only after these. Internal to
// load/. Torch-free, thread-safe.
#include <cstdint>
#include <string>

#include "load/model_file.h"

namespace lowkey {

// `field` is the file and its own name for the value ("x.gguf: llama.block_count"); messages repeat
// it. All throw Error kCorruptFile.
int32_t checked_count(const std::string& field, int64_t value, int32_t max);
double checked_positive(const std::string& field, double value);  // finite and > 0

// Far above any model there is, and low enough that no product of two of them overflows 64 bits.
inline constexpr int32_t kMaxLayers = 4096;
inline constexpr int32_t kMaxHidden = 1 << 20;
inline constexpr int32_t kMaxHeads = 1 << 14;
inline constexpr int32_t kMaxHeadDim = 1 << 12;
inline constexpr int32_t kMaxVocab = 1 << 24;
inline constexpr int32_t kMaxExperts = 1 << 12;
inline constexpr int32_t kMaxContext = INT32_MAX;

// What no single value shows: that they fit each other. Fills nothing in.
void validate_config(const ModelConfig& config, const std::string& source_name);

}  // namespace lowkey
