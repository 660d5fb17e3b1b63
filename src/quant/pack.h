#pragma once
// Writing tokens into packed page sides and reading single elements back. Torch-free, pure; `side`
// points at the start of one side of a page (64-byte aligned). Writing overwrites exactly the
// fields it names and touches no other bit, so packing the same tokens twice, in any grouping the
// axis allows, gives the same bytes.
#include <cstddef>
#include <cstdint>

#include "quant/layout.h"

namespace lowkey {

// Per-channel sides: tokens [first, first + group_size) of the page, first a multiple of the group.
// x: [group_size, head_dim] f16-rounded values as float.
void pack_group(const SideLayout& layout, std::byte* side, int32_t first, const float* x);

// Per-token sides: tokens [first, first + count) of the page, all in one tile; a whole tile is
// several times as fast as its tokens one by one. x: [count, head_dim].
void pack_tokens(const SideLayout& layout, std::byte* side, int32_t first, int32_t count,
                 const float* x);

uint8_t read_code(const SideLayout& layout, const std::byte* side, int32_t token, int32_t channel);

// One element as attention sees it: decoded from codes, or the float of an unpacked side.
float read_element(const SideLayout& layout, const std::byte* side, int32_t token, int32_t channel);

}  // namespace lowkey
