// Row kernels for one instruction set: see row_kernels-inl.h. The flags are in CMakeLists.txt.
#include "linear/row_kernels.h"

#if defined(__AVX2__)
#define LOWKEY_KERNEL_NAMESPACE row_kernels_for_avx2
#include "linear/row_kernels-inl.h"

namespace lowkey {
const RowKernels& row_kernels_avx2() {
  return row_kernels_for_avx2::table();
}
}  // namespace lowkey
#else
namespace lowkey {
const RowKernels& row_kernels_avx2() {
  return row_kernels_scalar();
}
}  // namespace lowkey
#endif
