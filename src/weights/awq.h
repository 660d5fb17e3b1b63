#pragma once
// AWQ (Lin et al., arXiv 2306.00978): channels that carry large inputs are scaled up before
// rounding and their inputs down, by factors folded into the norm or matrix before; then ranges are
// clipped.
#include "weights/method.h"

namespace lowkey {

// Scales of norm -> q, k, v and norm -> gate, up, and up -> down (keys and values stay what they
// were: nothing is folded into v). Where that cannot be, the place is named in the notes. Clips all
// but q and k.
void awq_weights(Quantization& quantization);

}  // namespace lowkey
