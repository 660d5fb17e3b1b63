// Row kernels for any machine: see row_kernels-inl.h. The flags are in CMakeLists.txt.
#define LOWKEY_KERNEL_NAMESPACE row_kernels_any
#include "linear/row_kernels-inl.h"

namespace lowkey {
const RowKernels& row_kernels_scalar() {
  return row_kernels_any::table();
}
}  // namespace lowkey
