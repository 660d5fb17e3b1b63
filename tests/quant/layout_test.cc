#include "quant/layout.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <tuple>

namespace lowkey {
namespace {

struct Shape {
  int bits;
  int head_dim;
  QuantAxis axis;
  int group;
};

std::vector<Shape> all_shapes() {
  std::vector<Shape> shapes;
  for (int bits : {2, 3, 4, 8}) {
    for (int head_dim : {16, 32, 48, 64, 80, 96, 112, 128, 256}) {
      for (int group : {32, 64, 128})
        shapes.push_back({bits, head_dim, QuantAxis::kPerChannel, group});
      for (int group : {8, 16, 32, 64, 128}) {
        if (head_dim % group == 0) shapes.push_back({bits, head_dim, QuantAxis::kPerToken, group});
      }
      shapes.push_back({bits, head_dim, QuantAxis::kPerToken, head_dim});
    }
  }
  return shapes;
}

SideLayout make(Side side, const Shape& shape) {
  return SideLayout(side, {.bits = shape.bits, .axis = shape.axis, .group_size = shape.group},
                    shape.head_dim);
}

class LayoutOfShape : public testing::TestWithParam<Shape> {};

// Every code has bits of its own, and together they fill the code area to the last bit: no overlap,
// no padding.
TEST_P(LayoutOfShape, CodesTileTheirAreaExactly) {
  for (Side side : {Side::kKey, Side::kValue}) {
    const SideLayout layout = make(side, GetParam());
    std::map<int, int> used;  // byte -> bits taken
    auto take = [&](int byte, int shift, int width) {
      const int mask = ((1 << width) - 1) << shift;
      ASSERT_EQ(used[byte] & mask, 0) << "byte " << byte;
      used[byte] |= mask;
    };
    for (int t = 0; t < kPageTokens; ++t) {
      for (int c = 0; c < layout.head_dim(); ++c) {
        const CodePlace place = layout.code_place(t, c);
        EXPECT_EQ(place.width_low + place.width_high, layout.bits());
        take(place.byte_low, place.shift_low, place.width_low);
        if (place.width_high) take(place.byte_high, place.shift_high, place.width_high);
      }
    }
    EXPECT_EQ(used.begin()->first, layout.codes_offset());
    EXPECT_EQ(used.rbegin()->first + 1,
              layout.codes_offset() + kTilesPerPage * layout.tile_codes_bytes());
    EXPECT_EQ(static_cast<int>(used.size()), kTilesPerPage * layout.tile_codes_bytes());
    for (const auto& [byte, bits] : used) ASSERT_EQ(bits, 0xff) << "byte " << byte;
    EXPECT_LE(layout.codes_offset() + kTilesPerPage * layout.tile_codes_bytes(), layout.bytes());
  }
}

// One scale and one zero point per group, all different places, none inside the codes.
TEST_P(LayoutOfShape, ParametersAreOnePairPerGroup) {
  for (Side side : {Side::kKey, Side::kValue}) {
    const SideLayout layout = make(side, GetParam());
    std::map<std::pair<int, int>, int> scale_of_group;
    std::set<int> places;
    for (int t = 0; t < kPageTokens; ++t) {
      for (int c = 0; c < layout.head_dim(); ++c) {
        const auto group = layout.axis() == QuantAxis::kPerChannel
                               ? std::pair(t / layout.group_size(), c)
                               : std::pair(t, c / layout.group_size());
        const int index = layout.scale_index(t, c);
        const auto [it, fresh] = scale_of_group.emplace(group, index);
        ASSERT_EQ(it->second, index);
        if (!fresh) continue;
        ASSERT_TRUE(places.insert(index).second);
        ASSERT_TRUE(places.insert(index + layout.zero_point_stride()).second);
      }
    }
    EXPECT_EQ(*places.begin(), 0);
    EXPECT_EQ(static_cast<int>(places.size()), layout.codes_offset() / 2);
    EXPECT_EQ(*places.rbegin() * 2 + 2, layout.codes_offset());
  }
}

std::string shape_name(const testing::TestParamInfo<Shape>& info) {
  const Shape& s = info.param;
  return std::to_string(s.bits) + "bits_dim" + std::to_string(s.head_dim) +
         (s.axis == QuantAxis::kPerChannel ? "_channel" : "_token") + std::to_string(s.group);
}
std::vector<Shape> distinct_shapes() {
  std::vector<Shape> shapes;
  std::set<std::tuple<int, int, int, int>> seen;
  for (const Shape& s : all_shapes()) {
    if (seen.insert({s.bits, s.head_dim, static_cast<int>(s.axis), s.group}).second)
      shapes.push_back(s);
  }
  return shapes;
}
INSTANTIATE_TEST_SUITE_P(Shapes, LayoutOfShape, testing::ValuesIn(distinct_shapes()), shape_name);

// The places docs/formats/pages.md promises to other implementations, pinned by hand.
TEST(SideLayout, GranulesAreWhereTheFormatSaysTheyAre) {
  // Keys, 2 bits, head_dim 64: dword lane = token, byte = channel in quad, field = quad within 16
  // channels, [16][half].
  const SideLayout keys(Side::kKey, {.bits = 2, .axis = QuantAxis::kPerChannel, .group_size = 32},
                        64);
  EXPECT_EQ(keys.codes_offset(), 4 * 64 * 4);
  CodePlace place = keys.code_place(/*token=*/32 + 17, /*channel=*/16 + 4 * 2 + 3);
  EXPECT_EQ(place.byte_low,
            keys.codes_offset() + 512 + /*granule*/ (2 * 1 + 1) * 64 + /*lane*/ 1 * 4 + /*byte*/ 3);
  EXPECT_EQ(place.shift_low, 4);
  // Values, 4 bits, head_dim 64: lane = channel in block, byte = token in quad, field = block
  // within 32 channels.
  const SideLayout values(Side::kValue, {.bits = 4, .axis = QuantAxis::kPerToken, .group_size = 32},
                          64);
  place = values.code_place(/*token=*/6, /*channel=*/32 + 16 + 5);
  EXPECT_EQ(place.byte_low, values.codes_offset() + /*granule*/ (8 * 1 + 1) * 64 + 5 * 4 + 2);
  EXPECT_EQ(place.shift_low, 4);
  // Values, 3 bits, head_dim 64: only four blocks, so two token quads share a granule triple; field
  // 6 is split.
  const SideLayout three(Side::kValue, {.bits = 3, .axis = QuantAxis::kPerToken, .group_size = 64},
                         64);
  EXPECT_EQ(three.inner_fields(), 4);
  place = three.code_place(/*token=*/7, /*channel=*/2 * 16 + 9);
  EXPECT_EQ(place.byte_low, three.codes_offset() + 9 * 4 + 3);
  EXPECT_EQ(place.shift_low, 6);
  EXPECT_EQ(place.width_low, 2);
  EXPECT_EQ(place.byte_high, three.codes_offset() + 2 * 64 + 9 * 4 + 3);
  EXPECT_EQ(place.shift_high, 6);
  EXPECT_EQ(place.width_high, 1);
}

}  // namespace
}  // namespace lowkey
