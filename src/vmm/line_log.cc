#include "guestmm/vmm/line_log.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"

namespace guestmm {
namespace {

// The token bucket's unit: the time after which Say may add one more line.
Nanoseconds PriceOf(const LineLogOptions& options) {
  return Nanoseconds(std::chrono::seconds(1)) / options.lines_per_second;
}

}  // namespace

LineLog::LineLog(Workqueue& workqueue,
                 std::function<void(const std::string&)> write,
                 std::function<void(const std::string&)> show,
                 const LineLogOptions& options)
    : workqueue_(workqueue),
      write_(std::move(write)),
      show_(std::move(show)),
      options_(options),
      credit_(PriceOf(options) * options.burst),
      credit_time_(workqueue.Now()),
      work_([this] { Run(); }) {}

LineLog::~LineLog() { workqueue_.CancelSync(work_); }

void LineLog::Say(std::string line) {
  {
    LockHolder hold(mutex_);
    const Nanoseconds now = workqueue_.Now();
    const Nanoseconds price = PriceOf(options_);
    credit_ = std::min(credit_ + (now - credit_time_), price * options_.burst);
    credit_time_ = now;
    if (credit_ < price) {
      ++left_out_;
      return;
    }
    credit_ -= price;
    Add(std::move(line));
  }
  workqueue_.Queue(work_);
}

void LineLog::Tell(std::string line) {
  {
    LockHolder hold(mutex_);
    Add(std::move(line));
  }
  workqueue_.Queue(work_);
}

void LineLog::Show(std::string progress) {
  {
    LockHolder hold(mutex_);
    progress_ = std::move(progress);
    has_progress_ = true;
  }
  workqueue_.Queue(work_);
}

void LineLog::Add(std::string line) {
  if (lines_.size() >= options_.max_lines) {
    ++left_out_;
    return;
  }
  TellLeftOut();
  lines_.push_back(std::move(line));
}

void LineLog::TellLeftOut() {
  if (left_out_ == 0) return;
  lines_.push_back(absl::StrFormat("(%d lines left out)", left_out_));
  left_out_ = 0;
}

void LineLog::Run() {
  while (true) {
    std::string text;
    bool is_line = true;
    {
      LockHolder hold(mutex_);
      is_line = !lines_.empty();
      if (is_line) {
        text = std::move(lines_.front());
        lines_.pop_front();
      } else if (std::exchange(has_progress_, false)) {
        text = std::move(progress_);
      } else {
        is_writing_ = false;
        return;
      }
      is_writing_ = true;
    }
    (is_line ? write_ : show_)(text);
  }
}

bool LineLog::IsDone() const {
  LockHolder hold(mutex_);
  return lines_.empty() && !has_progress_ && !is_writing_;
}

bool LineLog::Flush(Nanoseconds patience) {
  {
    LockHolder hold(mutex_);
    TellLeftOut();
  }
  workqueue_.Queue(work_);
  return workqueue_.WaitUntil([this] { return IsDone(); }, patience);
}

}  // namespace guestmm
