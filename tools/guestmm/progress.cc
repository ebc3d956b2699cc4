#include "tools/guestmm/progress.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/guestmm/terminal.h"

namespace guestmm::tools {
namespace {

using std::chrono::seconds;

// Returns to the start of the line and clears it.
constexpr char kStartOver[] = "\r\x1b[K";

}  // namespace

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() { Show(""); }

size_t ProgressLine::columns() const {
  // In the last one a terminal may go to the next line.
  return TerminalColumns(STDERR_FILENO) - 1;
}

void ProgressLine::Show(const std::string& text) {
  if (!terminal_) return;
  std::string shown = text.substr(0, columns());
  if (shown == shown_) return;
  shown_ = std::move(shown);
  std::fprintf(stderr, "%s%s", kStartOver, shown_.c_str());
  std::fflush(stderr);
}

void TimeLeft::Update(Nanoseconds now, double share) {
  if (!start_ || share < share_) start_ = now;
  updated_ = now;
  share_ = share;
}

std::optional<Nanoseconds> TimeLeft::At(Nanoseconds now) const {
  if (!start_ || share_ <= 0 || updated_ - *start_ < seconds(1)) {
    return std::nullopt;
  }
  const double taken = ToSeconds(updated_ - *start_);
  const std::chrono::duration<double> left(taken / share_ * (1 - share_));
  return std::max(
      Nanoseconds(0),
      std::chrono::duration_cast<Nanoseconds>(left) - (now - updated_));
}

Progress::Progress(bool quiet) : quiet_(quiet) {
  if (line_.shows() && !quiet_)
    drawer_ = std::thread([this] { DrawEachSecond(); });
}

Progress::~Progress() {
  if (!drawer_.joinable()) return;
  {
    const LockHolder hold(mutex_);
    is_over_ = true;
  }
  ended_.notify_one();
  drawer_.join();
}

void Progress::Show(const std::string& phase, std::optional<double> share,
                    const std::string& detail) {
  if (quiet_) return;
  const LockHolder hold(mutex_);
  if (!line_.shows()) {
    if (told_.insert(phase).second) std::fprintf(stderr, "%s\n", phase.c_str());
    return;
  }
  phase_ = phase;
  detail_ = detail;
  share_ = share;
  if (share) left_.Update(clock_.Now(), *share);
  Draw();
}

void Progress::Draw() {
  std::string bar;
  std::string figures;
  if (share_) {
    bar = " " + Bar(*share_);
    figures = absl::StrFormat(" %.0f %%", 100 * *share_);
    if (const std::optional<Nanoseconds> left = left_.At(clock_.Now())) {
      absl::StrAppend(&figures, ", ", RoughTime(*left), " left");
    }
  }
  const std::string detail = detail_.empty() ? "" : "; " + detail_;
  // The first that fits, or else what the line leaves of the last.
  std::string text = phase_ + bar + figures + detail;
  if (text.size() > line_.columns()) text = phase_ + figures + detail;
  if (text.size() > line_.columns()) text = phase_ + figures;
  line_.Show(text);
}

void Progress::DrawEachSecond() {
  const LockHolder hold(mutex_);
  while (!is_over_) {
    ended_.wait_for(mutex_, seconds(1));
    if (!phase_.empty() && !is_over_) Draw();
  }
}

std::string Bar(double share) {
  constexpr int kWidth = 20;
  const auto filled = static_cast<size_t>(std::clamp(share, 0.0, 1.0) * kWidth);
  return "[" + std::string(filled, '#') + std::string(kWidth - filled, '-') +
         "]";
}

std::string RoughTime(Nanoseconds time) {
  const int64_t s = std::chrono::round<seconds>(time).count();
  if (s < 60) return absl::StrCat(s, " s");
  if (s < 3600) return absl::StrCat(s / 60, " min ", s % 60, " s");
  return absl::StrCat(s / 3600, " h ", s / 60 % 60, " min");
}

}  // namespace guestmm::tools
