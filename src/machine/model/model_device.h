#ifndef GUESTMM_SRC_MACHINE_MODEL_MODEL_DEVICE_H_
#define GUESTMM_SRC_MACHINE_MODEL_MODEL_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/reporting/reporting_device.h"
#include "src/machine/model/vcpu_times.h"
#include "src/machine/model/zone_lock_model.h"

namespace guestmm {

struct ModelDeviceOptions {
  CostModel costs = {};
  // Charged for kicks, interrupts and discards. Null: no vCPU is, as in a
  // replay, which has none.
  VcpuTimes* times = nullptr;
  // A report begins only after the reporter's holds of zone locks would have
  // ended. Null: it begins at once.
  const ZoneLockModel* locks = nullptr;
};

// A balloon device and the host behind it, in virtual time. A report takes as
// long as the cost model says, and then the host discards it in its ledger:
//
//   locks' lag + report + kick
//     + for each run of adjacent ranges: discard_call
//     + for each huge page of 2 MiB in it: discard_2m
//     + for each other resident page of it: discard_4k
//     + for each huge page that it has a part of: split_2m
//
// The interrupt that follows delays vCPUs, not the report.
class ModelDevice final : public ReportingDevice {
 public:
  // A range that was discarded.
  struct Discarded {
    Nanoseconds time;  // by the workqueue's clock
    GpaRange range;
  };

  // The references and pointers must outlive this. REQUIRES: Report's client
  // takes part until its report has ended, or sends no more.
  ModelDevice(const ModelDeviceOptions& options, Workqueue& workqueue,
              HostLedger& ledger);
  ~ModelDevice() override { workqueue_.CancelSync(end_); }

  // kMaxReportCapacity, as many as any policy sends.
  size_t max_report_entries() const override;
  absl::Status Report(std::span<const GpaRange> ranges,
                      Client& client) override;

  // Called to discard a report. Unset: HostLedger::OnReported.
  void set_discard(std::function<void(std::span<const GpaRange>)> discard) {
    discard_ = std::move(discard);
  }
  // Called after each discard. Unset: nothing is.
  void set_on_discard(
      std::function<void(std::span<const GpaRange>)> on_discard) {
    on_discard_ = std::move(on_discard);
  }
  // Has log() grow from now on.
  void StartLog() { logging_ = true; }

  // Every range discarded since StartLog, in the order of the reports.
  const std::vector<Discarded>& log() const { return log_; }
  // Scatterlists accepted; each takes a kick.
  uint64_t kicks() const { return kicks_; }
  // Scatterlists discarded.
  uint64_t scatterlists() const { return scatterlists_; }
  // Calls of madvise: one for each run of adjacent ranges in a scatterlist.
  uint64_t discard_calls() const { return discard_calls_; }
  // DataLoss if a page in use was ever discarded.
  const absl::Status& status() const { return status_; }

 private:
  void End();
  uint64_t DiscardTime(PfnRange run) const;

  const CostModel costs_;
  VcpuTimes* const times_;
  const ZoneLockModel* const locks_;
  Workqueue& workqueue_;
  HostLedger& ledger_;
  std::function<void(std::span<const GpaRange>)> discard_;
  std::function<void(std::span<const GpaRange>)> on_discard_ =
      [](std::span<const GpaRange>) {};
  bool logging_ = false;
  std::vector<Discarded> log_;
  // Of the report in flight.
  std::vector<GpaRange> ranges_;
  Client* client_ = nullptr;
  uint64_t calls_ = 0;

  uint64_t kicks_ = 0;
  uint64_t scatterlists_ = 0;
  uint64_t discard_calls_ = 0;
  absl::Status status_;
  Work end_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_MODEL_DEVICE_H_
