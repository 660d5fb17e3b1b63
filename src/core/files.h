#pragma once
// Whole-file reading and all-or-nothing writing.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace lowkey {

// Throws Error kNotFound / kIo naming the path, kResourceExhausted if it is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, uint64_t max_bytes = uint64_t{1} << 30);

// A file that comes to be all at once: what is written goes to a temporary file beside `path`,
// which commit() syncs and renames into place, and the folder is synced: readers see the old file
// or the new one, never half of either. Without commit() nothing stays behind. All throw Error kIo.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::string_view contents);
  void commit();

 private:
  [[noreturn]] void give_up(const char* what);

  std::filesystem::path path_;
  std::string temporary_;  // empty: not there (any more)
  int fd_ = -1;
};

// The same in one call.
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

}  // namespace lowkey
