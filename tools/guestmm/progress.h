#ifndef GUESTMM_TOOLS_GUESTMM_PROGRESS_H_
#define GUESTMM_TOOLS_GUESTMM_PROGRESS_H_

#include <condition_variable>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "guestmm/base/clock.h"
#include "guestmm/base/lock.h"

namespace guestmm::tools {

// A line on stderr, overwritten by the next and erased at the end. Prints
// nothing if stderr is not a terminal.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // True if stderr is a terminal.
  bool shows() const { return terminal_; }
  // The longest text that is shown whole.
  size_t columns() const;
  // Cut off at the terminal's width.
  void Show(const std::string& text);

 private:
  const bool terminal_;
  std::string shown_;
};

// The share of something that is done, over time.
class TimeLeft {
 public:
  // If the share has fallen, something else has begun at `now`.
  void Update(Nanoseconds now, double share);
  // By the time taken so far, counting down between updates. None in the first
  // second, and while nothing is done.
  std::optional<Nanoseconds> At(Nanoseconds now) const;

 private:
  std::optional<Nanoseconds> start_;
  Nanoseconds updated_{0};
  double share_ = 0;
};

// What a command is doing, on stderr. On a terminal it is a ProgressLine of the
// phase, a bar, the percentage, the time left and a detail, drawn anew every
// second so that it moves while one step takes long; without the bar, and then
// without the detail, where the terminal is too narrow. Elsewhere it is a line
// for each phase that begins.
class Progress {
 public:
  // `quiet`: shows nothing.
  explicit Progress(bool quiet = false);
  ~Progress();

  // `share`: of all that the bar stands for; none if that is unknown. `detail`:
  // what changes within a phase.
  void Show(const std::string& phase, std::optional<double> share,
            const std::string& detail = "");

 private:
  void Draw() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DrawEachSecond();

  const bool quiet_;
  const MonotonicClock clock_;
  ProgressLine line_;
  Mutex mutex_;
  std::condition_variable_any ended_;
  bool is_over_ ABSL_GUARDED_BY(mutex_) = false;
  std::string phase_ ABSL_GUARDED_BY(mutex_);
  std::string detail_ ABSL_GUARDED_BY(mutex_);
  std::optional<double> share_ ABSL_GUARDED_BY(mutex_);
  TimeLeft left_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> told_ ABSL_GUARDED_BY(mutex_);
  std::thread drawer_;
};

// "[#####-----]": the share from 0 to 1.
std::string Bar(double share);

// "3 s", "2 min 5 s", "1 h 20 min".
std::string RoughTime(Nanoseconds time);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_PROGRESS_H_
