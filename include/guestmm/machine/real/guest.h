#ifndef GUESTMM_MACHINE_REAL_GUEST_H_
#define GUESTMM_MACHINE_REAL_GUEST_H_

// A whole guest with its host side: RAM, allocator, reporting, balloon and
// hypervisor, put together.
//
//   auto guest = Guest::Create({
//       .memory = Guest::MemoryMap(kGiB),
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
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_poison.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/machine/backing.h"
#include "guestmm/machine/machine.h"
#include "guestmm/machine/vcpu.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/front_end/vhost_user_device.h"

namespace guestmm {

// Included by those who use them.
class BalloonDevice;
class BalloonDriver;
class HoldTimer;
class Hypervisor;
class LedgerBacking;
class LedgerHypervisor;
class LockHoldObserver;
class MemoryHotplug;
class Reporter;
class ReportingPolicy;
class VirtualTime;
class Workqueue;

struct GuestOptions {
  // Where RAM is, as GuestRamOptions wants it; see Guest::MemoryMap.
  std::vector<GpaRange> memory = {};
  HugePages huge_pages = HugePages::kHostDefault;
  // What RAM is made of; see GuestRamOptions. With a private file the guest
  // finds in its free memory what the file has there.
  MemorySource memory_source = MemorySource::kAnonymous;
  // With kPrivateFile, and only then.
  std::string memory_file = {};
  int vcpus = 1;
  // One past the highest address that memory may be hot-added at; absent: no
  // more than there is at boot.
  std::optional<Gpa> hotplug_end = {};
  // Absent: the kernel's formula.
  std::optional<uint64_t> min_free_kbytes = {};
  // Whether an allocation that would fail waits for what is with the host.
  bool wait_for_isolated = false;
  // What the guest does to the contents of free memory.
  PagePoisonOptions page_poison = {};
  // What its balloon offers, of kBalloonFeatures. Absent: with a policy
  // PAGE_REPORTING and PAGE_POISON; without one there is no balloon. Offered no
  // PAGE_POISON, a guest that poisons or clears what it frees reports nothing,
  // as Linux's does.
  std::optional<uint64_t> balloon_features = {};
  // Absent: no reporting.
  std::function<std::unique_ptr<ReportingPolicy>()> make_policy = {};
  // Told of the reporter's holds of zones' locks; null for no one. It must
  // outlive the guest.
  LockHoldObserver* holds = nullptr;
  // How RAM goes back to the host; what fits memory_source by default.
  DiscardOptions discard = {};
  // Absent: DiscardingHypervisor with `discard`.
  std::function<std::unique_ptr<Hypervisor>(const GuestRam&)> make_hypervisor =
      {};
  // Where a VMM listens (`guestmm vmm`): the balloon's device and hypervisor
  // are there, in another process, and none here. Then memory_source must be
  // one that it can map, kSharedMemfd or kHugetlb, make_hypervisor absent, and
  // time real. Empty: all in this process.
  std::string vmm_socket = {};
  VhostUserDeviceOptions vmm = {};
  // What its vCPUs work on. Absent: RamBacking.
  std::function<std::unique_ptr<Backing>(const GuestRam&)> make_backing = {};
  // Keeps a HostLedger of the guest in granules of this order (Order(0) or
  // kPageblockOrder, as the host maps RAM), clears what vCPUs touch as the
  // guest's kernel does, and measures the reporter's holds of zone locks unless
  // `holds` is set. Unset: Machine::ledger() is null. Requires make_backing and
  // vmm_socket to be unset.
  std::optional<Order> ledger_granule = {};
  // Started by Create. Unset: none; Machine::StartMechanism may start one
  // later, but then neither hotplug nor wait_for_isolated waits for the memory
  // that it has isolated. Requires make_policy to be unset.
  std::function<std::unique_ptr<Mechanism>()> make_mechanism = {};
  // Given: the guest's and the device's work run there, in simulated time, on
  // the thread that drives it. It must outlive the guest. Else each has a
  // thread.
  VirtualTime* virtual_time = nullptr;
};

class Guest final : public Machine {
 public:
  // Where a PC with `bytes` of RAM has it: up to 3 GiB below 4 GiB, the rest
  // from 4 GiB upwards.
  static std::vector<GpaRange> MemoryMap(uint64_t bytes);

  // The error of the room that could not be set up. InvalidArgument for a
  // policy with a balloon that does not offer PAGE_REPORTING, for kInitOnFree
  // with kPrivateFile, since free memory is not zero there, and for what does
  // not go with vmm_socket.
  static absl::StatusOr<std::unique_ptr<Guest>> Create(
      const GuestOptions& options);

  // Ends reporting and removes the balloon first; a VMM that does not answer is
  // left alone with what memory it has. REQUIRES: no vCPU is in use.
  ~Guest() override;

  const GuestRam& ram() const { return *ram_; }
  // Null if free memory is left alone, and what is allocated too.
  const PagePoison* page_poison() const { return page_poison_.get(); }
  // Adds and removes memory, guest RAM included.
  MemoryHotplug& hotplug() { return *hotplug_; }
  // REQUIRES: no vmm_socket, whose VMM has it.
  const Hypervisor& hypervisor() const { return *hypervisor_; }
  // Null without a balloon; the device is the host's side of it.
  const BalloonDriver* driver() const { return driver_.get(); }
  // Null without one, and with a vmm_socket.
  BalloonDevice* device() { return device_.get(); }
  // Null without a vmm_socket.
  VhostUserDevice* vmm() { return vmm_.get(); }

  // Ends reporting and resets the balloon, as a guest does that is suspended.
  // FailedPrecondition if there is no balloon.
  absl::Status Suspend();
  // Sets the balloon up again, and reports. The error of the driver or the
  // reporter; FailedPrecondition without Suspend.
  absl::Status Resume();

  // Has the driver set the VMM's device up again, once it is down: by whoever
  // listens at vmm_socket now. FailedPrecondition if it is not down, else the
  // error of VhostUserDevice::Reconnect or BalloonDriver::Restore.
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
  // The steps of Create.
  void StartQueues();
  absl::Status SetUpAllocator();
  void SetUpBacking();
  absl::Status SetUpHypervisor();
  // A balloon whose reports have as many as `capacity` ranges.
  absl::Status SetUpBalloon(size_t capacity);

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
  // Owned unless in virtual time.
  std::unique_ptr<Workqueue> guest_thread_;
  std::unique_ptr<Workqueue> device_thread_;
  // Whichever the guest's work runs on.
  Workqueue* guest_workqueue_ = nullptr;
  // One of them, or none.
  std::unique_ptr<BalloonDevice> device_;
  std::unique_ptr<VhostUserDevice> vmm_;
  std::unique_ptr<BalloonDriver> driver_;
  std::unique_ptr<Reporter> reporter_;
  std::unique_ptr<Backing> backing_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_REAL_GUEST_H_
