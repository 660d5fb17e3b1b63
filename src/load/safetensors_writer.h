#pragma once
// Writes one safetensors file, tensor by tensor, all or nothing (core/files.h). What
// SafetensorsFile reads. Torch-free; belongs to one thread.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"

namespace lowkey {

struct SafetensorsEntry {
  std::string name;
  std::string_view type;  // "F32", "F16", "BF16", "I32", "U8": the format's own names
  std::vector<int64_t> shape;
};

class SafetensorsWriter {
 public:
  // Writes the header. Throws Error kIo; kInvalidArgument for a type the format does not know, a
  // name given twice, or text that is not UTF-8.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsEntry> entries,
                    const std::map<std::string, std::string>& metadata);
  // The next entry's bytes, little-endian; their number must be what its shape says.
  void write(std::span<const std::byte> data);
  // After the last entry.
  void finish();

 private:
  AtomicFile file_;
  std::filesystem::path path_;  // for messages
  std::vector<SafetensorsEntry> entries_;
  size_t next_ = 0;
};

}  // namespace lowkey
