#include "attention/score_rules.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/error.h"

namespace lowkey {
namespace {

// tanh(x) = e / (e + 2) with e = exp(2x) - 1, which loses nothing near 0: exp(2x) = 2^n exp(r),
// and e = 2^n (exp(r) - 1) + (2^n - 1). Without branches or calls, so that compilers make vectors
// of it. Wrong by less than 3e-7 of the result.
inline float tanh_of(float x) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693145751953125f, kLn2Low = 1.42860682e-6f;
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, in the lowest bits
  float y = 2.0f * x;
  y = y < -20.0f ? -20.0f : y;  // from there on the result is -1 or 1
  y = y > 20.0f ? 20.0f : y;
  const float rounded = y * kLog2e + kRound;
  const float n = rounded - kRound;
  const float r = (y - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r * r + r;
  const auto exponent = std::bit_cast<uint32_t>(rounded) + 127;  // n is in its lowest bits
  const float power = std::bit_cast<float>(exponent << 23);
  const float e = power * p + (power - 1.0f);
  return e / (e + 2.0f);
}

}  // namespace

ScoreRules::ScoreRules(const AttendArgs& args, const LayerView& view, float unit)
    : window_(view.window), softcap_(args.softcap * unit), slopes_(args.alibi_slopes), unit_(unit) {
  LOWKEY_CHECK(slopes_.empty() || std::ssize(slopes_) == args.num_qo_heads,
               "{} slopes for {} query heads", slopes_.size(), args.num_qo_heads);
}

void ScoreRules::apply(float* scores, int64_t count, int64_t first, int64_t position,
                       int64_t qo_head) const noexcept {
  const int64_t hidden = std::clamp<int64_t>(first_seen(position) - first, 0, count);
  if (softcap_ != 0.0f) {
    const float cap = softcap_, inverse = 1.0f / softcap_;
    for (int64_t i = hidden; i < count; ++i) scores[i] = cap * tanh_of(scores[i] * inverse);
  }
  if (!slopes_.empty()) {
    const float slope = slopes_[static_cast<size_t>(qo_head)] * unit_;
    const auto from = static_cast<int32_t>(first - position);
    for (int64_t i = hidden; i < count; ++i) {
      scores[i] += slope * static_cast<float>(from + static_cast<int32_t>(i));
    }
  }
  std::fill_n(scores, hidden, -std::numeric_limits<float>::infinity());
}

}  // namespace lowkey
