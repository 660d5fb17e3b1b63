#pragma once
// Tensors of a file counted by type.
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "load/tensor.h"
#include "terminal.h"

namespace lowkey {

std::string tensor_types_text(std::span<const TensorView* const> tensors, const Terminal& terminal);
nlohmann::ordered_json tensor_types_json(std::span<const TensorView* const> tensors);

std::string shape_text(const TensorView& tensor);  // "49152 x 576"

// "key  value" lines under a heading.
using Facts = std::vector<std::pair<std::string, std::string>>;
std::string facts_text(const std::string& heading, const Facts& facts, const Terminal& terminal);

}  // namespace lowkey
