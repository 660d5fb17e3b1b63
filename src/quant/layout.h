#pragma once
// Where every code and every parameter of a packed page lies: the granule layout. Specified in
// docs/formats/pages.md; this file is the only place that does the arithmetic. Torch-free, pure.
//
// A page holds kPageTokens tokens of one KV head of one layer:
//   [K parameters][K codes][V parameters][V codes]     each side 64-byte aligned
// so that reading it front to back is the order in which attention uses it.
#include <cstdint>

#include "recipe/bytes.h"
#include "recipe/recipe.h"

namespace lowkey {

enum class Side : uint8_t { kKey, kValue };

inline constexpr int32_t kTileTokens = 32;
inline constexpr int32_t kTilesPerPage = kPageTokens / kTileTokens;
inline constexpr int32_t kLanes = 16;  // 32-bit lanes of a granule
inline constexpr int32_t kGranuleBytes =
    64;  // kLanes dwords: one AVX-512 register, two AVX2, four NEON

// Where one code is: `width_low` bits at `shift_low` of byte `byte_low`, and for two of the eight
// fields of a 3-bit granule triple one more bit at `shift_high` of byte `byte_high` (width_high is
// 0 or 1).
struct CodePlace {
  int32_t byte_low = 0;
  int32_t byte_high = 0;
  uint8_t shift_low = 0;
  uint8_t width_low = 0;
  uint8_t shift_high = 0;
  uint8_t width_high = 0;
};

// One side (K or V) of a page. Codes are grouped in slabs of 64: kLanes lanes x 4 bytes, one bit
// field per byte.
//   K slab: lane = token within half a tile, byte = channel within a quad.
//   V slab: lane = channel within a block of 16, byte = token within a quad.
// A granule (three granules at 3 bits) holds `fields` slabs, so that a kernel selects a slab with a
// mask and never moves codes between lanes. Which slabs share a granule: K, `fields` neighbouring
// channel quads of one half; V, `fields` neighbouring channel blocks of one token quad. Where
// head_dim has too few for that (the largest power of two that divides them is smaller), the rest
// of the fields go to the next half or token quads: no padding for any head_dim that is a multiple
// of 16.
class SideLayout {
 public:
  // `recipe.group_size` must be resolved (a number) and valid for head_dim: resolve_recipe() sees
  // to that.
  SideLayout() = default;
  SideLayout(Side side, const SideRecipe& recipe, int32_t head_dim);

  Side side() const { return side_; }
  int32_t bits() const { return bits_; }
  bool packed() const { return bits_ < 16; }
  QuantAxis axis() const { return axis_; }
  int32_t group_size() const { return group_size_; }
  int32_t head_dim() const { return head_dim_; }

  // Packed sides. All offsets count from the start of the side.
  int32_t fields() const { return fields_; }  // slabs per granule (triple): 1, 2, 4 or 8
  int32_t inner_fields() const { return inner_fields_; }    // of them, along channels
  int32_t granule_bytes() const { return granule_bytes_; }  // 64, or 192 at 3 bits
  int32_t codes_offset() const { return codes_offset_; }
  int32_t tile_codes_bytes() const { return tile_codes_bytes_; }
  int64_t bytes() const { return bytes_; }

  // The granule and field of a slab. `outer`: K half (0..1) or V token quad (0..7); `inner`: K
  // channel quad or V block.
  struct Slab {
    int32_t granule;
    int32_t field;
  };
  Slab slab(int32_t outer, int32_t inner) const {
    const int32_t outer_fields = fields_ / inner_fields_;
    const int32_t outer_count = side_ == Side::kKey ? 2 : kTileTokens / 4;
    return {inner / inner_fields_ * (outer_count / outer_fields) + outer / outer_fields,
            outer % outer_fields * inner_fields_ + inner % inner_fields_};
  }

  // Offset of the scale (and, zero_point_stride() halves later, the zero point) of an element.
  // token: within the page.
  int32_t scale_index(int32_t token, int32_t channel) const;  // in halves from the side's start
  int32_t zero_point_stride() const { return zero_point_stride_; }

  CodePlace code_place(int32_t token, int32_t channel) const;  // token within the page

  // 16- and 32-bit sides: row-major rows of head_dim floats.
  int64_t row_bytes() const { return static_cast<int64_t>(head_dim_) * bits_ / 8; }

 private:
  Side side_ = Side::kKey;
  QuantAxis axis_ = QuantAxis::kPerToken;
  int32_t bits_ = 16;
  int32_t group_size_ = 0;
  int32_t head_dim_ = 0;
  int32_t fields_ = 0;
  int32_t inner_fields_ = 0;
  int32_t granule_bytes_ = 0;
  int32_t codes_offset_ = 0;
  int32_t tile_codes_bytes_ = 0;
  int32_t zero_point_stride_ = 0;
  int64_t bytes_ = 0;
};

struct PageLayout {
  PageLayout() = default;
  PageLayout(const HeadRecipe& head, int32_t head_dim);
  SideLayout k, v;
  int64_t v_offset = 0;
  int64_t bytes = 0;
};

}  // namespace lowkey
