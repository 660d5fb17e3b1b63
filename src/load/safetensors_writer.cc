#include "load/safetensors_writer.h"

#include "core/checked.h"
#include "core/error.h"
#include "load/json.h"

namespace lowkey {
namespace {

// Bytes of an element, by the format's own names; those that something here writes.
uint64_t element_bytes(const SafetensorsEntry& entry, const std::filesystem::path& path) {
  struct Known {
    std::string_view type;
    uint64_t bytes;
  };
  static constexpr Known kKnown[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I32", 4}, {"U8", 1}};
  for (const Known& known : kKnown) {
    if (known.type == entry.type) return known.bytes;
  }
  fail(ErrorCode::kInvalidArgument, "{}: tensor '{}' cannot be written as {}", path.string(),
       entry.name, entry.type);
}

uint64_t bytes_of(const SafetensorsEntry& entry, const std::filesystem::path& path) {
  uint64_t bytes = element_bytes(entry, path);
  for (const int64_t size : entry.shape) {
    bytes = checked_mul(bytes, checked_cast<uint64_t>(size, "a tensor's shape"), "a tensor's size");
  }
  return bytes;
}

// The header's length is padded so that the data starts aligned, as other writers do.
constexpr size_t kHeaderAlignment = 8;

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<SafetensorsEntry> entries,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path), path_(path), entries_(std::move(entries)) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const SafetensorsEntry& entry : entries_) {
    if (header.contains(entry.name)) {
      fail(ErrorCode::kInvalidArgument, "{}: tensor '{}' would be written twice", path.string(),
           entry.name);
    }
    const uint64_t end = checked_add(offset, bytes_of(entry, path), "a file of tensors");
    header[entry.name] = {
        {"dtype", entry.type}, {"shape", entry.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    fail(ErrorCode::kInvalidArgument, "{}: a name or the metadata is not UTF-8", path.string());
  }
  text.append((kHeaderAlignment - text.size() % kHeaderAlignment) % kHeaderAlignment, ' ');
  std::string length(8, '\0');
  for (size_t i = 0; i < length.size(); ++i) {
    length[i] = static_cast<char>((uint64_t{text.size()} >> (8 * i)) & 0xff);
  }
  file_.write(length);
  file_.write(text);
}

void SafetensorsWriter::write(std::span<const std::byte> data) {
  LOWKEY_CHECK(next_ < entries_.size(), "{} tensors were declared", entries_.size());
  const SafetensorsEntry& entry = entries_[next_++];
  LOWKEY_CHECK(data.size() == bytes_of(entry, path_), "tensor '{}': {} bytes", entry.name,
               data.size());
  file_.write({reinterpret_cast<const char*>(data.data()), data.size()});
}

void SafetensorsWriter::finish() {
  LOWKEY_CHECK(next_ == entries_.size(), "{} of {} tensors written", next_, entries_.size());
  file_.commit();
}

}  // namespace lowkey
