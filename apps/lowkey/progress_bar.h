#pragma once
// Draws what long work reports through ProgressFn (core/progress.h). Work of under two seconds
// shows nothing. On a terminal: one line that redraws itself and disappears at the end. Elsewhere
// (logs, CI): a plain line every ten seconds. Not thread-safe: one reporter at a time.
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "core/progress.h"
#include "terminal.h"

namespace lowkey {

class ProgressBar {
 public:
  using Sink = std::function<void(std::string_view)>;
  using Clock = std::function<double()>;  // seconds, never going back

  ProgressBar();  // stderr
  ProgressBar(Terminal terminal, Sink sink, Clock clock);
  ~ProgressBar();  // clears
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Borrows this object.
  ProgressFn callback();

  // A new `what`, or fewer `done` than before, begins another stretch with its own estimate.
  // total <= 0: unknown.
  void update(std::string_view what, int64_t done, int64_t total);

  // Removes the line before something else is printed; the next update draws it again.
  void clear();

 private:
  std::string line(double elapsed, int64_t done, int64_t total) const;
  std::string bar(double fraction) const;

  Terminal terminal_;
  Sink sink_;
  Clock clock_;
  std::string what_;
  bool started_ = false;
  bool drawn_ = false;
  int64_t last_done_ = 0;
  double first_time_ = 0;    // of all work
  double stretch_time_ = 0;  // of this stretch
  double last_draw_ = 0;
};

}  // namespace lowkey
