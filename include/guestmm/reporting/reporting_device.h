#ifndef GUESTMM_REPORTING_REPORTING_DEVICE_H_
#define GUESTMM_REPORTING_REPORTING_DEVICE_H_

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// Carries reports to the host: page_reporting_config of v12,
// page_reporting_dev_info of Linux 5.7. Implemented by BalloonDriver.
class ReportingDevice {
 public:
  // Notified when a report ends: one client for each report at a time.
  class Client {
   public:
    virtual ~Client() = default;

    // The host can no longer discard the ranges of the client's report: it
    // acknowledged the report (OK), or was reset before (Unavailable). Called
    // once for each accepted report, from any thread, but never from inside
    // Report. Must not block.
    virtual void ReportDone(absl::Status status) = 0;
  };

  virtual ~ReportingDevice() = default;

  // The maximum number of ranges in one report.
  virtual size_t max_report_entries() const = 0;
  // The number of such reports that can be outstanding at a time, 1 or more.
  virtual size_t max_reports() const { return 1; }

  // Sends `ranges` to the host and returns at once. OK: accepted, and
  // client.ReportDone() follows. Otherwise nothing was sent and nothing
  // follows: ResourceExhausted if the queue is full, FailedPrecondition if the
  // device is broken or not set up. REQUIRES: fewer than max_reports() reports
  // are outstanding, none of them with `client`; 0 < ranges.size() <=
  // max_report_entries(); the pages stay out of use until ReportDone.
  virtual absl::Status Report(std::span<const GpaRange> ranges,
                              Client& client) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_REPORTING_DEVICE_H_
