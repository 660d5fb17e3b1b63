#pragma once
// Reads little-endian values from bytes that cannot be trusted: every read is checked against what
// is left, every error says where. Torch-free.
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "core/error.h"

namespace lowkey {

class ByteCursor {
 public:
  // Both are borrowed.
  ByteCursor(std::span<const std::byte> bytes, const std::string& source_name)
      : bytes_(bytes), source_name_(source_name) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  T read(const char* what) {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string_view read_text(uint64_t size, const char* what) {
    const std::span<const std::byte> text = take(size, what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  std::span<const std::byte> take(uint64_t size, const char* what) {
    if (size > remaining()) {
      corrupt("{} needs {} bytes, but only {} are left", what, size, remaining());
    }
    const auto taken = bytes_.subspan(position_, size);
    position_ += size;
    return taken;
  }

  // Throws Error kCorruptFile: "FILE: at byte N: ...", N being where the cursor stands or `offset`.
  template <typename... Args>
  [[noreturn]] void corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    corrupt_at(position_, format, std::forward<Args>(args)...);
  }
  template <typename... Args>
  [[noreturn]] void corrupt_at(uint64_t offset, fmt::format_string<Args...> format,
                               Args&&... args) const {
    fail_at(ErrorCode::kCorruptFile, offset, format, std::forward<Args>(args)...);
  }
  template <typename... Args>
  [[noreturn]] void fail_at(ErrorCode code, uint64_t offset, fmt::format_string<Args...> format,
                            Args&&... args) const {
    fail(code, "{}: at byte {}: {}", source_name_, offset,
         fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& source_name_;
  uint64_t position_ = 0;
};

}  // namespace lowkey
