#include "core/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "core/error.h"

namespace lowkey {
namespace {

#if defined(__x86_64__)
// Clang 14 knows no __builtin_cpu_supports("f16c").
bool has_f16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

CpuFeatures detect() {
  CpuFeatures f;
#if defined(__x86_64__)
  __builtin_cpu_init();
  f.f16c = has_f16c() && __builtin_cpu_supports("avx");
  f.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f.f16c;
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  f.avx512_vnni = f.avx512 && __builtin_cpu_supports("avx512vnni");
  f.avx512_bf16 = f.avx512 && __builtin_cpu_supports("avx512bf16");
#elif defined(__aarch64__)
  f.neon = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#endif
  return f;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return "scalar";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kNeon: return "neon";
  }
  return "unknown";
}

bool isa_available(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return true;
    case Isa::kAvx2: return cpu_features().avx2;
    case Isa::kAvx512: return cpu_features().avx512;
    case Isa::kNeon: return cpu_features().neon;
  }
  return false;
}

Isa parse_isa(std::string_view name) {
  for (Isa isa : kIsas) {
    if (name != isa_name(isa)) continue;
    if (!isa_available(isa))
      fail(ErrorCode::kUnsupported, "LOWKEY_ISA={}: this processor lacks it", name);
    return isa;
  }
  fail(ErrorCode::kInvalidArgument, "LOWKEY_ISA={}: not one of scalar, avx2, avx512, neon", name);
}

Isa active_isa() {
  static const Isa isa = [] {
    if (const char* name = std::getenv("LOWKEY_ISA"); name && *name) return parse_isa(name);
    return *std::find_if(std::rbegin(kIsas), std::rend(kIsas), isa_available);
  }();
  return isa;
}

}  // namespace lowkey
