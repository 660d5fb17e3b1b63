// Decode kernels for AVX2: see decode_kernels-inl.h. The flags are in CMakeLists.txt.
#include "attention/decode_kernels.h"

#if defined(__AVX2__)
#define LOWKEY_KERNEL_NAMESPACE decode_avx2
#include "attention/simd_avx2-inl.h"
//
#include "attention/decode_kernels-inl.h"

namespace lowkey {
const DecodeKernels* decode_kernels_avx2() {
  return &decode_avx2::kDecodeKernels;
}
}  // namespace lowkey
#else
namespace lowkey {
const DecodeKernels* decode_kernels_avx2() {
  return nullptr;
}
}  // namespace lowkey
#endif
