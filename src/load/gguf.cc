#include "load/gguf.h"

#include <algorithm>
#include <numeric>

#include "core/checked.h"
#include "load/byte_cursor.h"
#include "load/ggml_types.h"
#include "load/parse_budget.h"
#include "load/printable.h"

namespace lowkey {
namespace {

constexpr uint64_t kMaxNameBytes = 64;  // the format's limits
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kKeyValueMemory = 160;  // a map node with its key and value
constexpr uint64_t kTensorMemory = 320;    // a view, its shape, its place in the index
constexpr uint64_t kMinKeyValueBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

enum class ValueType : uint32_t {
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
  kF64,
};

uint64_t value_bytes(ValueType type) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kI8:
    case ValueType::kBool: return 1;
    case ValueType::kU16:
    case ValueType::kI16: return 2;
    case ValueType::kU32:
    case ValueType::kI32:
    case ValueType::kF32: return 4;
    case ValueType::kU64:
    case ValueType::kI64:
    case ValueType::kF64:
    case ValueType::kString: return 8;  // a string's length
    case ValueType::kArray: return 12;
  }
  return 0;
}

const char* kind_name(const GgufValue& value) {
  constexpr const char* kNames[] = {"an unsigned integer",
                                    "an integer",
                                    "a float",
                                    "a bool",
                                    "a string",
                                    "an array of unsigned integers",
                                    "an array of integers",
                                    "an array of floats",
                                    "an array of bools",
                                    "an array of strings"};
  static_assert(std::size(kNames) == std::variant_size_v<GgufValue>);
  return kNames[value.index()];
}

}  // namespace

class GgufParser {
 public:
  // header_only: the tensors' data is cut off.
  GgufParser(std::span<const std::byte> bytes, std::string source_name, bool header_only = false)
      : bytes_(bytes), header_only_(header_only), file_(), cursor_(bytes, file_.source_name_) {
    file_.source_name_ = std::move(source_name);
  }

  GgufFile parse() {
    read_header();
    for (uint64_t i = 0; i < num_key_values_; ++i) read_key_value();
    for (uint64_t i = 0; i < num_tensors_; ++i) read_tensor_info();
    place_tensors();
    return std::move(file_);
  }

 private:
  void read_header() {
    if (cursor_.read_text(4, "the magic") != "GGUF")
      cursor_.corrupt_at(0, "not a GGUF file: it does not begin with \"GGUF\"");
    file_.version_ = cursor_.read<uint32_t>("the version");
    if (file_.version_ != 2 && file_.version_ != 3) {
      const bool swapped = (file_.version_ & 0xffff) == 0 && file_.version_ != 0;
      cursor_.fail_at(ErrorCode::kUnsupported, 4, "GGUF version {}{}; versions 2 and 3 are read",
                      swapped ? __builtin_bswap32(file_.version_) : file_.version_,
                      swapped ? " in big-endian byte order" : "");
    }
    num_tensors_ = cursor_.read<uint64_t>("the number of tensors");
    num_key_values_ = cursor_.read<uint64_t>("the number of metadata entries");
    if (num_tensors_ > cursor_.remaining() / kMinTensorBytes)
      cursor_.corrupt_at(8, "{} tensors cannot fit in {} bytes", num_tensors_, cursor_.remaining());
    if (num_key_values_ > cursor_.remaining() / kMinKeyValueBytes) {
      cursor_.corrupt_at(16, "{} metadata entries cannot fit in {} bytes", num_key_values_,
                         cursor_.remaining());
    }
  }

  void charge(uint64_t bytes, uint64_t offset) {
    if (!budget_.charge(bytes)) {
      cursor_.fail_at(ErrorCode::kResourceExhausted, offset,
                      "metadata and tensor list need more than {} MiB of memory",
                      ParseBudget::kBytes >> 20);
    }
  }

  std::string read_string(uint64_t max_bytes, const char* what) {
    const uint64_t start = cursor_.position();
    const auto size = cursor_.read<uint64_t>(what);
    if (size > max_bytes)
      cursor_.corrupt_at(start, "{} is {} bytes long, more than {}", what, size, max_bytes);
    if (size > cursor_.remaining()) {
      cursor_.corrupt_at(start, "{} says it is {} bytes long, but only {} are left", what, size,
                         cursor_.remaining());
    }
    charge(size, start);
    return std::string(cursor_.read_text(size, what));
  }

  ValueType read_type(const char* what) {
    const uint64_t start = cursor_.position();
    const auto type = cursor_.read<uint32_t>(what);
    if (type > static_cast<uint32_t>(ValueType::kF64))
      cursor_.corrupt_at(start, "{} is {}, which no GGUF version defines", what, type);
    return static_cast<ValueType>(type);
  }

  void read_key_value() {
    const uint64_t start = cursor_.position();
    charge(kKeyValueMemory, start);
    std::string key = read_string(kMaxKeyBytes, "a metadata key");
    if (key.empty()) cursor_.corrupt_at(start, "a metadata key is empty");
    if (!is_printable(key)) cursor_.corrupt_at(start, "a metadata key is not printable UTF-8");
    const uint64_t type_at = cursor_.position();
    const ValueType type = read_type("a metadata type");
    const uint64_t value_at = cursor_.position();
    GgufValue value = type == ValueType::kArray ? read_array(key) : read_scalar(type, key);
    if (key == "general.alignment") {
      if (type != ValueType::kU32)
        cursor_.corrupt_at(type_at, "general.alignment is not a 32-bit unsigned integer");
      file_.alignment_ = std::get<uint64_t>(value);
      if (!std::has_single_bit(file_.alignment_))
        cursor_.corrupt_at(value_at, "general.alignment is {}, not a power of two",
                           file_.alignment_);
    }
    const auto [at, is_new] = file_.metadata_.emplace(std::move(key), std::move(value));
    if (!is_new) cursor_.corrupt_at(start, "metadata key '{}' appears twice", at->first);
  }

  bool read_bool(const std::string& key) {
    const uint64_t start = cursor_.position();
    const auto value = cursor_.read<uint8_t>("a bool");
    if (value > 1) cursor_.corrupt_at(start, "'{}' is a bool with value {}", key, value);
    return value == 1;
  }

  GgufValue read_scalar(ValueType type, const std::string& key) {
    switch (type) {
      case ValueType::kU8: return uint64_t{cursor_.read<uint8_t>("a value")};
      case ValueType::kU16: return uint64_t{cursor_.read<uint16_t>("a value")};
      case ValueType::kU32: return uint64_t{cursor_.read<uint32_t>("a value")};
      case ValueType::kU64: return cursor_.read<uint64_t>("a value");
      case ValueType::kI8: return int64_t{cursor_.read<int8_t>("a value")};
      case ValueType::kI16: return int64_t{cursor_.read<int16_t>("a value")};
      case ValueType::kI32: return int64_t{cursor_.read<int32_t>("a value")};
      case ValueType::kI64: return cursor_.read<int64_t>("a value");
      case ValueType::kF32: return double{cursor_.read<float>("a value")};
      case ValueType::kF64: return cursor_.read<double>("a value");
      case ValueType::kBool: return read_bool(key);
      case ValueType::kString: {
        const uint64_t start = cursor_.position();
        std::string text = read_string(UINT64_MAX, "a string");
        if (!is_valid_utf8(text)) cursor_.corrupt_at(start, "'{}' is not valid UTF-8", key);
        return text;
      }
      case ValueType::kArray: break;
    }
    LOWKEY_CHECK(false, "type {}", static_cast<uint32_t>(type));
    return uint64_t{0};
  }

  template <typename Stored, typename Held>
  GgufValue read_numbers(uint64_t count) {
    std::vector<Held> values(count);
    for (Held& value : values) value = static_cast<Held>(cursor_.read<Stored>("an array element"));
    return values;
  }

  GgufValue read_array(const std::string& key) {
    const uint64_t start = cursor_.position();
    const ValueType type = read_type("an array's element type");
    if (type == ValueType::kArray) {
      cursor_.fail_at(ErrorCode::kUnsupported, start, "'{}' is an array of arrays", key);
    }
    const auto count = cursor_.read<uint64_t>("an array's length");
    if (count > cursor_.remaining() / value_bytes(type)) {
      cursor_.corrupt_at(start, "'{}' says it has {} elements, but only {} bytes are left", key,
                         count, cursor_.remaining());
    }
    const uint64_t held = type == ValueType::kString ? sizeof(std::string) : sizeof(uint64_t);
    charge(checked_mul(count, held, "array"), start);
    switch (type) {
      case ValueType::kU8: return read_numbers<uint8_t, uint64_t>(count);
      case ValueType::kU16: return read_numbers<uint16_t, uint64_t>(count);
      case ValueType::kU32: return read_numbers<uint32_t, uint64_t>(count);
      case ValueType::kU64: return read_numbers<uint64_t, uint64_t>(count);
      case ValueType::kI8: return read_numbers<int8_t, int64_t>(count);
      case ValueType::kI16: return read_numbers<int16_t, int64_t>(count);
      case ValueType::kI32: return read_numbers<int32_t, int64_t>(count);
      case ValueType::kI64: return read_numbers<int64_t, int64_t>(count);
      case ValueType::kF32: return read_numbers<float, double>(count);
      case ValueType::kF64: return read_numbers<double, double>(count);
      case ValueType::kBool: {
        std::vector<bool> values(count);
        for (uint64_t i = 0; i < count; ++i) values[i] = read_bool(key);
        return values;
      }
      case ValueType::kString: {
        std::vector<std::string> values(count);
        for (std::string& value : values) value = read_string(UINT64_MAX, "a string of an array");
        return values;
      }
      case ValueType::kArray: break;
    }
    LOWKEY_CHECK(false, "type {}", static_cast<uint32_t>(type));
    return uint64_t{0};
  }

  void read_tensor_info() {
    const uint64_t start = cursor_.position();
    charge(kTensorMemory, start);
    TensorView tensor;
    tensor.name = read_string(kMaxNameBytes, "a tensor's name");
    if (tensor.name.empty()) cursor_.corrupt_at(start, "a tensor's name is empty");
    if (!is_printable(tensor.name))
      cursor_.corrupt_at(start, "a tensor's name is not printable UTF-8");

    const auto num_dims = cursor_.read<uint32_t>("a tensor's number of dimensions");
    if (num_dims == 0 || num_dims > kMaxDims) {
      cursor_.corrupt_at(start, "tensor '{}' has {} dimensions, not 1 to {}", tensor.name, num_dims,
                         kMaxDims);
    }
    const std::string where =
        fmt::format("{}: at byte {}: tensor '{}'", file_.source_name_, start, tensor.name);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < num_dims; ++i) {
      const auto size = cursor_.read<uint64_t>("a tensor's dimension");
      if (size == 0) cursor_.corrupt_at(start, "tensor '{}': dimension {} is 0", tensor.name, i);
      elements = checked_mul(elements, size, where.c_str());
      // The file lists the innermost dimension first.
      tensor.shape.insert(tensor.shape.begin(), checked_cast<int64_t>(size, where.c_str()));
    }
    checked_cast<int64_t>(elements, where.c_str());

    const auto type = cursor_.read<uint32_t>("a tensor's type");
    const std::optional<DType> dtype = dtype_from_ggml(type);
    if (!dtype) {
      const std::string_view name = ggml_type_name(type);
      cursor_.fail_at(ErrorCode::kUnsupported, start,
                      "tensor '{}' has type {}, which is not read "
                      "(F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K are)",
                      tensor.name, name.empty() ? fmt::format("number {}", type) : name);
    }
    tensor.dtype = *dtype;
    if (tensor.cols() % dtype_block_elements(*dtype) != 0) {
      cursor_.corrupt_at(
          start, "tensor '{}': rows of {} elements do not divide into {} blocks of {}", tensor.name,
          tensor.cols(), dtype_name(*dtype), dtype_block_elements(*dtype));
    }
    Extent extent;
    extent.info_offset = start;
    extent.begin = cursor_.read<uint64_t>("a tensor's offset");
    const uint64_t blocks = elements / static_cast<uint64_t>(dtype_block_elements(*dtype));
    const uint64_t size =
        checked_mul(blocks, static_cast<uint64_t>(dtype_block_bytes(*dtype)), where.c_str());
    extent.end = checked_add(extent.begin, size, where.c_str());
    if (extent.begin % file_.alignment_ != 0) {
      cursor_.corrupt_at(start, "tensor '{}': offset {} is not a multiple of the alignment {}",
                         tensor.name, extent.begin, file_.alignment_);
    }
    if (!file_.tensor_index_.emplace(tensor.name, file_.tensors_.size()).second)
      cursor_.corrupt_at(start, "tensor '{}' appears twice", tensor.name);
    file_.tensors_.push_back(std::move(tensor));
    extents_.push_back(extent);
  }

  // Tensors follow each other with nothing between but padding, and the last ends the file.
  void place_tensors() {
    const std::string where =
        fmt::format("{}: at byte {}: tensor data", file_.source_name_, cursor_.position());
    const auto align = [&](uint64_t offset) {
      return checked_add(offset, (file_.alignment_ - offset % file_.alignment_) % file_.alignment_,
                         where.c_str());
    };
    file_.data_offset_ = align(cursor_.position());
    const uint64_t available =
        bytes_.size() > file_.data_offset_ ? bytes_.size() - file_.data_offset_ : 0;

    std::vector<size_t> by_offset(extents_.size());
    std::iota(by_offset.begin(), by_offset.end(), size_t{0});
    std::sort(by_offset.begin(), by_offset.end(),
              [&](size_t a, size_t b) { return extents_[a].begin < extents_[b].begin; });
    uint64_t expected = 0;
    for (size_t i : by_offset) {
      const Extent& extent = extents_[i];
      TensorView& tensor = file_.tensors_[i];
      if (extent.begin != expected) {
        cursor_.corrupt_at(
            extent.info_offset,
            "tensor '{}' lies at offset {} of the tensor data, where {} was expected: "
            "it {}",
            tensor.name, extent.begin, expected,
            extent.begin < expected ? "overlaps another" : "leaves a hole before it");
      }
      if (extent.end > available && !header_only_) {
        cursor_.corrupt_at(extent.info_offset,
                           "tensor '{}' ends at {} of the tensor data, of which the file holds {} "
                           "bytes: it is cut short",
                           tensor.name, extent.end, available);
      }
      if (!header_only_)
        tensor.data = bytes_.subspan(file_.data_offset_ + extent.begin, extent.end - extent.begin);
      expected = align(extent.end);
    }
    if (header_only_) expected = 0;
    if (available > expected) {
      cursor_.corrupt_at(file_.data_offset_ + expected, "{} bytes follow the {}",
                         available - expected, header_only_ ? "header" : "last tensor");
    }
  }

  struct Extent {
    uint64_t info_offset, begin, end;  // where in the file it is said; what, within the tensor data
  };

  std::span<const std::byte> bytes_;
  bool header_only_;
  GgufFile file_;
  ByteCursor cursor_;
  ParseBudget budget_;
  uint64_t num_tensors_ = 0, num_key_values_ = 0;
  std::vector<Extent> extents_;
};

GgufFile GgufFile::open(const std::filesystem::path& path) {
  MappedFile map(path);
  GgufFile file = parse(map.bytes(), path.string());
  file.file_ = std::move(map);
  return file;
}

GgufFile GgufFile::parse(std::span<const std::byte> bytes, std::string source_name) {
  return GgufParser(bytes, std::move(source_name)).parse();
}

GgufFile GgufFile::open_header(const std::filesystem::path& path) {
  MappedFile map(path);
  GgufFile file = parse_header(map.bytes(), path.string());
  file.file_ = std::move(map);
  return file;
}

GgufFile GgufFile::parse_header(std::span<const std::byte> bytes, std::string source_name) {
  return GgufParser(bytes, std::move(source_name), /*header_only=*/true).parse();
}

bool GgufFile::give_data(std::string_view name, std::span<const std::byte> data) {
  const auto at = tensor_index_.find(name);
  if (at == tensor_index_.end()) return false;
  TensorView& tensor = tensors_[at->second];
  if (std::ssize(data) != tensor.rows() * tensor.row_bytes()) return false;
  tensor.data = data;
  return true;
}

const TensorView* GgufFile::find_tensor(std::string_view name) const {
  const auto at = tensor_index_.find(name);
  return at == tensor_index_.end() ? nullptr : &tensors_[at->second];
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto at = metadata_.find(key);
  return at == metadata_.end() ? nullptr : &at->second;
}

namespace {

[[noreturn]] void fail_missing(const GgufFile& file, std::string_view key) {
  fail(ErrorCode::kCorruptFile, "{}: metadata key '{}' is missing", file.source_name(), key);
}

[[noreturn]] void fail_kind(const GgufFile& file, std::string_view key, const char* expected) {
  fail(ErrorCode::kCorruptFile, "{}: metadata key '{}' is {}, not {}", file.source_name(), key,
       kind_name(*file.find(key)), expected);
}

template <typename T>
const T& get_as(const GgufFile& file, std::string_view key, const char* expected) {
  const GgufValue* value = file.find(key);
  if (!value) fail_missing(file, key);
  if (const T* typed = std::get_if<T>(value)) return *typed;
  fail_kind(file, key, expected);
}

}  // namespace

std::string GgufFile::get_string(std::string_view key) const {
  return get_as<std::string>(*this, key, "a string");
}

int64_t GgufFile::get_int(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) fail_missing(*this, key);
  if (const auto* is_signed = std::get_if<int64_t>(value)) return *is_signed;
  if (const auto* is_unsigned = std::get_if<uint64_t>(value)) {
    if (std::in_range<int64_t>(*is_unsigned)) return static_cast<int64_t>(*is_unsigned);
    fail(ErrorCode::kCorruptFile, "{}: metadata key '{}' is {}, out of range", source_name_, key,
         *is_unsigned);
  }
  fail_kind(*this, key, "an integer");
}

double GgufFile::get_float(std::string_view key) const {
  return get_as<double>(*this, key, "a float");
}

std::string GgufFile::get_string(std::string_view key, std::string_view fallback) const {
  return find(key) ? get_string(key) : std::string(fallback);
}

int64_t GgufFile::get_int(std::string_view key, int64_t fallback) const {
  return find(key) ? get_int(key) : fallback;
}

double GgufFile::get_float(std::string_view key, double fallback) const {
  return find(key) ? get_float(key) : fallback;
}

bool GgufFile::get_bool(std::string_view key, bool fallback) const {
  return find(key) ? get_as<bool>(*this, key, "a bool") : fallback;
}

const std::vector<std::string>& GgufFile::get_strings(std::string_view key) const {
  return get_as<std::vector<std::string>>(*this, key, "an array of strings");
}

}  // namespace lowkey
