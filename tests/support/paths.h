#pragma once
// Where tests find things, and a folder of their own to write in.
#include <filesystem>
#include <optional>
#include <string>

namespace lowkey::test {

// The repository: LOWKEY_SOURCE_DIR (CTest sets it), else the current folder.
std::filesystem::path source_dir();

// A committed golden, tests/golden/NAME.
std::filesystem::path golden(const std::string& name);

// A file of the shared data (LOWKEY_SHARED_DIR, else ../shared beside the repository, in data/).
// Nothing where it is absent: the test then says so and skips.
std::optional<std::filesystem::path> shared_data(const std::string& name);

// The real SmolLM2 GGUF: LOWKEY_MODEL, else where ./dev setup puts it. Nothing where it is absent.
std::optional<std::filesystem::path> real_model();

// A fresh folder, removed with everything in it at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace lowkey::test
