#include "cache/page_pool.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/error.h"

namespace lowkey {
namespace {

TEST(PagePool, CountsEachPageOnceHoweverManyShareIt) {
  PagePool pool;
  PageRef a = pool.allocate(4096);
  EXPECT_EQ(pool.usage().page_bytes, 4096);
  EXPECT_FALSE(a.shared());
  {
    PageRef b = a;
    EXPECT_TRUE(a.shared());
    EXPECT_EQ(pool.usage().page_bytes, 4096);
    PageRef c = pool.copy(a);
    EXPECT_EQ(pool.usage().page_bytes, 8192);
  }
  EXPECT_FALSE(a.shared());
  EXPECT_EQ(pool.usage().page_bytes, 4096);
  a = PageRef();
  EXPECT_EQ(pool.usage().in_use(), 0);
  EXPECT_GT(pool.usage().reserved_bytes, 0);
}

TEST(PagePool, PagesComeZeroedAndAlignedEvenWhenReused) {
  PagePool pool;
  for (int round = 0; round < 3; ++round) {
    std::vector<PageRef> pages;
    for (int i = 0; i < 100; ++i) {
      pages.push_back(pool.allocate(3072));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(pages.back().data()) % 64, 0u);
      for (int b = 0; b < 3072; ++b) ASSERT_EQ(pages.back().data()[b], std::byte{0});
      std::fill_n(pages.back().mutable_data(), 3072, std::byte{0xff});
    }
  }
  // Freed pages are used again: three rounds fit what the first one reserved.
  EXPECT_LE(pool.usage().reserved_bytes, 100 * 3072 * 3);
}

TEST(PagePool, RefusesBeyondItsBoundAndSaysSo) {
  PagePool pool(10000);
  PageRef a = pool.allocate(4096);
  CountedBuffer window(pool, BufferUse::kWindow, 4000);
  EXPECT_EQ(pool.usage().in_use(), 8096);
  try {
    pool.allocate(4096);
    FAIL() << "a third 4096 bytes cannot fit";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    EXPECT_STREQ(error.what(),
                 "KV cache: its 10000 bytes are used up; give it more, or use fewer bits");
  }
  EXPECT_THROW(CountedBuffer(pool, BufferUse::kPrefix, 4000), Error);
  EXPECT_EQ(pool.usage().in_use(), 8096);
}

TEST(PagePool, LargeChunksAreReturnedInWhole) {
  PagePool pool;
  std::vector<PageRef> pages;
  for (int i = 0; i < 3000; ++i) pages.push_back(pool.allocate(16384));
  EXPECT_EQ(pool.usage().page_bytes, 3000 * 16384);
  EXPECT_LT(pool.usage().reserved_bytes, 2 * pool.usage().page_bytes + (32 << 20));
  pages.clear();
  EXPECT_EQ(pool.usage().in_use(), 0);
}

}  // namespace
}  // namespace lowkey
