// Tile kernels for one instruction set: see tile_kernels-inl.h. The flags are in CMakeLists.txt.
#include "attention/tile_kernels.h"

#if defined(__AVX512F__)
#define LOWKEY_KERNEL_NAMESPACE kernels_avx512
#include "attention/tile_kernels-inl.h"

namespace lowkey {
const TileKernels& tile_kernels_avx512() {
  return kernels_avx512::table();
}
}  // namespace lowkey
#else
namespace lowkey {
const TileKernels& tile_kernels_avx512() {
  return tile_kernels_scalar();
}
}  // namespace lowkey
#endif
