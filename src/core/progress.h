#pragma once
// How long work tells whoever watches where it stands. Libraries report; only the program draws
// (apps/lowkey).
#include <cstdint>
#include <functional>
#include <string_view>

namespace lowkey {

// Called with what is being done, how much of it is done and how much there is. May throw
// Error{kCancelled}. Called often (at most every few milliseconds of work): the receiver decides
// when to draw.
using ProgressFn = std::function<void(std::string_view what, int64_t done, int64_t total)>;

inline void report(const ProgressFn& progress, std::string_view what, int64_t done, int64_t total) {
  if (progress) progress(what, done, total);
}

}  // namespace lowkey
