#ifndef GUESTMM_TESTS_TESTING_FAKE_DEVICE_H_
#define GUESTMM_TESTS_TESTING_FAKE_DEVICE_H_

#include <cstddef>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/check.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/reporting/reporting_device.h"

namespace guestmm {

// A ReportingDevice that a test controls: Report returns what the test says,
// and a report ends when the test says so or, given a workqueue, by itself.
class FakeDevice final : public ReportingDevice {
 public:
  using Ranges = std::vector<GpaRange>;
  using Answer = std::function<absl::Status(std::span<const GpaRange>)>;
  using Inspect = std::function<void(std::span<const GpaRange>)>;

  FakeDevice() : end_([] {}) {}
  // Ends each report `delay` after it was sent.
  explicit FakeDevice(Workqueue& workqueue, Nanoseconds delay = Nanoseconds(0))
      : workqueue_(&workqueue), delay_(delay), end_([this] { End(); }) {}

  // REQUIRES: no report was sent yet. `answer` returns the result of Report
  // (OK: accepted). `inspect` is called for an accepted report when it is sent
  // and right before it ends, since the host may discard in between. Both are
  // called without a lock and may use the guest, as other threads would.
  void set_answer(Answer answer) { answer_ = std::move(answer); }
  void set_inspect(Inspect inspect) { inspect_ = std::move(inspect); }
  void set_max_report_entries(size_t entries) { max_entries_ = entries; }
  void set_max_reports(size_t reports) { max_reports_ = reports; }

  size_t max_report_entries() const override { return max_entries_; }
  size_t max_reports() const override { return max_reports_; }

  absl::Status Report(std::span<const GpaRange> ranges,
                      Client& client) override {
    {
      LockHolder hold(mutex_);
      GUESTMM_CHECK(outstanding_.size() < max_reports_)
          << "a report came before the last one ended";
    }
    GUESTMM_CHECK(!ranges.empty() && ranges.size() <= max_entries_);
    if (answer_) {
      if (absl::Status status = answer_(ranges); !status.ok()) return status;
    }
    if (inspect_) inspect_(ranges);
    {
      LockHolder hold(mutex_);
      reports_.emplace_back(ranges.begin(), ranges.end());
      outstanding_.emplace_back(&client, reports_.back());
    }
    if (workqueue_ != nullptr) workqueue_->Queue(end_, delay_);
    return absl::OkStatus();
  }

  // Ends an outstanding report, of several the one that was sent before `which`
  // others, before it ends by itself. REQUIRES: there is one.
  void End(absl::Status status = absl::OkStatus(), size_t which = 0) {
    Outstanding ended;
    {
      LockHolder hold(mutex_);
      GUESTMM_CHECK(which < outstanding_.size()) << "there is no report to end";
      ended = outstanding_[which];
    }
    if (workqueue_ != nullptr) workqueue_->CancelSync(end_);
    if (inspect_) inspect_(ended.second);
    bool more = false;
    {
      LockHolder hold(mutex_);
      outstanding_.erase(outstanding_.begin() + static_cast<ptrdiff_t>(which));
      more = !outstanding_.empty();
    }
    if (workqueue_ != nullptr && more) workqueue_->Queue(end_, delay_);
    ended.first->ReportDone(std::move(status));
  }

  bool outstanding() const { return outstanding_reports() > 0; }
  size_t outstanding_reports() const {
    LockHolder hold(mutex_);
    return outstanding_.size();
  }
  // The ranges of the outstanding reports.
  Ranges in_flight() const {
    LockHolder hold(mutex_);
    Ranges all;
    for (const auto& [client, ranges] : outstanding_) {
      all.insert(all.end(), ranges.begin(), ranges.end());
    }
    return all;
  }
  // The latest accepted report, outstanding or not.
  Ranges last_report() const {
    LockHolder hold(mutex_);
    return reports_.empty() ? Ranges() : reports_.back();
  }
  // All accepted reports, in order; and all their ranges.
  std::vector<Ranges> reports() const {
    LockHolder hold(mutex_);
    return reports_;
  }
  Ranges reported() const {
    Ranges all;
    for (const Ranges& report : reports()) {
      all.insert(all.end(), report.begin(), report.end());
    }
    return all;
  }

 private:
  using Outstanding = std::pair<Client*, Ranges>;

  Workqueue* const workqueue_ = nullptr;
  const Nanoseconds delay_{0};
  Work end_;
  Answer answer_;
  Inspect inspect_;
  size_t max_entries_ = 32;
  size_t max_reports_ = 1;
  mutable Mutex mutex_;
  std::vector<Outstanding> outstanding_ ABSL_GUARDED_BY(mutex_);
  std::vector<Ranges> reports_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_FAKE_DEVICE_H_
