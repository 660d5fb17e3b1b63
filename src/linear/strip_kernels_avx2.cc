// Strip kernels for one instruction set: see strip_kernels-inl.h. The flags are in CMakeLists.txt.
#include "linear/strip_kernels.h"

#if defined(__AVX2__)
#define LOWKEY_KERNEL_NAMESPACE strip_kernels_for_avx2
#include "linear/strip_kernels-inl.h"

namespace lowkey {
const StripKernels& strip_kernels_avx2() {
  return strip_kernels_for_avx2::strip_table();
}
}  // namespace lowkey
#else
namespace lowkey {
const StripKernels& strip_kernels_avx2() {
  return strip_kernels_scalar();
}
}  // namespace lowkey
#endif
