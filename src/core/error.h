#pragma once
// Operating errors (bad file, bad request, I/O) are thrown as lowkey::Error; broken invariants end
// the program through LOWKEY_CHECK. Expected outcomes (a full pool) are return values. Torch-free,
// thread-safe.
#include <fmt/format.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace lowkey {

enum class ErrorCode : uint8_t {
  kInvalidArgument,    // the caller asked for something that cannot be: recipe, flag, shape
  kNotFound,           // no such file, tensor, layer
  kIo,                 // the operating system said no
  kCorruptFile,        // the bytes do not follow their format; the message carries the offset
  kUnsupported,        // well-formed, but nothing here handles it
  kResourceExhausted,  // memory, context length
  kNumeric,            // NaN, infinity or overflow where none may be
  kCancelled,          // the user stopped it
};

const char* error_code_name(ErrorCode code);

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Throws Error with a formatted message. One line: what, where, what to do.
template <typename... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// Called when a LOWKEY_CHECK fails; must not return. The default prints to stderr and aborts. An
// embedding program may install its own (simdjson's objection to libraries that abort).
using CheckHandler = void (*)(const char* file, int line, const char* condition,
                              const std::string& detail);
void set_check_handler(CheckHandler handler);
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& detail);

}  // namespace lowkey

// O(1) invariant checks that stay in release builds; the rest of the arguments is a fmt format with
// values.
#define LOWKEY_CHECK(condition, ...)                                                         \
  do {                                                                                       \
    if (!(condition)) [[unlikely]]                                                           \
      ::lowkey::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
  } while (false)

#ifdef NDEBUG
#define LOWKEY_DCHECK(condition, ...) \
  do {                                \
  } while (false)
#else
#define LOWKEY_DCHECK(condition, ...) LOWKEY_CHECK(condition, __VA_ARGS__)
#endif
