#ifndef GUESTMM_SRC_MACHINE_MODEL_MODEL_DEVICE_H_
#define GUESTMM_SRC_MACHINE_MODEL_MODEL_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/reporting/reporting_device.h"
#include "src/machine/model/vcpu_times.h"
#include "src/machine/model/zone_lock_model.h"

namespace guestmm {

// The balloon and the host behind it, in virtual time: a report takes as long
// as it would, the host discards in its ledger, and vCPUs that run are
// interrupted for it.
class ModelDevice final : public ReportingDevice {
 public:
  // All must outlive this.
  ModelDevice(const CostModel& costs, Workqueue& workqueue, HostLedger& ledger,
              VcpuTimes& times, ZoneLockModel& locks)
      : costs_(costs),
        workqueue_(workqueue),
        ledger_(ledger),
        times_(times),
        locks_(locks),
        end_([this] { End(); }) {}

  // As many as any policy sends.
  size_t max_report_entries() const override;
  absl::Status Report(std::span<const GpaRange> ranges,
                      Client& client) override;

  // Called after each discard.
  void set_on_discard(std::function<void()> on_discard) {
    on_discard_ = std::move(on_discard);
  }

  uint64_t kicks() const { return kicks_; }
  uint64_t discard_calls() const { return discard_calls_; }
  // DataLoss, if a page that a vCPU had in use was ever discarded.
  const absl::Status& status() const { return status_; }

 private:
  void End();
  uint64_t DiscardTime(PfnRange run) const;

  const CostModel& costs_;
  Workqueue& workqueue_;
  HostLedger& ledger_;
  VcpuTimes& times_;
  ZoneLockModel& locks_;
  std::function<void()> on_discard_ = [] {};
  // Of the report that is out.
  std::vector<GpaRange> ranges_;
  Client* client_ = nullptr;
  uint64_t calls_ = 0;

  uint64_t kicks_ = 0;
  uint64_t discard_calls_ = 0;
  absl::Status status_;
  Work end_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_MODEL_DEVICE_H_
