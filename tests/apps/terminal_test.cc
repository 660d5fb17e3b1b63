#include "terminal.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace lowkey {
namespace {

using Variables = std::map<std::string, std::string>;

Terminal describe(const Variables& variables, bool tty = true, int width = 0,
                  bool no_color = false) {
  const auto environment = [&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
  return describe_terminal(tty, width, environment, no_color);
}

TEST(Terminal, ColoursOnlyOnATerminalThatIsWilling) {
  EXPECT_TRUE(describe({{"TERM", "xterm"}}).color);
  EXPECT_TRUE(describe({{"NO_COLOR", ""}}).color);  // no-color.org: present and not empty
  EXPECT_FALSE(describe({{"NO_COLOR", "1"}}).color);
  EXPECT_FALSE(describe({{"TERM", "dumb"}}).color);
  EXPECT_FALSE(describe({}, /*tty=*/false).color);
  EXPECT_FALSE(describe({}, true, 0, /*no_color=*/true).color);
}

TEST(Terminal, WidthFromTheDeviceThenColumnsThenEighty) {
  EXPECT_EQ(describe({{"COLUMNS", "90"}}, true, 120).width, 120);
  EXPECT_EQ(describe({{"COLUMNS", "90"}}).width, 90);
  EXPECT_EQ(describe({}).width, 80);
  EXPECT_EQ(describe({{"COLUMNS", "wide"}}).width, 80);
  EXPECT_EQ(describe({{"COLUMNS", "3"}}).width, 80);
  EXPECT_EQ(describe({}, true, 100000).width, 80);
}

TEST(Terminal, Utf8AsTheLocaleSaysFirstSetFirst) {
  EXPECT_TRUE(describe({{"LANG", "en_US.UTF-8"}}).utf8);
  EXPECT_TRUE(describe({{"LC_ALL", ""}, {"LC_CTYPE", "C.utf8"}}).utf8);
  EXPECT_FALSE(describe({{"LC_ALL", "C"}, {"LANG", "en_US.UTF-8"}}).utf8);
  EXPECT_FALSE(describe({}).utf8);
}

TEST(Terminal, PaintsOrLeavesAlone) {
  EXPECT_EQ(paint({.color = true}, Ink::kBold, "x"), "\x1b[1mx\x1b[0m");
  EXPECT_EQ(paint({.color = true}, Ink::kCyan, "x"), "\x1b[36mx\x1b[0m");
  EXPECT_EQ(paint({.color = false}, Ink::kRed, "x"), "x");
}

TEST(Terminal, FitCutsAtCodePoints) {
  EXPECT_EQ(text_width("Δ%é"), 3);
  EXPECT_EQ(fit("hello", 5), "hello");
  EXPECT_EQ(fit("hello!", 5), "hell…");
  EXPECT_EQ(fit("éééé", 3), "éé…");
  EXPECT_EQ(fit("ab", 1), "…");
  EXPECT_EQ(fit("ab", 0), "");
  EXPECT_EQ(fit("ab", -3), "");
  EXPECT_EQ(fit("", 0), "");
}

}  // namespace
}  // namespace lowkey
