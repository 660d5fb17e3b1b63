#include "progress_bar.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "units.h"

namespace lowkey {
namespace {

constexpr double kFirstDraw = 2.0;       // seconds of work before anything shows
constexpr double kRedraw = 0.1;          // on a terminal
constexpr double kPlainInterval = 10.0;  // elsewhere
constexpr int kBarColumns = 24;

double steady_seconds() {
  using std::chrono::duration;
  return duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

ProgressBar::ProgressBar()
    : ProgressBar(
          detect_terminal(stderr),
          [](std::string_view text) {
            std::fwrite(text.data(), 1, text.size(), stderr);
            std::fflush(stderr);
          },
          steady_seconds) {}

ProgressBar::ProgressBar(Terminal terminal, Sink sink, Clock clock)
    : terminal_(terminal), sink_(std::move(sink)), clock_(std::move(clock)) {}

ProgressBar::~ProgressBar() {
  clear();
}

ProgressFn ProgressBar::callback() {
  return [this](std::string_view what, int64_t done, int64_t total) { update(what, done, total); };
}

void ProgressBar::update(std::string_view what, int64_t done, int64_t total) {
  const double now = clock_();
  if (!started_) {
    started_ = true;
    first_time_ = last_draw_ = now;
  }
  if (what != what_ || done < last_done_ || stretch_time_ == 0) {
    what_ = what;
    stretch_time_ = now;
  }
  last_done_ = done;
  const double interval = terminal_.tty ? kRedraw : kPlainInterval;
  if (now - first_time_ < kFirstDraw || now - last_draw_ < interval) return;
  last_draw_ = now;
  const std::string text = line(now - stretch_time_, done, total);
  if (terminal_.tty) {
    sink_(fmt::format("\r{}\x1b[K", fit(text, terminal_.width - 1)));
    drawn_ = true;
  } else {
    sink_(fmt::format("{}\n", text));
  }
}

void ProgressBar::clear() {
  if (drawn_) sink_("\r\x1b[K");
  drawn_ = false;
}

std::string ProgressBar::line(double elapsed, int64_t done, int64_t total) const {
  std::string text = what_;
  if (total > 0) {
    const double fraction =
        std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    if (terminal_.tty) text += fmt::format("  {}", bar(fraction));
    text += fmt::format("  {:.0f}%", 100 * fraction);
    text += fmt::format("  {}", human_duration(elapsed));
    if (fraction > 0) {
      text += fmt::format(", {} left", human_duration(elapsed * (1 - fraction) / fraction));
    }
  } else {
    text += fmt::format("  {}  {}", with_separators(done), human_duration(elapsed));
  }
  return text;
}

std::string ProgressBar::bar(double fraction) const {
  const int full = static_cast<int>(fraction * kBarColumns);
  std::string out = "[";
  for (int i = 0; i < kBarColumns; ++i) {
    out += i < full ? (terminal_.utf8 ? "█" : "#") : (terminal_.utf8 ? "░" : "-");
  }
  return out + "]";
}

}  // namespace lowkey
