#include "core/cpu.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace lowkey {
namespace {

TEST(Cpu, ScalarIsAlwaysThere) {
  EXPECT_TRUE(isa_available(Isa::kScalar));
  EXPECT_EQ(parse_isa("scalar"), Isa::kScalar);
  EXPECT_TRUE(isa_available(active_isa()));
}

TEST(Cpu, FeaturesAreOrdered) {
  const CpuFeatures& f = cpu_features();
  EXPECT_TRUE(!f.avx512 || f.avx2) << "the AVX-512 kernels also use AVX2";
  EXPECT_TRUE(!f.avx2 || f.f16c);
  EXPECT_EQ(isa_available(Isa::kAvx2), f.avx2);
  EXPECT_EQ(isa_available(Isa::kAvx512), f.avx512);
  EXPECT_EQ(isa_available(Isa::kNeon), f.neon);
}

TEST(Cpu, ParsingNamesWhatIsWrong) {
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    const std::string name(isa_name(isa));
    if (isa_available(isa)) {
      EXPECT_EQ(parse_isa(name), isa);
      continue;
    }
    try {
      parse_isa(name);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_EQ(error.what(), "LOWKEY_ISA=" + name + ": this processor lacks it");
    }
  }
  try {
    parse_isa("sse9");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(error.what(), "LOWKEY_ISA=sse9: not one of scalar, avx2, avx512, neon");
  }
}

}  // namespace
}  // namespace lowkey
