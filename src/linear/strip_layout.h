#pragma once
// How the blocks of a GGUF file lie in memory when a decode step reads them: sixteen rows, a strip,
// interleaved. Torch-free, plain data: kernels compiled for one instruction set include it.
//
// A strip holds its rows' blocks front to back; a block of a strip holds the same bytes as the
// sixteen rows' blocks of the file, transposed: first each half float (scales) as [16 rows], then
// each group of four bytes as [16 rows][4]. So one 64-byte register holds four bytes of every row,
// dot products need no sums across lanes, a strip is read front to back, and it is as large as the
// file's rows. A last, incomplete strip is padded with zeros.
#include <cstdint>

#include "load/tensor.h"

namespace lowkey {

inline constexpr int64_t kStripRows = 16;

// One row's block of the file: halves at `halves_at`, groups of four bytes at `quads_at`.
struct StripBlock {
  int64_t num_halves = 0;
  int64_t halves_at = 0;
  int64_t num_quads = 0;
  int64_t quads_at = 0;
};

// num_quads is 0 for a type without blocks: it has no strips.
constexpr StripBlock strip_block(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0: return {1, 0, 4, 2};
    case DType::kQ4_1: return {2, 0, 4, 4};
    case DType::kQ5_0: return {1, 0, 5, 2};
    case DType::kQ5_1: return {2, 0, 5, 4};
    case DType::kQ8_0: return {1, 0, 8, 2};
    case DType::kQ4_K: return {2, 0, 35, 4};
    case DType::kQ5_K: return {2, 0, 43, 4};
    case DType::kQ6_K: return {1, 208, 52, 0};
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kQ2_1:
    case DType::kQ3_1: break;
  }
  return {};
}

constexpr bool has_strips(DType dtype) {
  return strip_block(dtype).num_quads > 0;
}

// Rows of `num_blocks` blocks -> one strip of 16 * num_blocks * dtype_block_bytes(dtype) bytes. A
// null row stands for zeros.
void pack_strip(DType dtype, const std::byte* const (&rows)[kStripRows], int64_t num_blocks,
                std::byte* strip);

// The way back, for one of the rows.
void unpack_strip_row(DType dtype, const std::byte* strip, int64_t row, int64_t num_blocks,
                      std::byte* out);

}  // namespace lowkey
