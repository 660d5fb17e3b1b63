// GGUF files: refused with lowkey::Error, or every tensor can be decoded to its last byte, every
// value can be asked for, and the model's configuration and the tokenizer's metadata are read or
// refused.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "load/gguf.h"
#include "load/gguf_config.h"
#include "load/tokenizer_from_file.h"
#include "load/weight_names.h"

namespace {

void decode_all(const lowkey::GgufFile& file) {
  for (const lowkey::TensorView& tensor : file.tensors()) {
    LOWKEY_CHECK(file.find_tensor(tensor.name) == &tensor, "{}", tensor.name);
    LOWKEY_CHECK(tensor.data.size() == static_cast<uint64_t>(tensor.rows()) *
                                           static_cast<uint64_t>(tensor.row_bytes()),
                 "{}: {} bytes", tensor.name, tensor.data.size());
    std::vector<float> row(static_cast<size_t>(tensor.cols()));
    for (int64_t r = 0; r < tensor.rows(); ++r) lowkey::dequantize_rows(tensor, r, 1, row.data());
  }
}

// Each typed access of each key gives a value or an Error.
void ask_for_all(const lowkey::GgufFile& file) {
  for (const auto& [key, value] : file.metadata()) {
    try {
      (void)file.get_int(key);
    } catch (const lowkey::Error&) {
    }
    try {
      (void)file.get_string(key);
    } catch (const lowkey::Error&) {
    }
    try {
      (void)file.get_float(key);
    } catch (const lowkey::Error&) {
    }
    try {
      (void)file.get_strings(key);
    } catch (const lowkey::Error&) {
    }
  }
}

// A configuration, and the names and shapes it asks for, or an Error.
void read_config(const lowkey::GgufFile& file) {
  try {
    lowkey::ModelConfig config = lowkey::read_gguf_config(file);
    if (config.num_layers > 8 || config.num_experts > 8) return;  // only long
    (void)lowkey::weight_specs(config, lowkey::ModelFormat::kGguf);
  } catch (const lowkey::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    const lowkey::GgufFile file = lowkey::GgufFile::parse(bytes, "fuzz.gguf");
    decode_all(file);
    ask_for_all(file);
    read_config(file);
    (void)lowkey::tokenizer_spec_from_gguf(file);
  } catch (const lowkey::Error&) {
  }
  return 0;
}
