// Tile kernels for one instruction set: see tile_kernels-inl.h. The flags are in CMakeLists.txt.
#define LOWKEY_KERNEL_NAMESPACE kernels_scalar
#include "attention/tile_kernels-inl.h"

namespace lowkey {
const TileKernels& tile_kernels_scalar() {
  return kernels_scalar::table();
}
}  // namespace lowkey
