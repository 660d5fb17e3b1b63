#include "probe/pivots.h"

#include <algorithm>
#include <cmath>

namespace lowkey {
namespace {

constexpr size_t kMostChannels = 8;

// Channels whose magnitude reaches `threshold`, largest first.
std::vector<int32_t> channels_above(const float* row, int64_t hidden_size, float threshold) {
  std::vector<int32_t> channels;
  for (int32_t c = 0; c < hidden_size; ++c) {
    if (std::abs(row[c]) >= threshold) channels.push_back(c);
  }
  std::stable_sort(channels.begin(), channels.end(),
                   [row](int32_t a, int32_t b) { return std::abs(row[a]) > std::abs(row[b]); });
  if (channels.size() > kMostChannels) channels.resize(kMostChannels);
  return channels;
}

}  // namespace

void PivotFinder::add_layer(int32_t layer, const float* x, int64_t tokens, int64_t hidden_size) {
  const int64_t count = tokens * hidden_size;
  magnitudes_.resize(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) magnitudes_[static_cast<size_t>(i)] = std::abs(x[i]);
  const auto middle = magnitudes_.begin() + count / 2;
  std::nth_element(magnitudes_.begin(), middle, magnitudes_.end());
  const float median = *middle;
  if (median <= 0) return;  // nothing to compare with
  const auto threshold = static_cast<float>(kPivotRatio * static_cast<double>(median));
  std::vector<float> peaks(static_cast<size_t>(tokens));
  for (int64_t i = 0; i < count; ++i) {
    float& peak = peaks[static_cast<size_t>(i / hidden_size)];
    peak = std::max(peak, std::abs(x[i]));
  }
  std::vector<float> sorted = peaks;
  const auto middle_peak = sorted.begin() + tokens / 2;
  std::nth_element(sorted.begin(), middle_peak, sorted.end());
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = x + t * hidden_size;
    const float largest = peaks[static_cast<size_t>(t)];
    if (largest < threshold) continue;
    const auto [entry, is_new] = found_.try_emplace(t);
    Pivot& pivot = entry->second;
    if (is_new) {
      pivot.position = t;
      pivot.layer = layer;
    }
    pivot.last_layer = layer;
    const auto magnitude = static_cast<double>(largest);
    if (magnitude <= pivot.magnitude) continue;
    pivot.magnitude = magnitude;
    pivot.ratio = magnitude / static_cast<double>(median);
    pivot.peak_layer = layer;
    pivot.typical = static_cast<double>(*middle_peak);
    pivot.channels = channels_above(row, hidden_size, threshold);
  }
}

std::vector<Pivot> PivotFinder::pivots() const {
  std::vector<Pivot> all;
  for (const auto& [position, pivot] : found_) all.push_back(pivot);
  return all;
}

}  // namespace lowkey
