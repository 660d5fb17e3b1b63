#pragma once
// What reading memory costs on this machine in this minute: the ceiling that attention from DRAM is
// held against.
#include <cstddef>
#include <span>
#include <vector>

#include "core/threads.h"

namespace lowkey::bench {

// Reads all of `memory` once, front to back, an equal contiguous part per thread of `pool`.
// Returns seconds.
double stream_read_seconds(std::span<const std::byte> memory, ThreadPool& pool);

double now_seconds();

// The value that `share` of the values are below.
double percentile(std::vector<double> values, double share);

}  // namespace lowkey::bench
