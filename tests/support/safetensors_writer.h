#pragma once
// Builds safetensors bytes in memory; `header` and `prefix` let tests write every kind of bad one.
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace lowkey::test {

class SafetensorsWriter {
 public:
  SafetensorsWriter& add_tensor(std::string name, std::string dtype, std::vector<int64_t> shape,
                                std::string data);
  std::string header_json() const;  // compact, tensors in the order added, "__metadata__" first
  std::string data() const;
  std::string bytes() const;
  void write(const std::filesystem::path& path) const;

  std::map<std::string, std::string> metadata;
  std::optional<std::string> header;     // instead of header_json()
  std::optional<uint64_t> header_bytes;  // instead of the header's size
  bool pad_header = false;               // spaces to a multiple of 8, as the Python package does

 private:
  struct Tensor {
    std::string name, dtype;
    std::vector<int64_t> shape;
    std::string data;
  };
  std::vector<Tensor> tensors_;
};

}  // namespace lowkey::test
