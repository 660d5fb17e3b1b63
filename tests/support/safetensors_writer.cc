#include "support/safetensors_writer.h"

#include <nlohmann/json.hpp>

#include "core/files.h"
#include "support/gguf_writer.h"

namespace lowkey::test {

SafetensorsWriter& SafetensorsWriter::add_tensor(std::string name, std::string dtype,
                                                 std::vector<int64_t> shape, std::string data) {
  tensors_.push_back({std::move(name), std::move(dtype), std::move(shape), std::move(data)});
  return *this;
}

std::string SafetensorsWriter::header_json() const {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!metadata.empty()) json["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    nlohmann::ordered_json entry;
    entry["dtype"] = tensor.dtype;
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {offset, offset + tensor.data.size()};
    json[tensor.name] = entry;
    offset += tensor.data.size();
  }
  return json.dump();
}

std::string SafetensorsWriter::data() const {
  std::string all;
  for (const Tensor& tensor : tensors_) all += tensor.data;
  return all;
}

std::string SafetensorsWriter::bytes() const {
  std::string text = header.value_or(header_json());
  while (pad_header && text.size() % 8 != 0) text += ' ';
  return ByteWriter().put(header_bytes.value_or(text.size())).raw(text).raw(data()).bytes();
}

void SafetensorsWriter::write(const std::filesystem::path& path) const {
  write_file_atomically(path, bytes());
}

}  // namespace lowkey::test
