#include "core/error.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace lowkey {
namespace {
std::atomic<CheckHandler> g_check_handler{nullptr};
}

const char* error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument: return "invalid_argument";
    case ErrorCode::kNotFound: return "not_found";
    case ErrorCode::kIo: return "io";
    case ErrorCode::kCorruptFile: return "corrupt_file";
    case ErrorCode::kUnsupported: return "unsupported";
    case ErrorCode::kResourceExhausted: return "resource_exhausted";
    case ErrorCode::kNumeric: return "numeric";
    case ErrorCode::kCancelled: return "cancelled";
  }
  return "unknown";
}

void set_check_handler(CheckHandler handler) {
  g_check_handler = handler;
}

void check_failed(const char* file, int line, const char* condition, const std::string& detail) {
  if (CheckHandler handler = g_check_handler.load()) handler(file, line, condition, detail);
  std::fprintf(stderr, "lowkey: internal error at %s:%d: %s %s\n", file, line, condition,
               detail.c_str());
  std::abort();
}

}  // namespace lowkey
