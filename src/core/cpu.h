#pragma once
// What this processor can do, and which instruction set our kernels use. Decided once.
#include <cstdint>
#include <string_view>

namespace lowkey {

struct CpuFeatures {
  bool f16c = false;
  bool avx2 = false;    // with FMA
  bool avx512 = false;  // F, BW, VL, DQ
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool neon = false;  // with dot products of bytes (ASIMDDP)
};

const CpuFeatures& cpu_features();

enum class Isa : uint8_t { kScalar, kAvx2, kAvx512, kNeon };

// Of two that a machine has, the later is better.
inline constexpr Isa kIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon};

std::string_view isa_name(Isa isa);

// The best instruction set this machine runs, or the one LOWKEY_ISA names (scalar, avx2, avx512,
// neon). Throws Error if LOWKEY_ISA is unknown or the machine lacks it.
Isa active_isa();

// For tests and benches that compare paths: throws like active_isa().
Isa parse_isa(std::string_view name);
bool isa_available(Isa isa);

}  // namespace lowkey
