// Decode kernels for AVX-512 with VNNI: see decode_kernels-inl.h. The flags are in CMakeLists.txt.
#include "attention/decode_kernels.h"

#if defined(__AVX512VNNI__)
#define LOWKEY_KERNEL_NAMESPACE decode_avx512
#include "attention/simd_avx512-inl.h"
//
#include "attention/decode_kernels-inl.h"

namespace lowkey {
const DecodeKernels* decode_kernels_avx512() {
  return &decode_avx512::kDecodeKernels;
}
}  // namespace lowkey
#else
namespace lowkey {
const DecodeKernels* decode_kernels_avx512() {
  return nullptr;
}
}  // namespace lowkey
#endif
