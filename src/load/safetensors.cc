#include "load/safetensors.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>

#include "core/checked.h"
#include "load/byte_cursor.h"
#include "load/json.h"
#include "load/parse_budget.h"
#include "load/printable.h"

namespace lowkey {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's
constexpr int kMaxDepth = 8;
constexpr size_t kMaxDims = 8;
constexpr uint64_t kEntryMemory = 480;  // a view, its shape, its places in two maps

struct ElementType {
  std::string_view name;
  uint64_t bits;
  std::optional<DType> dtype = std::nullopt;
};

constexpr std::array kElementTypes{
    ElementType{"F32", 32, DType::kF32},
    ElementType{"F16", 16, DType::kF16},
    ElementType{"BF16", 16, DType::kBF16},
    ElementType{"BOOL", 8},
    ElementType{"U8", 8},
    ElementType{"I8", 8},
    ElementType{"F8_E5M2", 8},
    ElementType{"F8_E4M3", 8},
    ElementType{"F8_E8M0", 8},
    ElementType{"F8_E4M3FNUZ", 8},
    ElementType{"F8_E5M2FNUZ", 8},
    ElementType{"F4", 4},
    ElementType{"F6_E2M3", 6},
    ElementType{"F6_E3M2", 6},
    ElementType{"I16", 16},
    ElementType{"U16", 16},
    ElementType{"I32", 32},
    ElementType{"U32", 32},
    ElementType{"I64", 64},
    ElementType{"U64", 64},
    ElementType{"F64", 64},
    ElementType{"C64", 64},
};

// Lets the JSON parser say how far it has read.
struct TrackedChar {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** furthest;

  reference operator*() const { return *at; }
  TrackedChar& operator++() {
    *furthest = ++at;
    return *this;
  }
  bool operator==(const TrackedChar& other) const { return at == other.at; }
  bool operator!=(const TrackedChar& other) const { return at != other.at; }
};

}  // namespace

// Receives the header's JSON piece by piece and turns it into tensors; anything the format does not
// say is refused where it stands.
class SafetensorsParser final : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsParser(std::span<const std::byte> bytes, std::string source_name)
      : cursor_(bytes, file_.source_name_) {
    file_.source_name_ = std::move(source_name);
  }

  SafetensorsFile parse() {
    const auto size = cursor_.read<uint64_t>("the header's length");
    if (size > kMaxHeaderBytes)
      cursor_.corrupt_at(0, "the header says it is {} bytes long, more than {}", size,
                         kMaxHeaderBytes);
    header_ = cursor_.read_text(size, "the header");
    if (!header_.starts_with('{')) cursor_.corrupt_at(8, "the header does not begin with '{{'");
    check_json_limits(header_, {.depth = kMaxDepth}, file_.source_name_, 8);
    data_ = cursor_.take(cursor_.remaining(), "the data");
    furthest_ = header_.data();
    const TrackedChar begin{header_.data(), &furthest_};
    const TrackedChar end{header_.data() + header_.size(), &furthest_};
    nlohmann::json::sax_parse(begin, end, this);
    check_extents();
    return std::move(file_);
  }

  bool start_object(size_t) override {
    if (level_ == Level::kStart) {
      level_ = Level::kTop;
    } else if (level_ == Level::kTop && name_ == "__metadata__") {
      level_ = Level::kMetadata;
    } else if (level_ == Level::kTop) {
      level_ = Level::kTensor;
      entry_ = {};
      field_.clear();
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(std::string& name) override {
    if (level_ == Level::kTop) {
      charge(kEntryMemory + name.size());
      if (!names_.insert(name).second) corrupt("'{}' appears twice", shown(name));
      if (!is_printable(name)) corrupt("a tensor's name is not printable");
      name_ = name;
    } else if (level_ == Level::kMetadata) {
      charge(kEntryMemory + name.size());
      if (!file_.metadata_.emplace(name, "").second)
        corrupt("__metadata__ '{}' appears twice", shown(name));
      field_ = name;
    } else {
      field_ = name;
      const bool seen = (name == "dtype" && !entry_.type.empty()) ||
                        (name == "shape" && entry_.has_shape) ||
                        (name == "data_offsets" && entry_.has_offsets);
      if (seen) corrupt("tensor '{}' has '{}' twice", name_, name);
      if (name != "dtype" && name != "shape" && name != "data_offsets")
        corrupt("tensor '{}' has an unknown field '{}'", name_, shown(name));
    }
    return true;
  }

  bool end_object() override {
    if (level_ == Level::kTensor) finish_tensor();
    level_ = level_ == Level::kTop ? Level::kStart : Level::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (level_ != Level::kTensor || field_ == "dtype") unexpected("an array");
    (field_ == "shape" ? entry_.has_shape : entry_.has_offsets) = true;
    level_ = Level::kArray;
    return true;
  }

  bool end_array() override {
    level_ = Level::kTensor;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (level_ != Level::kArray) unexpected("a number");
    if (field_ == "shape") {
      if (entry_.shape.size() == kMaxDims)
        corrupt("tensor '{}' has more than {} dimensions", name_, kMaxDims);
      entry_.shape.push_back(value);
    } else {
      if (entry_.offsets.size() == 2) corrupt("tensor '{}' has more than two data_offsets", name_);
      entry_.offsets.push_back(value);
    }
    return true;
  }

  bool string(std::string& value) override {
    if (level_ == Level::kMetadata) {
      charge(value.size());
      file_.metadata_[field_] = value;
    } else if (level_ == Level::kTensor && field_ == "dtype") {
      entry_.type = value;
      if (entry_.type.empty()) corrupt("tensor '{}' has an empty dtype", name_);
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("true or false"); }
  bool number_integer(int64_t) override { unexpected("a negative number"); }
  bool number_float(double, const std::string&) override { unexpected("a fraction"); }
  bool binary(nlohmann::json::binary_t&) override { unexpected("binary"); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    cursor_.corrupt_at(8 + position, "the header is not valid JSON");
  }

 private:
  enum class Level : uint8_t { kStart, kTop, kMetadata, kTensor, kArray };

  struct Entry {
    std::string type;
    std::vector<uint64_t> shape, offsets;
    bool has_shape = false, has_offsets = false;
  };

  struct Extent {
    std::string name;
    uint64_t begin, end;
  };

  template <typename... Args>
  [[noreturn]] void corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    cursor_.corrupt_at(position(), format, std::forward<Args>(args)...);
  }

  [[noreturn]] void unexpected(const char* what) const {
    if (level_ == Level::kStart || level_ == Level::kTop)
      corrupt("'{}' is {}, not an object", shown(name_), what);
    corrupt("{} does not belong in '{}' of '{}'", what, shown(field_), shown(name_));
  }

  // Names stand in messages only where they cannot play tricks on a terminal.
  static std::string shown(std::string_view name) {
    return is_printable(name) ? std::string(name) : "(unprintable)";
  }

  uint64_t position() const { return 8 + static_cast<uint64_t>(furthest_ - header_.data()); }

  void charge(uint64_t bytes) {
    if (!budget_.charge(bytes)) {
      cursor_.fail_at(ErrorCode::kResourceExhausted, position(),
                      "the header needs more than {} MiB of memory", ParseBudget::kBytes >> 20);
    }
  }

  void finish_tensor() {
    if (entry_.type.empty()) corrupt("tensor '{}' has no dtype", name_);
    if (!entry_.has_shape) corrupt("tensor '{}' has no shape", name_);
    if (entry_.offsets.size() != 2) corrupt("tensor '{}' has no two data_offsets", name_);
    const auto type = std::find_if(kElementTypes.begin(), kElementTypes.end(),
                                   [&](const ElementType& t) { return t.name == entry_.type; });
    if (type == kElementTypes.end()) {
      cursor_.fail_at(ErrorCode::kUnsupported, position(), "tensor '{}' has unknown dtype '{}'",
                      name_, shown(entry_.type));
    }
    const std::string where =
        fmt::format("{}: at byte {}: tensor '{}'", file_.source_name_, position(), name_);
    TensorView tensor;
    uint64_t elements = 1;
    for (uint64_t size : entry_.shape) {
      elements = checked_mul(elements, size, where.c_str());
      checked_cast<int64_t>(elements, where.c_str());  // of every part: rows() leaves the last out
      tensor.shape.push_back(checked_cast<int64_t>(size, where.c_str()));
    }
    const uint64_t bits = checked_mul(elements, type->bits, where.c_str());
    const auto [begin, end] = std::pair(entry_.offsets[0], entry_.offsets[1]);
    if (begin > end || end > data_.size()) {
      corrupt("tensor '{}' has data_offsets [{}, {}], but the file holds {} bytes of data", name_,
              begin, end, data_.size());
    }
    if (bits % 8 != 0 || bits / 8 != end - begin) {
      corrupt("tensor '{}' has {} bytes of data, but {} of shape {} takes {} bits", name_,
              end - begin, entry_.type, shape_text(tensor.shape), bits);
    }
    extents_.push_back({name_, begin, end});
    tensor.name = name_;
    tensor.data = data_.subspan(begin, end - begin);
    if (!type->dtype) {
      file_.other_types_.emplace(name_, entry_.type);
      if (entry_.type == "U8") file_.byte_tensors_.push_back(std::move(tensor));
      return;
    }
    tensor.dtype = *type->dtype;
    file_.tensors_.push_back(std::move(tensor));
  }

  // The tensors cover the data exactly, each byte once.
  void check_extents() {
    std::sort(extents_.begin(), extents_.end(), [](const Extent& a, const Extent& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    const uint64_t data_start = 8 + header_.size();
    uint64_t expected = 0;
    for (const Extent& extent : extents_) {
      if (extent.begin != expected) {
        cursor_.corrupt_at(
            data_start + extent.begin,
            "tensor '{}' lies at {} of the data, where {} was expected: it {}", extent.name,
            extent.begin, expected,
            extent.begin < expected ? "overlaps another" : "leaves a hole before it");
      }
      expected = extent.end;
    }
    if (expected != data_.size()) {
      cursor_.corrupt_at(data_start + expected, "{} bytes of data belong to no tensor",
                         data_.size() - expected);
    }
  }

  SafetensorsFile file_;
  ByteCursor cursor_;
  ParseBudget budget_;
  std::string_view header_;
  std::span<const std::byte> data_;
  const char* furthest_ = nullptr;
  Level level_ = Level::kStart;
  std::string name_, field_;
  Entry entry_;
  std::set<std::string, std::less<>> names_;
  std::vector<Extent> extents_;
};

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  MappedFile map(path);
  SafetensorsFile file = parse(map.bytes(), path.string());
  file.file_ = std::move(map);
  return file;
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, std::string source_name) {
  return SafetensorsParser(bytes, std::move(source_name)).parse();
}

}  // namespace lowkey
