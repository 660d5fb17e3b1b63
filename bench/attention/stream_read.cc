#include "attention/stream_read.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace lowkey::bench {
namespace {

typedef uint64_t Line __attribute__((vector_size(64), may_alias));

// Four running sums, so that the loads, not the additions, are what is waited for; and four places
// read at once, each asked for ahead, which gives a fifth more than one after the other here.
uint64_t read_all(const std::byte* data, size_t bytes) {
  constexpr size_t kAhead = 2048 / sizeof(Line);
  const size_t lines = bytes / sizeof(Line) / 4;
  const auto* line = reinterpret_cast<const Line*>(data);
  Line sum[4] = {};
  for (size_t i = 0; i < lines; ++i) {
    for (size_t j = 0; j < 4; ++j) {
      __builtin_prefetch(line + j * lines + i + kAhead);
      sum[j] |= line[j * lines + i];
    }
  }
  const Line all = sum[0] | sum[1] | sum[2] | sum[3];
  return all[0] | all[1] | all[2] | all[3] | all[4] | all[5] | all[6] | all[7];
}

// One place after the other, a word of each line: the least a core can do for a line.
uint64_t read_in_order(const std::byte* data, size_t bytes) {
  constexpr size_t kWords = sizeof(Line) / sizeof(uint64_t);
  const auto* word = reinterpret_cast<const uint64_t*>(data);
  uint64_t sum[4] = {};
  for (size_t i = 0; i + 4 <= bytes / sizeof(Line); i += 4) {
    for (size_t j = 0; j < 4; ++j) sum[j] |= word[(i + j) * kWords];
  }
  return sum[0] | sum[1] | sum[2] | sum[3];
}

}  // namespace

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

double stream_read_seconds(std::span<const std::byte> memory, ThreadPool& pool) {
  const auto threads = static_cast<size_t>(pool.num_threads());
  const size_t share = memory.size() / threads / 4096 * 4096;
  double best = 0;
  for (auto* read : {read_all, read_in_order}) {
    const double start = now_seconds();
    pool.run(static_cast<int64_t>(threads), [&](int64_t part, int) {
      const uint64_t sum = read(memory.data() + static_cast<size_t>(part) * share, share);
      asm volatile("" ::"r"(sum));  // somebody wants it
    });
    const double seconds = now_seconds() - start;
    best = best == 0 ? seconds : std::min(best, seconds);
  }
  return best * static_cast<double>(memory.size()) / static_cast<double>(share * threads);
}

}  // namespace lowkey::bench
