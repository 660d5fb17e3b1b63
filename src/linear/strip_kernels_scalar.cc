// Strip kernels for any machine: see strip_kernels-inl.h. The flags are in CMakeLists.txt.
#define LOWKEY_KERNEL_NAMESPACE strip_kernels_any
#include "linear/strip_kernels-inl.h"

namespace lowkey {
const StripKernels& strip_kernels_scalar() {
  return strip_kernels_any::strip_table();
}
}  // namespace lowkey
