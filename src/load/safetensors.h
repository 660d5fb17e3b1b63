#pragma once
// One safetensors file, memory-mapped, validated as the format demands: header <= 100 MB, no holes,
// no overlap, no duplicates, sizes overflow-checked, JSON depth <= 8. Errors as in gguf.h.
// Torch-free; immutable, thread-safe.
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "load/tensor.h"

namespace lowkey {

class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);
  static SafetensorsFile parse(std::span<const std::byte> bytes, std::string source_name);

  const std::string& source_name() const { return source_name_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }  // "__metadata__"

 private:
  MappedFile file_;
  std::string source_name_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace lowkey
