#include "terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

namespace lowkey {
namespace {

constexpr int kMinWidth = 20;  // below that a reported width is nonsense
constexpr int kMaxWidth = 1000;

bool starts_code_point(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
}

// The first of these that is set decides, as in setlocale(3).
bool says_utf8(const Environment& environment) {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = environment(name);
    if (!value || !*value) continue;
    const std::string_view locale = value;
    return locale.find("UTF-8") != locale.npos || locale.find("utf8") != locale.npos ||
           locale.find("utf-8") != locale.npos || locale.find("UTF8") != locale.npos;
  }
  return false;
}

}  // namespace

Terminal describe_terminal(bool tty, int reported_width, const Environment& environment,
                           bool no_color) {
  Terminal terminal;
  terminal.tty = tty;
  const auto text = [&](const char* name) {
    const char* value = environment(name);
    return std::string_view(value ? value : "");
  };
  terminal.color = tty && !no_color && text("NO_COLOR").empty() && text("TERM") != "dumb";
  terminal.utf8 = says_utf8(environment);
  int width = reported_width;
  if (width <= 0) width = std::atoi(std::string(text("COLUMNS")).c_str());
  if (width >= kMinWidth && width <= kMaxWidth) terminal.width = width;
  return terminal;
}

Terminal detect_terminal(std::FILE* stream, bool no_color) {
  const int descriptor = ::fileno(stream);
  winsize size{};
  const bool tty = ::isatty(descriptor) == 1;
  const int width = tty && ::ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
  const auto environment = [](const char* name) -> const char* { return std::getenv(name); };
  return describe_terminal(tty, width, environment, no_color);
}

std::string paint(const Terminal& terminal, Ink ink, std::string_view text) {
  if (!terminal.color) return std::string(text);
  static constexpr const char* kCodes[] = {"1", "2", "31", "32", "33", "36"};
  std::string out = "\x1b[";
  out += kCodes[static_cast<size_t>(ink)];
  out += 'm';
  out += text;
  out += "\x1b[0m";
  return out;
}

int text_width(std::string_view text) {
  int columns = 0;
  for (const char c : text) columns += starts_code_point(c);
  return columns;
}

std::string fit(std::string_view text, int width) {
  if (text_width(text) <= width) return std::string(text);
  if (width <= 0) return {};
  size_t end = 0;
  for (int columns = 0; end < text.size(); ++end) {
    if (starts_code_point(text[end]) && ++columns == width) break;
  }
  return std::string(text.substr(0, end)) + "…";
}

}  // namespace lowkey
