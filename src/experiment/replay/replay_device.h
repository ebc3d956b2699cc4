#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_DEVICE_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/reporting/reporting_device.h"
#include "src/experiment/replay/replay_host.h"

namespace guestmm {

// The balloon and the host behind it in a replay: a report takes as long as the
// cost model says, and discards are logged with their times.
class ReplayDevice final : public ReportingDevice {
 public:
  struct Log {
    Nanoseconds time{0};  // in virtual time
    GpaRange range;
  };

  // All must outlive this.
  ReplayDevice(const CostModel& costs, Workqueue& workqueue, ReplayHost& host)
      : workqueue_(workqueue),
        host_(host),
        costs_(costs),
        end_([this] { End(); }) {}
  ~ReplayDevice() override { workqueue_.CancelSync(end_); }

  size_t max_report_entries() const override { return 1 << 16; }
  absl::Status Report(std::span<const GpaRange> ranges,
                      Client& client) override {
    ranges_.assign(ranges.begin(), ranges.end());
    client_ = &client;
    uint64_t nanoseconds = costs_.kick + costs_.interrupt;
    for (const GpaRange& range : ranges_) {
      nanoseconds += costs_.discard_call +
                     range.bytes / kPageblockOrder.bytes() * costs_.discard_2m;
    }
    workqueue_.Queue(end_, Nanoseconds(nanoseconds));
    return absl::OkStatus();
  }

  const std::vector<Log>& log() const { return log_; }
  // Scatterlists discarded.
  uint64_t scatterlists() const { return scatterlists_; }
  // madvise calls: one per run of adjacent ranges in a scatterlist.
  uint64_t discard_calls() const { return discard_calls_; }

 private:
  void End() {
    ++scatterlists_;
    discard_calls_ += JoinRanges(ranges_).size();
    host_.OnReported(ranges_, workqueue_.Now());
    for (const GpaRange& range : ranges_) {
      log_.push_back({.time = workqueue_.Now(), .range = range});
    }
    client_->ReportDone(absl::OkStatus());
  }

  Workqueue& workqueue_;
  ReplayHost& host_;
  const CostModel& costs_;
  // Of the report in flight.
  std::vector<GpaRange> ranges_;
  Client* client_ = nullptr;
  std::vector<Log> log_;
  uint64_t scatterlists_ = 0;
  uint64_t discard_calls_ = 0;
  Work end_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_DEVICE_H_
