// Strip kernels for one instruction set: see strip_kernels-inl.h. The flags are in CMakeLists.txt.
#include "linear/strip_kernels.h"

#if defined(__AVX512VNNI__)
#define LOWKEY_KERNEL_NAMESPACE strip_kernels_for_avx512_vnni
#include "linear/strip_kernels-inl.h"

namespace lowkey {
const StripKernels& strip_kernels_avx512_vnni() {
  return strip_kernels_for_avx512_vnni::strip_table();
}
}  // namespace lowkey
#else
namespace lowkey {
const StripKernels& strip_kernels_avx512_vnni() {
  return strip_kernels_scalar();
}
}  // namespace lowkey
#endif
