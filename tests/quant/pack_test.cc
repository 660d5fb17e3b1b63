#include "quant/pack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/rng.h"
#include "quant/affine.h"

namespace lowkey {
namespace {

std::vector<float> random_rows(SplitMix64& rng, int64_t count) {
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) {
    const double wide = rng.uniform() < 0.02 ? 1e4 : 1.0;
    value = half_to_float(float_to_half(static_cast<float>((rng.uniform() - 0.5) * wide)));
  }
  return x;
}

struct Case {
  int bits, head_dim, group;
  QuantAxis axis;
};

class Pack : public testing::TestWithParam<Case> {
 protected:
  void pack_all(const SideLayout& layout, std::byte* side, const std::vector<float>& x,
                bool backwards) {
    const int step = layout.axis() == QuantAxis::kPerChannel ? layout.group_size() : 1;
    std::vector<int> firsts;
    for (int t = 0; t < kPageTokens; t += step) firsts.push_back(t);
    if (backwards) std::reverse(firsts.begin(), firsts.end());
    for (int t : firsts) {
      const float* rows = x.data() + static_cast<size_t>(t) * layout.head_dim();
      if (step > 1) {
        pack_group(layout, side, t, rows);
      } else {
        pack_tokens(layout, side, t, 1, rows);
      }
    }
  }
};

// An independent computation of the code of every element, straight from the formula in double and
// float.
TEST_P(Pack, RestoresWhatTheFormulaSays) {
  const Case& p = GetParam();
  SplitMix64 rng(7);
  const std::vector<float> x = random_rows(rng, int64_t{kPageTokens} * p.head_dim);
  for (Side which : {Side::kKey, Side::kValue}) {
    const SideLayout layout(which, {.bits = p.bits, .axis = p.axis, .group_size = p.group},
                            p.head_dim);
    std::vector<std::byte> side(static_cast<size_t>(layout.bytes()));
    pack_all(layout, side.data(), x, false);
    for (int t = 0; t < kPageTokens; ++t) {
      for (int c = 0; c < p.head_dim; ++c) {
        float low = INFINITY, high = -INFINITY;
        if (p.axis == QuantAxis::kPerChannel) {
          const int first = t / p.group * p.group;
          for (int i = first; i < first + p.group; ++i) {
            low = std::min(low, x[static_cast<size_t>(i * p.head_dim + c)]);
            high = std::max(high, x[static_cast<size_t>(i * p.head_dim + c)]);
          }
        } else {
          const int first = c / p.group * p.group;
          for (int i = first; i < first + p.group; ++i) {
            low = std::min(low, x[static_cast<size_t>(t * p.head_dim + i)]);
            high = std::max(high, x[static_cast<size_t>(t * p.head_dim + i)]);
          }
        }
        const int levels = (1 << p.bits) - 1;
        const float scale = half_to_float(float_to_half((high - low) / static_cast<float>(levels)));
        const float value = x[static_cast<size_t>(t * p.head_dim + c)];
        int code = 0;
        if (scale != 0) {
          const double position = static_cast<double>((value - low) / scale);
          code =
              static_cast<int>(std::lrint(std::clamp(position, 0.0, static_cast<double>(levels))));
        }
        ASSERT_EQ(read_code(layout, side.data(), t, c), code) << "token " << t << " channel " << c;
        ASSERT_EQ(read_element(layout, side.data(), t, c), scale * static_cast<float>(code) + low);
      }
    }
  }
}

TEST_P(Pack, OrderAndRepetitionDoNotMatter) {
  const Case& p = GetParam();
  SplitMix64 rng(8);
  const std::vector<float> x = random_rows(rng, int64_t{kPageTokens} * p.head_dim);
  const std::vector<float> other = random_rows(rng, int64_t{kPageTokens} * p.head_dim);
  for (Side which : {Side::kKey, Side::kValue}) {
    const SideLayout layout(which, {.bits = p.bits, .axis = p.axis, .group_size = p.group},
                            p.head_dim);
    std::vector<std::byte> forward(static_cast<size_t>(layout.bytes()));
    std::vector<std::byte> rewritten(static_cast<size_t>(layout.bytes()));
    pack_all(layout, forward.data(), x, false);
    pack_all(layout, rewritten.data(), other,
             true);  // leaves other codes behind, to be overwritten
    pack_all(layout, rewritten.data(), x, true);
    ASSERT_EQ(forward, rewritten);
  }
}

// A whole tile is put together in registers, a part of one code by code: the same bytes.
TEST_P(Pack, ATileIsItsTokensOneByOne) {
  const Case& p = GetParam();
  if (p.axis == QuantAxis::kPerChannel) return;  // a group is packed in one way only
  SplitMix64 rng(9);
  std::vector<float> x = random_rows(rng, int64_t{kPageTokens} * p.head_dim);
  for (size_t i = 0; i < x.size(); i += 3) x[i] = i % 2 == 0 ? 0.0f : -0.0f;  // and groups of these
  std::fill_n(x.begin(), 2 * p.head_dim, 0.0f);
  x[static_cast<size_t>(p.head_dim - 1)] = -0.0f;
  for (Side which : {Side::kKey, Side::kValue}) {
    const SideLayout layout(which, {.bits = p.bits, .axis = p.axis, .group_size = p.group},
                            p.head_dim);
    std::vector<std::byte> one_by_one(static_cast<size_t>(layout.bytes()));
    std::vector<std::byte> tiles(one_by_one.size(), std::byte{0xff});  // codes left behind
    std::vector<std::byte> parts(one_by_one.size());
    const auto pack = [&](std::vector<std::byte>& side, int first, int count) {
      pack_tokens(layout, side.data(), first, count, x.data() + first * p.head_dim);
    };
    pack_all(layout, one_by_one.data(), x, false);
    for (int t = 0; t < kPageTokens; t += 32) {
      pack(tiles, t, 32);
      pack(parts, t, 7);
      pack(parts, t + 7, 25);
    }
    ASSERT_EQ(tiles, one_by_one);
    ASSERT_EQ(parts, one_by_one);
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (int bits : {2, 3, 4, 8}) {
    for (int head_dim : {16, 64, 80, 96, 128}) {
      all.push_back({bits, head_dim, 32, QuantAxis::kPerChannel});
      all.push_back({bits, head_dim, 128, QuantAxis::kPerChannel});
      all.push_back({bits, head_dim, head_dim, QuantAxis::kPerToken});
      all.push_back({bits, head_dim, head_dim % 32 == 0 ? 32 : 8, QuantAxis::kPerToken});
    }
  }
  all.push_back({4, 64, 64, QuantAxis::kPerChannel});
  return all;
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  const Case& p = info.param;
  return std::to_string(p.bits) + "bits_dim" + std::to_string(p.head_dim) +
         (p.axis == QuantAxis::kPerChannel ? "_channel" : "_token") + std::to_string(p.group) +
         "_" + std::to_string(info.index);
}
INSTANTIATE_TEST_SUITE_P(Cases, Pack, testing::ValuesIn(cases()), case_name);

}  // namespace
}  // namespace lowkey
