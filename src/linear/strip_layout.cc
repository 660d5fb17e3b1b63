#include "linear/strip_layout.h"

#include <cstring>
#include <type_traits>

namespace lowkey {
namespace {

// Calls copy(offset in the strip's block, offset in the row's block, bytes) for every piece of
// row `row`.
template <typename Copy>
void for_each_piece(const StripBlock& block, int64_t row, const Copy& copy) {
  for (int64_t i = 0; i < block.num_halves; ++i) {
    copy((i * kStripRows + row) * 2, block.halves_at + i * 2, std::integral_constant<size_t, 2>());
  }
  const int64_t quads = block.num_halves * kStripRows * 2;
  for (int64_t i = 0; i < block.num_quads; ++i) {
    copy(quads + (i * kStripRows + row) * 4, block.quads_at + i * 4,
         std::integral_constant<size_t, 4>());
  }
}

}  // namespace

void pack_strip(DType dtype, const std::byte* const (&rows)[kStripRows], int64_t num_blocks,
                std::byte* strip) {
  const StripBlock layout = strip_block(dtype);
  const int64_t bytes = dtype_block_bytes(dtype);
  for (int64_t b = 0; b < num_blocks; ++b) {
    std::byte* const to = strip + b * bytes * kStripRows;
    for (int64_t r = 0; r < kStripRows; ++r) {
      const std::byte* const from = rows[r] ? rows[r] + b * bytes : nullptr;
      for_each_piece(layout, r, [&](int64_t in_strip, int64_t in_row, auto size) {
        if (from) {
          std::memcpy(to + in_strip, from + in_row, size);
        } else {
          std::memset(to + in_strip, 0, size);
        }
      });
    }
  }
}

void unpack_strip_row(DType dtype, const std::byte* strip, int64_t row, int64_t num_blocks,
                      std::byte* out) {
  const StripBlock layout = strip_block(dtype);
  const int64_t bytes = dtype_block_bytes(dtype);
  for (int64_t b = 0; b < num_blocks; ++b) {
    const std::byte* const from = strip + b * bytes * kStripRows;
    for_each_piece(layout, row, [&](int64_t in_strip, int64_t in_row, auto size) {
      std::memcpy(out + b * bytes + in_row, from + in_strip, size);
    });
  }
}

}  // namespace lowkey
