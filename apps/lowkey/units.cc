#include "units.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace lowkey {

std::string human_bytes(uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  // 1023.95 and more would print as 1024 of the smaller unit.
  for (; value >= 1023.95 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  // Three significant digits; the bounds are where rounding adds a digit.
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, kUnits[unit]);
}

std::string human_duration(double seconds) {
  if (!(seconds > 0)) return "0.0 s";
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  // Beyond a century the digits say nothing, and the conversion must stay in range.
  const int64_t whole = std::llround(std::min(seconds, 3.2e9));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string with_separators(int64_t number) {
  std::string digits = fmt::format("{}", number);
  const size_t first = number < 0 ? 1 : 0;
  for (size_t at = digits.size(); at > first + 3;) {
    at -= 3;
    digits.insert(at, 1, ',');
  }
  return digits;
}

std::optional<int64_t> parse_count(std::string_view text) {
  int64_t factor = 1;
  if (!text.empty()) {
    if (text.back() == 'k' || text.back() == 'K') factor = 1024;
    if (text.back() == 'm' || text.back() == 'M') factor = 1024 * 1024;
    if (factor != 1) text.remove_suffix(1);
  }
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  if (__builtin_mul_overflow(value, factor, &value)) return std::nullopt;
  return value;
}

std::optional<int64_t> parse_bytes(std::string_view text) {
  double value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (error != std::errc() || !(value >= 0)) return std::nullopt;
  std::string unit;
  for (const char* c = end; c != text.data() + text.size(); ++c) {
    unit += static_cast<char>(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c);
  }
  if (!unit.empty() && unit != "b") {
    constexpr std::string_view kSteps = "kmgtp";
    const size_t step = kSteps.find(unit[0]);
    const std::string_view rest = std::string_view(unit).substr(1);
    if (step == kSteps.npos || (!rest.empty() && rest != "b" && rest != "ib")) return std::nullopt;
    value *= std::pow(rest == "b" ? 1000.0 : 1024.0, static_cast<double>(step + 1));
  }
  if (!(value < 0x1p63)) return std::nullopt;
  return static_cast<int64_t>(value);
}

}  // namespace lowkey
