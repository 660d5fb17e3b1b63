#pragma once
// Command lines of the benches: options of the form --name VALUE.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace lowkey::bench {

// take(name, value) for each; it refuses what it does not know.
template <typename Take>
void for_each_option(int argc, char** argv, const Take& take) {
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) fail(ErrorCode::kInvalidArgument, "{}: a value is missing", name);
    take(name, std::string_view(argv[i + 1]));
  }
}

template <typename T>
T number(std::string_view option, std::string_view text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0)) {
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a number", option, text);
  }
  return value;
}

// Numbers between commas.
inline std::vector<int64_t> numbers(std::string_view option, std::string_view text) {
  std::vector<int64_t> values;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    values.push_back(number<int64_t>(option, text.substr(at, comma - at)));
    at = comma + 1;
  }
  return values;
}

// What a bench's main() does: `run`, or the error in one line.
template <typename Run>
int main_of(std::string_view bench, const Run& run) {
  try {
    run();
    return 0;
  } catch (const Error& error) {
    fmt::print(stderr, "{}: {}\n", bench, error.what());
    return 1;
  }
}

}  // namespace lowkey::bench
