// Row kernels for one instruction set: see row_kernels-inl.h. The flags are in CMakeLists.txt.
#include "linear/row_kernels.h"

#if defined(__AVX512F__)
#define LOWKEY_KERNEL_NAMESPACE row_kernels_for_avx512
#include "linear/row_kernels-inl.h"

namespace lowkey {
const RowKernels& row_kernels_avx512() {
  return row_kernels_for_avx512::table();
}
}  // namespace lowkey
#else
namespace lowkey {
const RowKernels& row_kernels_avx512() {
  return row_kernels_scalar();
}
}  // namespace lowkey
#endif
