// Decode kernels for NEON: see decode_kernels-inl.h. The flags are in CMakeLists.txt.
#include "attention/decode_kernels.h"

#if defined(__ARM_FEATURE_DOTPROD)
#define LOWKEY_KERNEL_NAMESPACE decode_neon
#include "attention/simd_neon-inl.h"
//
#include "attention/decode_kernels-inl.h"

namespace lowkey {
const DecodeKernels* decode_kernels_neon() {
  return &decode_neon::kDecodeKernels;
}
}  // namespace lowkey
#else
namespace lowkey {
const DecodeKernels* decode_kernels_neon() {
  return nullptr;
}
}  // namespace lowkey
#endif
