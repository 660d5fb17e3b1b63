#pragma once
// Arithmetic on sizes read from files: every overflow is an Error, never a wrapped number.
// (llama.cpp's CVE-2025-53630 and its bypass CVE-2026-27940 are this bug.)
#include <concepts>
#include <cstdint>
#include <limits>
#include <utility>

#include "core/error.h"

namespace lowkey {

inline uint64_t checked_add(uint64_t a, uint64_t b, const char* what) {
  uint64_t sum;
  if (__builtin_add_overflow(a, b, &sum))
    fail(ErrorCode::kCorruptFile, "{}: {} + {} overflows", what, a, b);
  return sum;
}

inline uint64_t checked_mul(uint64_t a, uint64_t b, const char* what) {
  uint64_t product;
  if (__builtin_mul_overflow(a, b, &product))
    fail(ErrorCode::kCorruptFile, "{}: {} * {} overflows", what, a, b);
  return product;
}

// Narrowing that refuses to change the value.
template <std::integral To, std::integral From>
To checked_cast(From value, const char* what) {
  if (!std::in_range<To>(value))
    fail(ErrorCode::kCorruptFile, "{}: {} is out of range", what, value);
  return static_cast<To>(value);
}

template <std::integral T>
constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

template <std::integral T>
constexpr T round_up(T a, T multiple) {
  return ceil_div(a, multiple) * multiple;
}

}  // namespace lowkey
