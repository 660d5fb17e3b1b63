#pragma once
// What the weights of some quantized folders ask of the run time and no kernel of ours does:
// activations rounded before each matrix, Hadamard rotations (ModelConfig::activation_bits,
// hadamard_qk, hadamard_down). Computed in floats on ATen. Torch-free, and header only: `inspect`
// says it in builds without this room. Thread-safe.
#include <fmt/format.h>

#include <string>

#include "load/model_file.h"

namespace lowkey {

// Whether such a model runs on AtenOps only.
inline bool is_simulated(const ModelConfig& config) {
  return config.activation_bits < 16 || config.hadamard_qk || config.hadamard_down;
}

// Whether the residual stream has another basis than the model's that it was made of (QuaRot):
// keys, values and predictions can be compared with that one's, hidden states cannot.
inline bool is_rotated(const ModelConfig& config) {
  return config.hadamard_qk || config.hadamard_v || config.hadamard_down;
}

// One line for people: what is simulated. Empty if nothing is.
inline std::string simulation_text(const ModelConfig& config) {
  if (!is_simulated(config)) return {};
  std::string what;
  if (config.activation_bits < 16)
    what = fmt::format("activations rounded to {} bits per token", config.activation_bits);
  if (config.hadamard_qk || config.hadamard_down)
    what += what.empty() ? "Hadamard rotations" : ", Hadamard rotations";
  return what + " (simulated in floats)";
}

}  // namespace lowkey
