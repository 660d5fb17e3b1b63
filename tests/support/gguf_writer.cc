#include "support/gguf_writer.h"

#include <algorithm>

#include "core/files.h"
#include "load/ggml_types.h"

namespace lowkey::test {

GgufWriter& GgufWriter::add(std::string_view key, std::string_view value) {
  return add_raw(key, GgufType::kString, ByteWriter().text(value).bytes());
}

GgufWriter& GgufWriter::add(std::string_view key, const std::vector<std::string>& values) {
  ByteWriter out;
  out.put(static_cast<uint32_t>(GgufType::kString)).put(static_cast<uint64_t>(values.size()));
  for (const std::string& value : values) out.text(value);
  return add_raw(key, GgufType::kArray, out.bytes());
}

GgufWriter& GgufWriter::add_raw(std::string_view key, GgufType type, std::string_view value) {
  key_values.push_back({std::string(key), static_cast<uint32_t>(type), std::string(value)});
  return *this;
}

GgufWriter& GgufWriter::remove(std::string_view key) {
  std::erase_if(key_values, [&](const KeyValue& kv) { return kv.key == key; });
  return *this;
}

GgufWriter& GgufWriter::add_tensor(std::string name, DType dtype, std::vector<int64_t> shape,
                                   std::string data) {
  std::vector<uint64_t> dims(shape.rbegin(), shape.rend());
  tensors.push_back({std::move(name), std::move(dims), ggml_from_dtype(dtype), std::move(data)});
  return *this;
}

GgufWriter& GgufWriter::remove_tensor(std::string_view name) {
  std::erase_if(tensors, [&](const Tensor& tensor) { return tensor.name == name; });
  return *this;
}

std::string GgufWriter::bytes() const {
  ByteWriter out;
  out.raw(magic).put(version);
  out.put(num_tensors.value_or(tensors.size())).put(num_key_values.value_or(key_values.size()));
  for (const KeyValue& kv : key_values) out.text(kv.key).put(kv.type).raw(kv.value);
  ByteWriter data;
  for (const Tensor& tensor : tensors) {
    data.pad_to(alignment);
    out.put(tensor.name_bytes.value_or(tensor.name.size())).raw(tensor.name);
    out.put(tensor.num_dims.value_or(static_cast<uint32_t>(tensor.dims.size())));
    for (uint64_t size : tensor.dims) out.put(size);
    out.put(tensor.type).put(tensor.offset.value_or(data.bytes().size()));
    data.raw(tensor.data);
  }
  if (!tensors.empty()) out.pad_to(alignment).raw(data.bytes());
  return out.bytes();
}

void GgufWriter::write(const std::filesystem::path& path) const {
  write_file_atomically(path, bytes());
}

}  // namespace lowkey::test
