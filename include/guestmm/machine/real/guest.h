#ifndef GUESTMM_MACHINE_REAL_GUEST_H_
#define GUESTMM_MACHINE_REAL_GUEST_H_

// A guest and its host side: RAM, allocator, reporting, balloon and hypervisor.
//
//   auto guest = Guest::Create({
//       .memory = MemoryMap::Pc(kGiB),
//       .make_policy = [] {
//         return std::make_unique<V12Policy>(V12Options{});
//       }});
//   Vcpu& vcpu = (*guest)->vcpu(0);
//   std::optional<Pfn> block = vcpu.Allocate(kPageblockOrder);
//   vcpu.Touch(*block, kPageblockOrder, /*stamp=*/1);
//   vcpu.Free(*block, kPageblockOrder);
//   (*guest)->WaitUntilAtRest(std::chrono::seconds(1));
//   std::cout << FormatBytes(*(*guest)->ram().ResidentBytes()) << "\n";

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/memory_map.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_poison.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/machine/backing.h"
#include "guestmm/machine/machine.h"
#include "guestmm/machine/vcpu.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/front_end/device.h"

namespace GUESTMM_EXPORT guestmm {

// Incomplete types: the caller that uses one includes its header.
class BalloonDevice;
class BalloonDriver;
class HoldTimer;
class Hypervisor;
class LedgerBacking;
class LedgerHypervisor;
class LockHoldObserver;
class MemoryHotplug;
class PerCpuRefresh;
class Reporter;
class ReportingPolicy;
class VirtualTime;
class Workqueue;

struct GuestOptions {
  // The page frames that are RAM, e.g. MemoryMap::Pc(kGiB).
  MemoryMap memory = {};
  HugePages huge_pages = HugePages::kHostDefault;
  // The kind of memory behind RAM; see GuestRamOptions. With a private file,
  // free memory initially has the file's contents.
  MemorySource memory_source = MemorySource::kAnonymous;
  // Set if and only if memory_source is kPrivateFile.
  std::string memory_file = {};
  int vcpus = 1;
  // The kernel whose per-CPU lists and free-list order are modelled.
  KernelVersion kernel = KernelVersion::kV5_3;
  // One past the highest address at which memory may be hot-added. Unset: the
  // end of `memory`.
  std::optional<Gpa> hotplug_end = {};
  // Unset: the kernel's formula.
  std::optional<uint64_t> min_free_kbytes = {};
  // True if an allocation that would fail waits for blocks that are isolated
  // for a report.
  bool wait_for_isolated = false;
  // The poisoning or clearing of free memory by the guest.
  PagePoisonOptions page_poison = {};
  // The features that the balloon device offers, out of kBalloonFeatures.
  // Unset: PAGE_REPORTING and PAGE_POISON with a policy or a mechanism that
  // reports; otherwise there is no balloon. Without PAGE_POISON a guest that
  // poisons or clears free memory reports nothing, as in Linux.
  std::optional<uint64_t> balloon_features = {};
  // Makes the policy by which the guest reports. Unset: no reporting.
  std::function<std::unique_ptr<ReportingPolicy>()> make_policy = {};
  // Notified of the reporter's holds of zone locks; must outlive the guest.
  // Null: nothing is.
  LockHoldObserver* holds = nullptr;
  // The way in which RAM is discarded. The default fits memory_source.
  DiscardOptions discard = {};
  // Unset: DiscardingHypervisor with `discard`.
  std::function<std::unique_ptr<Hypervisor>(const GuestRam&)> make_hypervisor =
      {};
  // The socket of a VMM (`guestmm vmm`) that runs the balloon device and the
  // hypervisor in a process of its own. Requires a memory_source that it can
  // map, kSharedMemfd or kHugetlb, and make_hypervisor and virtual_time to be
  // unset. Empty: both run in this process.
  std::string vmm_socket = {};
  VhostUserDeviceOptions vmm = {};
  // Makes the memory that vCPUs use. Unset: RamBacking.
  std::function<std::unique_ptr<Backing>(const GuestRam&)> make_backing = {};
  // Keeps a HostLedger of the guest in granules of this order (Order(0) or
  // kPageblockOrder, as the host maps RAM), clears what vCPUs touch as the
  // guest's kernel does, and measures the reporter's holds of zone locks unless
  // `holds` is set. Unset: Machine::ledger() is null. Requires make_backing and
  // vmm_socket to be unset.
  std::optional<Order> ledger_granule = {};
  // The time that the ledger and discards() enter, read at each touch; must
  // outlive the guest. Null: the machine's clock.
  const Clock* ledger_clock = nullptr;
  // Started by Create. Unset: none; Machine::StartMechanism may start one
  // later, but then neither hotplug nor wait_for_isolated waits for the memory
  // that it has isolated. Requires make_policy to be unset.
  std::function<std::unique_ptr<Mechanism>()> make_mechanism = {};
  // Runs the guest's and the device's work, in simulated time, on the thread
  // that drives it; must outlive the guest. Null: each has a thread.
  VirtualTime* virtual_time = nullptr;
};

class Guest final : public Machine {
 public:
  // The error of the part that could not be set up. InvalidArgument for a
  // policy with a balloon that does not offer PAGE_REPORTING; for kInitOnFree
  // with kPrivateFile, whose free memory is not zero; and for options that
  // exclude each other (see above).
  static absl::StatusOr<std::unique_ptr<Guest>> Create(
      const GuestOptions& options);

  // Removes the balloon and ends reporting first. A VMM that does not answer
  // keeps the memory it has mapped. REQUIRES: no vCPU is in use.
  ~Guest() override;

  const GuestRam& ram() const { return *ram_; }
  // Null unless options.page_poison is set.
  const PagePoison* page_poison() const { return page_poison_.get(); }
  // Adds and removes memory, guest RAM included.
  MemoryHotplug& hotplug() { return *hotplug_; }
  // REQUIRES: no vmm_socket; the VMM has the hypervisor then.
  const Hypervisor& hypervisor() const { return *hypervisor_; }
  // The guest's side of the balloon. Null without a balloon.
  const BalloonDriver* driver() const { return driver_.get(); }
  // The host's side of the balloon. Null without one, and with a vmm_socket.
  BalloonDevice* device() { return device_.get(); }
  // Null without a vmm_socket.
  VhostUserDevice* vmm() { return vmm_.get(); }

  // Suspends the guest: resets the balloon and ends reporting.
  // FailedPrecondition if there is no balloon.
  absl::Status Suspend();
  // Resumes it: sets the balloon up again and reports. The error of the driver
  // or the reporter; FailedPrecondition if the guest is not suspended.
  absl::Status Resume();

  // Connects to the VMM that listens at vmm_socket now, and sets its device up
  // again. FailedPrecondition unless the driver is down; else the error of
  // VhostUserDevice::Reconnect or BalloonDriver::Restore.
  // REQUIRES: vmm() is not null.
  absl::Status ReconnectVmm();

  // Machine:
  PageAllocator& allocator() override { return *allocator_; }
  std::span<const std::unique_ptr<Vcpu>> all_vcpus() const override {
    return vcpus_;
  }
  const HostLedger* ledger() const override { return ledger_.get(); }
  std::vector<DiscardedUntil> discards() const override;
  // discard_calls is 0 with a vmm_socket.
  MachineCounters counters() const override;
  absl::Status status() const override;
  Nanoseconds Now() const override { return clock_->Now(); }
  void RunUntil(Nanoseconds time) override;
  // Also for reporting that make_policy started.
  bool WaitUntilAtRest(Nanoseconds timeout) override;
  absl::Status StartReporting(std::unique_ptr<ReportingPolicy> policy) override;
  void StopReporting() override;
  Reporter* reporter() override { return reporter_.get(); }
  const Reporter* reporter() const override { return reporter_.get(); }
  absl::Status CheckInvariants() const override;

 private:
  explicit Guest(const GuestOptions& options);

  uint64_t balloon_features() const;
  const Clock& ledger_clock() const {
    return options_.ledger_clock != nullptr ? *options_.ledger_clock : *clock_;
  }
  // The steps of Create.
  void StartQueues();
  absl::Status SetUpAllocator();
  void StartRefresh();
  void SetUpBacking();
  absl::Status SetUpHypervisor();
  // A balloon that takes as many as `reports` reports at a time, each of as
  // many as `capacity` ranges.
  absl::Status SetUpBalloon(size_t capacity, size_t reports);

  const GuestOptions options_;
  const MonotonicClock monotonic_;
  // virtual_time, or monotonic_.
  const Clock* const clock_;
  std::unique_ptr<HostLedger> ledger_;
  // Null without a ledger.
  std::unique_ptr<HoldTimer> hold_timer_;
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<PagePoison> page_poison_;
  std::unique_ptr<PageAllocator> allocator_;
  std::unique_ptr<MemoryHotplug> hotplug_;
  std::unique_ptr<Hypervisor> hypervisor_;
  // hypervisor_ and backing_, with a ledger; else null.
  LedgerHypervisor* ledger_hypervisor_ = nullptr;
  LedgerBacking* ledger_backing_ = nullptr;
  // RunUntil's.
  std::unique_ptr<Workqueue> timer_;
  // Null in virtual time.
  std::unique_ptr<Workqueue> guest_thread_;
  std::unique_ptr<Workqueue> device_thread_;
  // Runs the guest's work: virtual_time or guest_thread_; null until needed.
  Workqueue* guest_workqueue_ = nullptr;
  // Null if the kernel's lists need none.
  std::unique_ptr<PerCpuRefresh> refresh_;
  // At most one of the two is set.
  std::unique_ptr<BalloonDevice> device_;
  std::unique_ptr<VhostUserDevice> vmm_;
  std::unique_ptr<BalloonDriver> driver_;
  std::unique_ptr<Reporter> reporter_;
  std::unique_ptr<Backing> backing_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_REAL_GUEST_H_
