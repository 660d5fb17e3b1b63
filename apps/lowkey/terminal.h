#pragma once
// What an output stream can show: width, colours, UTF-8. Pipes and files get plain text.
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>

namespace lowkey {

struct Terminal {
  bool tty = false;
  bool color = false;
  bool utf8 = false;
  int width = 80;  // columns
};

// Colours: on a terminal that is not "dumb", unless NO_COLOR is set (https://no-color.org) or
// `no_color` says so.
Terminal detect_terminal(std::FILE* stream, bool no_color = false);

// The decision behind it. reported_width: what the device says, 0 if nothing.
using Environment = std::function<const char*(const char* name)>;
Terminal describe_terminal(bool tty, int reported_width, const Environment& environment,
                           bool no_color);

enum class Ink : uint8_t { kBold, kDim, kRed, kGreen, kYellow, kCyan };

// `text` in that ink, or as it is where colours are off.
std::string paint(const Terminal& terminal, Ink ink, std::string_view text);

// Columns that `text` (UTF-8, no escape sequences) takes: its code points.
int text_width(std::string_view text);

// The first columns of `text`, the last of them "…" if something was cut.
std::string fit(std::string_view text, int width);

}  // namespace lowkey
