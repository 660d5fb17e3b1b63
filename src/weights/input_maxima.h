#pragma once
// How large the inputs of matrices become on a text. Torch-free header; belongs to one thread.
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/progress.h"
#include "core/threads.h"
#include "model/weights.h"

namespace lowkey {

// A layer's matrix by its canonical name ("layers.3.q.weight", "layers.3.experts.7.up.weight").
const Linear& linear_of(const ModelWeights& weights, std::string_view name);

// Of each of the named matrices the largest magnitude of every input channel [cols], over all
// samples; zeros where none came by (an expert nobody chose). `weights` in f32.
std::map<std::string, std::vector<float>> input_maxima(
    const ModelWeights& weights, std::span<const std::string> names,
    std::span<const std::vector<int32_t>> samples, ThreadPool& pool, const ProgressFn& progress);

}  // namespace lowkey
