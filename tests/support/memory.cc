#include "support/memory.h"

#include <malloc.h>

#include <fstream>
#include <stdexcept>
#include <string>

namespace lowkey::test {
namespace {

[[maybe_unused]] uint64_t status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return std::stoull(line.substr(field.size() + 1)) * 1024;
  }
  throw std::runtime_error("no " + field + " in /proc/self/status");
}

}  // namespace

PeakMemory peak_memory_of(const std::function<void()>& work) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  work();
  return {};
#else
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // VmHWM := VmRSS
  const uint64_t before = status_bytes("VmRSS");
  work();
  const uint64_t peak = status_bytes("VmHWM");
  return {peak > before ? peak - before : 0};
#endif
}

}  // namespace lowkey::test
