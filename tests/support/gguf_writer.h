#pragma once
// Builds GGUF bytes in memory, good ones and (through the public fields) every kind of bad one.
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "load/tensor.h"

namespace lowkey::test {

// Little-endian values one after another.
class ByteWriter {
 public:
  template <typename T>
  ByteWriter& put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    bytes_.append(raw, sizeof(T));
    return *this;
  }
  ByteWriter& raw(std::string_view text) {
    bytes_.append(text);
    return *this;
  }
  // GGUF's strings: a 64-bit length, then the bytes.
  ByteWriter& text(std::string_view value) {
    return put(static_cast<uint64_t>(value.size())).raw(value);
  }
  ByteWriter& pad_to(uint64_t alignment) {
    while (bytes_.size() % alignment != 0) bytes_ += '\0';
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// The format's numbers for metadata types.
enum class GgufType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

template <typename T>
constexpr GgufType gguf_type() {
  if constexpr (std::is_same_v<T, uint8_t>)
    return GgufType::kU8;
  else if constexpr (std::is_same_v<T, int8_t>)
    return GgufType::kI8;
  else if constexpr (std::is_same_v<T, uint16_t>)
    return GgufType::kU16;
  else if constexpr (std::is_same_v<T, int16_t>)
    return GgufType::kI16;
  else if constexpr (std::is_same_v<T, uint32_t>)
    return GgufType::kU32;
  else if constexpr (std::is_same_v<T, int32_t>)
    return GgufType::kI32;
  else if constexpr (std::is_same_v<T, float>)
    return GgufType::kF32;
  else if constexpr (std::is_same_v<T, bool>)
    return GgufType::kBool;
  else if constexpr (std::is_same_v<T, uint64_t>)
    return GgufType::kU64;
  else if constexpr (std::is_same_v<T, int64_t>)
    return GgufType::kI64;
  else {
    static_assert(std::is_same_v<T, double>, "no such GGUF type");
    return GgufType::kF64;
  }
}

class GgufWriter {
 public:
  template <typename T>
  GgufWriter& add(std::string_view key, T value) {
    return add_raw(key, gguf_type<T>(), ByteWriter().put(value).bytes());
  }
  GgufWriter& add(std::string_view key, std::string_view value);
  GgufWriter& add(std::string_view key, const char* value) {
    return add(key, std::string_view(value));
  }
  template <typename T>
  GgufWriter& add(std::string_view key, const std::vector<T>& values) {
    ByteWriter out;
    out.put(static_cast<uint32_t>(gguf_type<T>())).put(static_cast<uint64_t>(values.size()));
    for (T value : values) out.put(value);
    return add_raw(key, GgufType::kArray, out.bytes());
  }
  GgufWriter& add(std::string_view key, const std::vector<std::string>& values);
  GgufWriter& add_raw(std::string_view key, GgufType type, std::string_view value);
  // Replaces an entry, or removes it.
  template <typename T>
  GgufWriter& set(std::string_view key, T value) {
    remove(key);
    return add(key, value);
  }
  GgufWriter& remove(std::string_view key);

  // `shape` as lowkey has it, outermost first.
  GgufWriter& add_tensor(std::string name, DType dtype, std::vector<int64_t> shape,
                         std::string data);
  GgufWriter& remove_tensor(std::string_view name);

  std::string bytes() const;
  void write(const std::filesystem::path& path) const;

  struct KeyValue {
    std::string key;
    uint32_t type;
    std::string value;
  };
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;  // innermost first, as in the file
    uint32_t type;
    std::string data;
    std::optional<uint64_t> offset = std::nullopt;      // instead of the right one
    std::optional<uint32_t> num_dims = std::nullopt;    // instead of dims.size()
    std::optional<uint64_t> name_bytes = std::nullopt;  // instead of name.size()
  };

  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t alignment = 32;  // a file with another one also needs the key general.alignment
  std::optional<uint64_t> num_tensors, num_key_values;  // instead of the right ones
  std::vector<KeyValue> key_values;
  std::vector<Tensor> tensors;
};

}  // namespace lowkey::test
