#ifndef GUESTMM_REPORTING_REPORTING_DEVICE_H_
#define GUESTMM_REPORTING_REPORTING_DEVICE_H_

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "guestmm/base/units.h"

namespace guestmm {

// What carries a report to the host: the page_reporting_config of v12, the
// page_reporting_dev_info of Linux 5.7. Implemented by BalloonDriver.
class ReportingDevice {
 public:
  // Told how a report ended.
  class Client {
   public:
    virtual ~Client() = default;

    // The host can no longer discard what the outstanding report named: it
    // acknowledged (OK), or was reset before it did (Unavailable). Called once
    // for each accepted report, from any thread but never from inside Report;
    // must not block.
    virtual void ReportDone(absl::Status status) = 0;
  };

  virtual ~ReportingDevice() = default;

  // The most entries that one report may have.
  virtual size_t max_report_entries() const = 0;

  // Sends `ranges` to the host and returns at once. OK: accepted, and
  // client.ReportDone() follows. Otherwise nothing was sent and nothing
  // follows: ResourceExhausted where the queue is full, FailedPrecondition
  // where the device is broken or not set up.
  // REQUIRES: no report is outstanding; 0 < ranges.size() <=
  // max_report_entries(); the pages stay out of use until ReportDone.
  virtual absl::Status Report(std::span<const GpaRange> ranges,
                              Client& client) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_REPORTING_DEVICE_H_
