#pragma once
// GGUF v2/v3, memory-mapped and fully validated before anything is used: a bad file is an Error
// kCorruptFile with the byte offset, an unknown tensor type or version an Error kUnsupported with
// its name. Stricter than the format where looseness hides damage: tensors must follow each other
// with alignment padding only, and nothing may follow the last. Torch-free; immutable, thread-safe.
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/mapped_file.h"
#include "load/tensor.h"

namespace lowkey {

// Numeric arrays are widened to int64/uint64/double; nested arrays are refused. Strings outside of
// arrays are valid UTF-8; those in arrays are for whoever reads them to check (tokens).
using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<uint64_t>,
                               std::vector<int64_t>, std::vector<double>, std::vector<bool>,
                               std::vector<std::string>>;

class GgufFile {
 public:
  static GgufFile open(const std::filesystem::path& path);
  // The same over bytes the caller keeps alive (tests, fuzzing).
  static GgufFile parse(std::span<const std::byte> bytes, std::string source_name);

  // A file cut off where its tensors' data begins (data_offset()): `tensors` have no data until
  // give_data() brings it.
  static GgufFile open_header(const std::filesystem::path& path);
  static GgufFile parse_header(std::span<const std::byte> bytes, std::string source_name);
  // Of a tensor whose data was cut off; false if there is none of the name, or not of this size.
  // The caller keeps the bytes alive.
  bool give_data(std::string_view tensor, std::span<const std::byte> data);

  const std::string& source_name() const { return source_name_; }
  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  uint64_t data_offset() const { return data_offset_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const std::vector<TensorView>& tensors() const { return tensors_; }  // in file order
  const TensorView* find_tensor(std::string_view name) const;          // null if absent

  const GgufValue* find(std::string_view key) const;  // null if absent
  // Typed access: throws Error kCorruptFile naming the key when it is missing or of another kind.
  // Integers convert between signed and unsigned when the value fits.
  std::string get_string(std::string_view key) const;
  int64_t get_int(std::string_view key) const;
  double get_float(std::string_view key) const;
  // With a default for a missing key (a key of the wrong kind still throws).
  std::string get_string(std::string_view key, std::string_view fallback) const;
  int64_t get_int(std::string_view key, int64_t fallback) const;
  double get_float(std::string_view key, double fallback) const;
  bool get_bool(std::string_view key, bool fallback) const;
  const std::vector<std::string>& get_strings(std::string_view key) const;

 private:
  friend class GgufParser;

  MappedFile file_;
  std::string source_name_;
  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  uint64_t data_offset_ = 0;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t, std::less<>> tensor_index_;
};

}  // namespace lowkey
