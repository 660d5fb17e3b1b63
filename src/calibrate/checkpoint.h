#pragma once
// A training run in the middle, as a file: all it takes to go on as if nothing had happened.
// Safetensors, all or nothing.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <vector>

#include "calibrate/adamw.h"
#include "calibrate/trainer.h"

namespace lowkey::calibrate {

struct TrainState {
  int64_t step = 0;
  std::vector<at::Tensor> tensors;
  AdamWState adamw;
  std::vector<CurvePoint> curve;
  std::vector<at::Tensor> best;  // the tensors at the best look; empty before the first
};

// Throws Error kIo.
void write_checkpoint(const std::filesystem::path& path, const nlohmann::json& settings,
                      const TrainState& state);

// Nothing if there is no such file. `like`: what the tensors' shapes must be. Throws Error
// kCorruptFile naming the file and what is wrong, kInvalidArgument where the settings differ,
// naming the first that does.
std::optional<TrainState> read_checkpoint(const std::filesystem::path& path,
                                          const nlohmann::json& settings,
                                          std::span<const at::Tensor> like);

}  // namespace lowkey::calibrate
