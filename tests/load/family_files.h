#pragma once
// Files of any family in miniature: the tensors a test lists under the file's own names, each of
// values that tell their place, with the tokenizer of support/tiny_model.h.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/gguf_writer.h"
#include "support/safetensors_writer.h"
#include "support/tiny_model.h"

namespace lowkey::test {

struct ListedTensor {
  std::string name;
  std::vector<int64_t> shape;
  float first = 0.0f;  // the value of its first element; each next is 1 more

  int64_t count() const {
    int64_t product = 1;
    for (int64_t size : shape) product *= size;
    return product;
  }
  std::string data() const {
    ByteWriter out;
    for (int64_t i = 0; i < count(); ++i) out.put(first + static_cast<float>(i));
    return out.bytes();
  }
};

// Over what the folder has.
inline void write_family_weights(const std::filesystem::path& folder,
                                 const std::vector<ListedTensor>& tensors) {
  SafetensorsWriter writer;
  for (const ListedTensor& tensor : tensors)
    writer.add_tensor(tensor.name, "F32", tensor.shape, tensor.data());
  writer.write(folder / "model.safetensors");
}

inline void write_family_folder(const std::filesystem::path& folder, const nlohmann::json& config,
                                const std::vector<ListedTensor>& tensors) {
  TinyModel().write_hugging_face(folder);
  std::ofstream(folder / "config.json") << config;
  write_family_weights(folder, tensors);
}

// The tiny model's tokenizer under another architecture. The keys of the configuration are the
// caller's.
inline GgufWriter family_gguf(const std::string& architecture,
                              const std::vector<ListedTensor>& tensors) {
  GgufWriter writer = TinyModel().gguf();
  std::erase_if(writer.key_values, [](const auto& entry) {
    return entry.key.starts_with("llama.") || entry.key == "general.architecture";
  });
  writer.tensors.clear();
  writer.add("general.architecture", std::string_view(architecture));
  for (const ListedTensor& tensor : tensors)
    writer.add_tensor(tensor.name, DType::kF32, tensor.shape, tensor.data());
  return writer;
}

}  // namespace lowkey::test
