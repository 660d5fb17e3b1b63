#include "table.h"

#include <gtest/gtest.h>

#include <sstream>

namespace lowkey {
namespace {

constexpr auto kRight = Table::Align::kRight;

Table sample() {
  Table table({{"recipe"}, {"ppl", kRight}, {"Δ%", kRight}});
  table.add_row({"16", "21.54", ""});
  table.add_row({"kivi-2:r32+i1", "26.05", "+20.9"});
  return table;
}

TEST(Table, AlignsColumnsByCodePoints) {
  EXPECT_EQ(sample().text({}),
            "recipe           ppl     Δ%\n"
            "16             21.54\n"
            "kivi-2:r32+i1  26.05  +20.9\n");
}

TEST(Table, HeaderIsBoldOnlyWithColours) {
  EXPECT_EQ(sample().text({.color = true}).substr(0, 4), "\x1b[1m");
  EXPECT_EQ(sample().text({.color = false}).find('\x1b'), std::string::npos);
}

TEST(Table, Markdown) {
  EXPECT_EQ(sample().markdown(),
            "| recipe        |   ppl |    Δ% |\n"
            "|---------------|------:|------:|\n"
            "| 16            | 21.54 |       |\n"
            "| kivi-2:r32+i1 | 26.05 | +20.9 |\n");
}

TEST(Table, MarkdownEscapesBars) {
  Table table({{"a|b"}});
  table.add_row({"x|y"});
  EXPECT_EQ(table.markdown(), "| a\\|b |\n|------|\n| x\\|y |\n");
}

TEST(Table, WideTextIsCutNumbersAreNot) {
  Table table({{"recipe"}, {"bytes", kRight}});
  table.add_row({std::string(200, 'r'), std::string(30, '9')});
  const std::string at_most_100 = table.text({.tty = false, .width = 40});
  const std::string at_most_60 = table.text({.tty = true, .width = 60});
  const auto widest = [](const std::string& text) {
    int most = 0;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) most = std::max(most, text_width(line));
    return most;
  };
  EXPECT_EQ(widest(at_most_100), 100);
  EXPECT_EQ(widest(at_most_60), 60);
  EXPECT_NE(at_most_60.find("…  " + std::string(30, '9')), std::string::npos);
  // No room left: text keeps eight columns rather than vanish.
  EXPECT_EQ(widest(table.text({.tty = true, .width = 20})), 8 + 2 + 30);
}

TEST(Table, NoRowsIsAHeader) {
  EXPECT_EQ(Table({{"a"}, {"b"}}).text({}), "a  b\n");
}

}  // namespace
}  // namespace lowkey
