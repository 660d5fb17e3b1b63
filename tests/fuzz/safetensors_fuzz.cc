// safetensors files: refused with lowkey::Error, or every tensor can be decoded and the tensors
// cover the data exactly.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "load/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    const lowkey::SafetensorsFile file = lowkey::SafetensorsFile::parse(bytes, "fuzz.safetensors");
    uint64_t covered = 0;
    for (const lowkey::TensorView& tensor : file.tensors()) {
      const int64_t count = tensor.rows() * tensor.cols();
      LOWKEY_CHECK(
          tensor.data.size() == static_cast<uint64_t>(count * tensor.row_bytes()) /
                                    static_cast<uint64_t>(std::max<int64_t>(tensor.cols(), 1)),
          "{}: {} bytes", tensor.name, tensor.data.size());
      std::vector<float> values(static_cast<size_t>(count));
      lowkey::dequantize_rows(tensor, 0, tensor.rows(), values.data());
      covered += tensor.data.size();
    }
    LOWKEY_CHECK(covered <= size, "{} of {}", covered, size);
  } catch (const lowkey::Error&) {
  }
  return 0;
}
