#pragma once
// The tensor type numbers of GGUF files. Torch-free.
#include <cstdint>
#include <optional>
#include <string_view>

#include "load/tensor.h"

namespace lowkey {

std::optional<DType> dtype_from_ggml(uint32_t type);  // nothing: lowkey does not read it
uint32_t ggml_from_dtype(DType dtype);
std::string_view ggml_type_name(uint32_t type);  // empty for a number ggml does not know either

}  // namespace lowkey
