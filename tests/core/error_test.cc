#include "core/error.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace lowkey {
namespace {

TEST(Error, CarriesCodeAndMessage) {
  try {
    fail(ErrorCode::kCorruptFile, "{}: at byte {}: bad", "x.gguf", 12);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruptFile);
    EXPECT_STREQ(error.what(), "x.gguf: at byte 12: bad");
  }
}

TEST(Error, EveryCodeHasItsName) {
  std::set<std::string> names;
  for (int code = 0; code <= static_cast<int>(ErrorCode::kCancelled); ++code)
    names.insert(error_code_name(static_cast<ErrorCode>(code)));
  EXPECT_EQ(names.size(), static_cast<size_t>(ErrorCode::kCancelled) + 1);
  EXPECT_FALSE(names.contains("unknown"));
  EXPECT_STREQ(error_code_name(static_cast<ErrorCode>(200)), "unknown");
}

TEST(CheckDeathTest, PrintsPlaceConditionAndValues) {
  const int pages = 3;
  EXPECT_DEATH(LOWKEY_CHECK(pages == 4, "{} pages", pages),
               "lowkey: internal error at .*error_test.cc:[0-9]+: pages == 4 3 pages");
  EXPECT_DEATH(LOWKEY_CHECK(pages == 4), "pages == 4");
  LOWKEY_CHECK(pages == 3, "not evaluated: {}", [] {
    ADD_FAILURE();
    return 0;
  }());
}

TEST(Check, AnEmbedderMayInstallItsOwnHandler) {
  struct Caught {
    std::string condition, detail;
  };
  set_check_handler([](const char*, int, const char* condition, const std::string& detail) {
    throw Caught{condition, detail};
  });
  try {
    LOWKEY_CHECK(1 > 2, "{}", 5);
    ADD_FAILURE();
  } catch (const Caught& caught) {
    EXPECT_EQ(caught.condition, "1 > 2");
    EXPECT_EQ(caught.detail, "5");
  }
  set_check_handler(nullptr);
}

}  // namespace
}  // namespace lowkey
