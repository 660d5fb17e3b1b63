#pragma once
// One safetensors file, memory-mapped, validated as the format demands: header <= 100 MB, no holes,
// no overlap, no duplicates, sizes overflow-checked, JSON depth <= 8. Errors as in gguf.h; for what
// the header says, the byte is where its reading stood. Torch-free; immutable, thread-safe.
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
  // Of types F32, F16 and BF16, as the header lists them.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  // Of type U8: what the metadata says they are. dtype is meaningless, shape is of bytes.
  const std::vector<TensorView>& byte_tensors() const { return byte_tensors_; }
  // All others than those of tensors(), U8 included, name -> type ("I64"): checked for their place,
  // but not read. Refuse by name what is needed of them.
  const std::map<std::string, std::string, std::less<>>& other_types() const {
    return other_types_;
  }
  // The header's "__metadata__".
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  friend class SafetensorsParser;

  MappedFile file_;
  std::string source_name_;
  std::vector<TensorView> tensors_, byte_tensors_;
  std::map<std::string, std::string, std::less<>> other_types_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace lowkey
