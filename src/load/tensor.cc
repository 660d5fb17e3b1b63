#include "load/tensor.h"

#include <array>

#include "core/error.h"

namespace lowkey {
namespace {

struct DTypeInfo {
  std::string_view name;
  int64_t block_elements;
  int64_t block_bytes;
};

// In the order of enum DType.
constexpr std::array<DTypeInfo, 11> kDTypes{{
    {"F32", 1, 4},
    {"F16", 1, 2},
    {"BF16", 1, 2},
    {"Q4_0", 32, 18},
    {"Q4_1", 32, 20},
    {"Q5_0", 32, 22},
    {"Q5_1", 32, 24},
    {"Q8_0", 32, 34},
    {"Q4_K", 256, 144},
    {"Q5_K", 256, 176},
    {"Q6_K", 256, 210},
}};

const DTypeInfo& info(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  LOWKEY_CHECK(index < kDTypes.size(), "dtype {}", index);
  return kDTypes[index];
}

}  // namespace

std::string_view dtype_name(DType dtype) { return info(dtype).name; }
int64_t dtype_block_elements(DType dtype) { return info(dtype).block_elements; }
int64_t dtype_block_bytes(DType dtype) { return info(dtype).block_bytes; }

}  // namespace lowkey
