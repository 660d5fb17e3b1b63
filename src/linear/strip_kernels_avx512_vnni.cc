// Strip kernels for one instruction set: see strip_kernels-inl.h. The flags are in CMakeLists.txt.
#define LOWKEY_KERNEL_NAMESPACE strip_kernels_for_avx512_vnni
#include "linear/strip_kernels-inl.h"

namespace lowkey {
const StripKernels& strip_kernels_avx512_vnni() {
  return strip_kernels_for_avx512_vnni::strip_table();
}
}  // namespace lowkey
