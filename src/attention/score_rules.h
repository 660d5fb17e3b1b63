#pragma once
// What happens to scores between the products and the softmax (attend.h): soft cap, ALiBi, and the
// window of the layer. Plain loops over rows of scores, the same for every instruction set; layers
// without any of it do not come here.
#include <cstdint>
#include <span>

#include "attention/attend.h"

namespace lowkey {

class ScoreRules {
 public:
  // unit: what scores are multiplied by, apart from args.scale (prefill in bf16 has units of log2).
  ScoreRules(const AttendArgs& args, const LayerView& view, float unit = 1.0f);

  // Whether scores go to the softmax as they are.
  bool none() const { return window_ == 0 && softcap_ == 0.0f && slopes_.empty(); }

  // The first position that the query at `position` sees.
  int64_t first_seen(int64_t position) const {
    return window_ == 0 || position < window_ ? 0 : position - window_ + 1;
  }

  // scores[i]: of the token at position `first` + i, i < count, for the query at `position` and
  // this query head. Tokens behind the window become -infinity.
  void apply(float* scores, int64_t count, int64_t first, int64_t position,
             int64_t qo_head) const noexcept;

 private:
  int64_t window_;
  float softcap_;
  std::span<const float> slopes_;
  float unit_;
};

}  // namespace lowkey
