#ifndef GUESTMM_SRC_MACHINE_MODEL_VIRTUAL_GUEST_H_
#define GUESTMM_SRC_MACHINE_MODEL_VIRTUAL_GUEST_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/memory_layout.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/machine/vcpu.h"
#include "guestmm/machine/workload.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/reporting_policy.h"
#include "src/host/accounting/discard_log.h"
#include "src/machine/model/metered_policy.h"
#include "src/machine/model/model_backing.h"
#include "src/machine/model/model_device.h"
#include "src/machine/model/vcpu_times.h"
#include "src/machine/model/zone_lock_model.h"

namespace guestmm {

struct VirtualGuestOptions {
  MemoryMap memory;
  int vcpus = 1;
  // Of the host: Order(0) or kPageblockOrder.
  Order granule{0};
  CostModel costs;
  // Of the order in which what is due at the same instant runs.
  uint64_t seed = 1;
};

// A guest in virtual time, in which all costs are charged to the vCPUs that
// they delay. It has no RAM: only the allocator, whose pages no one writes to.
//
// A vCPU does the steps of its workload, one at an instant:
//
//   |step|..cost..|..quiet..|step|..cost..|       (busy while it costs)
class VirtualGuest {
 public:
  static absl::StatusOr<std::unique_ptr<VirtualGuest>> Create(
      const VirtualGuestOptions& options);
  ~VirtualGuest();
  VirtualGuest(const VirtualGuest&) = delete;
  VirtualGuest& operator=(const VirtualGuest&) = delete;

  PageAllocator& allocator() { return *allocator_; }
  std::span<const std::unique_ptr<Vcpu>> vcpus() const { return vcpus_; }
  Nanoseconds Now() const { return time_.Now(); }

  // Ends the boot, whose costs are forgotten: from now on `policy` works, if
  // there is one.
  absl::Status StartReporting(std::unique_ptr<ReportingPolicy> policy);
  // Has vCPU i do workloads[i] from now on; null for none. They must outlive
  // this or StopWorkloads.
  void StartWorkloads(std::span<Workload* const> workloads);
  // No vCPU does anything any more.
  void StopWorkloads();
  void RunFor(Nanoseconds duration) { time_.RunFor(duration); }

  const HostLedger& ledger() const { return ledger_; }
  const ModelDevice& device() const { return device_; }
  // Null without reporting.
  const Reporter* reporter() const { return reporter_.get(); }
  const HoldTimes& hold_times() const { return locks_.hold_times(); }
  const VcpuTimes& times() const { return times_; }
  PageCount allocated_pages() const { return backing_.allocated_pages(); }

  // Memory integrated over time since the boot, in pages times microseconds:
  // what was resident, and what vCPUs had.
  struct Footprint {
    uint64_t resident = 0;
    uint64_t allocated = 0;
  };
  Footprint footprint();

  // What the host got back, in bytes since the boot, after each discard of
  // something resident.
  std::span<const DiscardedUntil> discards() const { return discards_; }

 private:
  struct Processor;

  VirtualGuest(const VirtualGuestOptions& options,
               std::unique_ptr<PageAllocator> allocator);
  void Step(Processor& processor);
  void OnDiscard();
  // Brings footprint_ up to the present.
  void Integrate();

  const CostModel costs_;
  VirtualTime time_;
  std::unique_ptr<PageAllocator> allocator_;
  HostLedger ledger_;
  VcpuTimes times_;
  ZoneLockModel locks_;
  HookCounts hooks_;
  ModelBacking backing_;
  ModelDevice device_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::vector<std::unique_ptr<Processor>> processors_;
  std::unique_ptr<Reporter> reporter_;

  Footprint footprint_;
  uint64_t integrated_us_ = 0;
  // As they were then.
  PageCount resident_;
  PageCount allocated_;
  std::vector<DiscardedUntil> discards_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_MODEL_VIRTUAL_GUEST_H_
