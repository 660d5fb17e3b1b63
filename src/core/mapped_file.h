#pragma once
// A read-only memory map of a whole file. Movable, not copyable; the bytes live as long as the
// object.
#include <cstdint>
#include <filesystem>
#include <span>

namespace lowkey {

class MappedFile {
 public:
  MappedFile() = default;
  // Throws Error kNotFound / kIo naming the path. An empty file maps to an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lowkey
