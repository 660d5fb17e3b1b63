// Strip kernels for one instruction set: see strip_kernels-inl.h. The flags are in CMakeLists.txt.
#include "linear/strip_kernels.h"

#if defined(__ARM_FEATURE_DOTPROD)
#define LOWKEY_KERNEL_NAMESPACE strip_kernels_for_neon
#include "linear/strip_kernels-inl.h"

namespace lowkey {
const StripKernels& strip_kernels_neon() {
  return strip_kernels_for_neon::strip_table();
}
}  // namespace lowkey
#else
namespace lowkey {
const StripKernels& strip_kernels_neon() {
  return strip_kernels_scalar();
}
}  // namespace lowkey
#endif
