// Tile kernels for one instruction set: see tile_kernels-inl.h. The flags are in CMakeLists.txt.
#include "attention/tile_kernels.h"

#if defined(__ARM_FEATURE_DOTPROD)
#define LOWKEY_KERNEL_NAMESPACE kernels_neon
#include "attention/tile_kernels-inl.h"

namespace lowkey {
const TileKernels& tile_kernels_neon() {
  return kernels_neon::table();
}
}  // namespace lowkey
#else
namespace lowkey {
const TileKernels& tile_kernels_neon() {
  return tile_kernels_scalar();
}
}  // namespace lowkey
#endif
