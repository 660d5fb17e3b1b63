#include "load/tensor.h"

#include <gtest/gtest.h>

namespace lowkey {
namespace {

TEST(DType, BlocksAreGgmls) {
  EXPECT_EQ(dtype_block_bytes(DType::kQ4_1), 20);
  EXPECT_EQ(dtype_block_elements(DType::kQ6_K), 256);
  EXPECT_EQ(dtype_name(DType::kQ6_K), "Q6_K");
}

}  // namespace
}  // namespace lowkey
