#ifndef GUESTMM_VMM_LINE_LOG_H_
#define GUESTMM_VMM_LINE_LOG_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/workqueue.h"

namespace GUESTMM_EXPORT guestmm {

struct LineLogOptions {
  // Lines that wait to be written. Further ones are left out.
  size_t max_lines = 1000;
  // Of Say: the lines at once, and per second after that. Further ones are left
  // out.
  int burst = 200;
  int lines_per_second = 20;
};

// A log whose writer may be slow or stuck, and whose lines may be the doing of
// untrusted peers: it is written on a workqueue, and no caller waits. Lines
// that are left out are counted, and the count is told before the next line.
// Thread-safe.
class LineLog {
 public:
  // Calls `write` with each line, and `show` with the latest progress when the
  // lines are written; both on `workqueue`, which must outlive this and which
  // they may block.
  LineLog(Workqueue& workqueue, std::function<void(const std::string&)> write,
          std::function<void(const std::string&)> show,
          const LineLogOptions& options = {});
  // REQUIRES: `write` returns.
  ~LineLog();
  LineLog(const LineLog&) = delete;
  LineLog& operator=(const LineLog&) = delete;

  // Adds a line of an event that peers can cause.
  void Say(std::string line);
  // Adds a line that is exempt from the rate limit.
  void Tell(std::string line);
  // Replaces the progress.
  void Show(std::string progress);

  // Waits until all is written, at most for `patience`. False if the writer is
  // stuck: then this must not be destroyed.
  bool Flush(Nanoseconds patience);

 private:
  void Add(std::string line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellLeftOut() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run();
  bool IsDone() const;

  Workqueue& workqueue_;
  const std::function<void(const std::string&)> write_;
  const std::function<void(const std::string&)> show_;
  const LineLogOptions options_;

  mutable Mutex mutex_;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  std::string progress_ ABSL_GUARDED_BY(mutex_);
  bool has_progress_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_writing_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t left_out_ ABSL_GUARDED_BY(mutex_) = 0;
  // The token bucket of Say, as of credit_time_: each line takes 1 s divided by
  // lines_per_second.
  Nanoseconds credit_ ABSL_GUARDED_BY(mutex_);
  Nanoseconds credit_time_ ABSL_GUARDED_BY(mutex_);
  Work work_;
};

}  // namespace guestmm

#endif  // GUESTMM_VMM_LINE_LOG_H_
