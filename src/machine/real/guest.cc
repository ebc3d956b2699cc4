#include "guestmm/machine/real/guest.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/reporting_policy.h"
#include "guestmm/reporting/zone_lock_guard.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "guestmm/virtio/wire/balloon.h"
#include "src/host/accounting/ledger_hypervisor.h"
#include "src/machine/ledger_backing.h"
#include "src/machine/per_cpu_refresh.h"
#include "src/machine/real/hold_timer.h"

namespace guestmm {
namespace {

absl::Status CheckVmm(const GuestOptions& options) {
  if (options.vmm_socket.empty()) return absl::OkStatus();
  const auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError(
        absl::StrCat("vmm_socket is \"", options.vmm_socket, "\": ", why));
  };
  if (options.memory_source != MemorySource::kSharedMemfd &&
      options.memory_source != MemorySource::kHugetlb) {
    return refuse(absl::StrCat("memory_source is ",
                               std::string(Name(options.memory_source)),
                               ", must be a shared memfd or a hugetlb memfd, "
                               "which another process can "
                               "map"));
  }
  if (options.virtual_time != nullptr) {
    return refuse(
        "virtual_time must be unset: another process runs in real time");
  }
  if (options.make_hypervisor) {
    return refuse("make_hypervisor must be unset: the VMM has the hypervisor");
  }
  return absl::OkStatus();
}

absl::Status CheckParts(const GuestOptions& options) {
  if (options.make_mechanism && options.make_policy) {
    return absl::InvalidArgumentError(
        "make_mechanism: must be unset with make_policy");
  }
  if (!options.ledger_granule) return absl::OkStatus();
  if (options.make_backing) {
    return absl::InvalidArgumentError(
        "ledger_granule: must be unset with make_backing");
  }
  if (!options.vmm_socket.empty()) {
    return absl::InvalidArgumentError(
        "ledger_granule: must be unset with vmm_socket, whose VMM discards");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Guest>> Guest::Create(
    const GuestOptions& options) {
  // PagePoison assumes that fresh memory is zero, as the kernel does.
  if (options.memory_source == MemorySource::kPrivateFile &&
      options.page_poison.mode == PagePoisonMode::kInitOnFree) {
    return absl::InvalidArgumentError(
        "page_poison.mode is kInitOnFree: must be another with memory_source "
        "kPrivateFile, whose free memory is not zero initially");
  }
  absl::Status status = CheckVmm(options);
  status.Update(CheckParts(options));
  if (!status.ok()) return status;
  std::unique_ptr<Guest> guest(new Guest(options));

  absl::StatusOr<std::unique_ptr<GuestRam>> ram =
      GuestRam::Create({.regions = options.memory.regions(),
                        .huge_pages = options.huge_pages,
                        .source = options.memory_source,
                        .file = options.memory_file});
  if (!ram.ok()) return ram.status();
  guest->ram_ = *std::move(ram);
  const bool has_balloon = options.make_policy || options.balloon_features ||
                           !options.vmm_socket.empty();
  if (has_balloon || options.make_mechanism) guest->StartQueues();
  status = guest->SetUpAllocator();
  if (status.ok()) guest->SetUpBacking();
  if (status.ok()) status = guest->SetUpHypervisor();
  if (status.ok() && options.make_policy) {
    std::unique_ptr<ReportingPolicy> policy = options.make_policy();
    if (policy == nullptr) {
      return absl::InvalidArgumentError("make_policy made no policy");
    }
    status = guest->StartReporting(std::move(policy));
  } else if (status.ok() && options.make_mechanism) {
    status = guest->StartMechanism(options.make_mechanism());
  }
  // Reporting sets up a balloon of its own, with the policy's capacity.
  if (status.ok() && has_balloon && guest->driver_ == nullptr) {
    status = guest->SetUpBalloon(/*capacity=*/0, /*reports=*/1);
  }
  if (!status.ok()) return status;
  return guest;
}

Guest::Guest(const GuestOptions& options)
    : options_(options),
      clock_(options.virtual_time != nullptr
                 ? static_cast<const Clock*>(options.virtual_time)
                 : &monotonic_) {}

uint64_t Guest::balloon_features() const {
  return options_.balloon_features.value_or(kBalloonFPageReporting |
                                            kBalloonFPagePoison);
}

void Guest::StartQueues() {
  if (options_.virtual_time != nullptr) {
    guest_workqueue_ = options_.virtual_time;
  } else {
    guest_thread_ = std::make_unique<ThreadWorkqueue>();
    guest_workqueue_ = guest_thread_.get();
  }
}

absl::Status Guest::SetUpAllocator() {
  if (options_.page_poison != PagePoisonOptions{}) {
    page_poison_ = std::make_unique<PagePoison>(*ram_, options_.page_poison);
  }
  PageAllocatorOptions allocator_options = {
      .memory = options_.memory,
      .cpus = options_.vcpus,
      .min_free_kbytes = options_.min_free_kbytes,
      .per_cpu_lists = options_.kernel,
      .placement = {.rules = options_.kernel},
      .wait_for_isolated =
          options_.wait_for_isolated ? guest_workqueue_ : nullptr,
      .poison = page_poison_.get()};
  if (options_.hotplug_end) {
    allocator_options.hotplug_end = ToPfn(*options_.hotplug_end);
  }
  absl::StatusOr<std::unique_ptr<PageAllocator>> allocator =
      PageAllocator::Create(allocator_options);
  if (!allocator.ok()) return allocator.status();
  allocator_ = *std::move(allocator);
  StartRefresh();
  hotplug_ = std::make_unique<MemoryHotplug>(*allocator_, ram_.get(),
                                             guest_workqueue_);
  return absl::OkStatus();
}

void Guest::StartRefresh() {
  if (options_.kernel != KernelVersion::kV6_12) return;
  if (guest_workqueue_ == nullptr) StartQueues();
  refresh_ = std::make_unique<PerCpuRefresh>(*allocator_, *guest_workqueue_);
}

void Guest::SetUpBacking() {
  if (options_.ledger_granule) {
    ledger_ = std::make_unique<HostLedger>(
        allocator_->hotplug_end(), *options_.ledger_granule, Writers::kMany);
    hold_timer_ = std::make_unique<HoldTimer>(*clock_);
    auto backing =
        std::make_unique<LedgerBacking>(*ram_, *ledger_, ledger_clock());
    ledger_backing_ = backing.get();
    backing_ = std::move(backing);
  } else if (options_.make_backing) {
    backing_ = options_.make_backing(*ram_);
  } else {
    backing_ = std::make_unique<RamBacking>(*ram_);
  }
  for (int id = 0; id < options_.vcpus; ++id) {
    vcpus_.push_back(std::make_unique<Vcpu>(id, *allocator_, *backing_));
  }
}

absl::Status Guest::SetUpHypervisor() {
  if (!options_.vmm_socket.empty()) return absl::OkStatus();
  if (options_.make_hypervisor) {
    hypervisor_ = options_.make_hypervisor(*ram_);
  } else {
    absl::StatusOr<std::unique_ptr<DiscardingHypervisor>> hypervisor =
        DiscardingHypervisor::Create(*ram_, options_.discard);
    if (!hypervisor.ok()) return hypervisor.status();
    hypervisor_ = *std::move(hypervisor);
  }
  if (ledger_ != nullptr) {
    auto hypervisor = std::make_unique<LedgerHypervisor>(
        std::move(hypervisor_), *ledger_, ledger_clock());
    ledger_hypervisor_ = hypervisor.get();
    hypervisor_ = std::move(hypervisor);
  }
  return absl::OkStatus();
}

absl::Status Guest::SetUpBalloon(size_t capacity, size_t reports) {
  if (guest_workqueue_ == nullptr) StartQueues();
  // As many descriptors as the largest report has, and at least Linux's 32.
  const auto queue_size =
      static_cast<uint16_t>(std::max<size_t>(32, std::bit_ceil(capacity)));
  VirtioDevice* device = nullptr;
  if (options_.vmm_socket.empty()) {
    Workqueue* device_workqueue = options_.virtual_time;
    Nanoseconds max_poll{0};
    if (device_workqueue == nullptr) {
      max_poll = kBalloonMaxPoll;
      device_thread_ = std::make_unique<ThreadWorkqueue>();
      device_workqueue = device_thread_.get();
    }
    device_ = std::make_unique<BalloonDevice>(
        *ram_, *hypervisor_, *device_workqueue,
        BalloonDeviceOptions{.features = balloon_features(),
                             .reporting_queue_size = queue_size,
                             .max_poll = max_poll});
    device = device_.get();
  } else {
    absl::StatusOr<std::unique_ptr<VhostUserDevice>> vmm =
        VhostUserDevice::Connect(options_.vmm_socket, *ram_, kBalloonKind,
                                 options_.vmm);
    if (!vmm.ok()) return vmm.status();
    vmm_ = *std::move(vmm);
    device = vmm_.get();
  }
  absl::StatusOr<std::unique_ptr<BalloonDriver>> driver = BalloonDriver::Create(
      *device, *ram_, *allocator_, *guest_workqueue_,
      BalloonDriverOptions{
          .features = options_.balloon_features.value_or(kBalloonFeatures),
          .reporting_queue_size = queue_size,
          .max_reports = static_cast<uint16_t>(reports),
          .page_poison = options_.page_poison.mode});
  if (!driver.ok()) return driver.status();
  driver_ = *std::move(driver);
  return absl::OkStatus();
}

absl::Status Guest::StartReporting(std::unique_ptr<ReportingPolicy> policy) {
  GUESTMM_CHECK(policy != nullptr);
  if (reporter_ != nullptr) {
    return absl::FailedPreconditionError("the guest is already reporting");
  }
  if ((balloon_features() & kBalloonFPageReporting) == 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "balloon_features is 0x%x: must have PAGE_REPORTING, since the guest "
        "is to report",
        balloon_features()));
  }
  if (driver_ == nullptr) {
    if (absl::Status status =
            SetUpBalloon(policy->capacity(), policy->reports());
        !status.ok()) {
      return status;
    }
  }
  if (driver_->max_report_entries() == 0) return absl::OkStatus();
  LockHoldObserver* const holds =
      options_.holds != nullptr ? options_.holds : hold_timer_.get();
  reporter_ = std::make_unique<Reporter>(*allocator_, *guest_workqueue_,
                                         std::move(policy), holds);
  absl::Status status = reporter_->Enable(*driver_);
  if (!status.ok()) reporter_.reset();
  return status;
}

void Guest::StopReporting() {
  // A refresh under way may call the reporter.
  refresh_.reset();
  reporter_.reset();
  StartRefresh();
}

absl::Status Guest::Suspend() {
  if (driver_ == nullptr) {
    return absl::FailedPreconditionError("the guest has no balloon");
  }
  // The reset comes first: it ends a report that the device would never end.
  driver_->Freeze();
  return reporter_ == nullptr ? absl::OkStatus() : reporter_->Disable(*driver_);
}

absl::Status Guest::Resume() {
  if (driver_ == nullptr) {
    return absl::FailedPreconditionError("the guest has no balloon");
  }
  guest_workqueue_->WaitUntil([this] { return driver_->is_down(); });
  if (absl::Status status = driver_->Restore(); !status.ok()) return status;
  return reporter_ == nullptr ? absl::OkStatus() : reporter_->Enable(*driver_);
}

Guest::~Guest() {
  refresh_.reset();
  // The reset ends a report that a broken device would never end. A VMM that
  // does not answer may still write to the guest's memory, which is about to
  // go.
  if (driver_ != nullptr && !driver_->Remove() && vmm_ != nullptr) {
    vmm_->Abandon();
  }
  StopMechanism();
}

absl::Status Guest::ReconnectVmm() {
  if (!driver_->is_down()) {
    return absl::FailedPreconditionError(
        "the balloon driver is not down: the VMM was not reset");
  }
  if (absl::Status status = vmm_->Reconnect(); !status.ok()) return status;
  return driver_->Restore();
}

std::vector<DiscardedUntil> Guest::discards() const {
  if (ledger_hypervisor_ == nullptr) return {};
  return ledger_hypervisor_->discards();
}

MachineCounters Guest::counters() const {
  MachineCounters counters;
  if (driver_ != nullptr) counters.kicks = driver_->kicks();
  if (hypervisor_ != nullptr) {
    counters.discard_calls = hypervisor_->counters().calls;
  }
  if (hold_timer_ != nullptr) counters.holds = hold_timer_->times();
  return counters;
}

absl::Status Guest::status() const {
  if (ledger_backing_ == nullptr || !ledger_backing_->lost_any()) {
    return absl::OkStatus();
  }
  return absl::DataLossError("a page in use lost its contents");
}

void Guest::RunUntil(Nanoseconds time) {
  const Nanoseconds left = time - Now();
  if (left <= Nanoseconds(0)) return;
  if (options_.virtual_time != nullptr) {
    options_.virtual_time->RunFor(left);
    return;
  }
  if (timer_ == nullptr) timer_ = std::make_unique<ThreadWorkqueue>();
  timer_->WaitUntil([] { return false; }, left);
}

bool Guest::WaitUntilAtRest(Nanoseconds timeout) {
  return guest_workqueue_ == nullptr ||
         guest_workqueue_->WaitUntil(
             [this] {
               return (reporter_ == nullptr || reporter_->AtRest()) &&
                      (mechanism() == nullptr || mechanism()->AtRest());
             },
             timeout);
}

absl::Status Guest::CheckInvariants() const {
  absl::Status status = CheckGuest(
      *allocator_,
      reporter_ == nullptr ? PageCount(0) : reporter_->in_flight_pages());
  if (driver_ != nullptr) {
    status.Update(driver_->CheckInvariants());
    if (device_ != nullptr) status.Update(device_->CheckInvariants());
  }
  if (reporter_ != nullptr) {
    status.Update(reporter_->policy().CheckInvariants());
  }
  return status;
}

}  // namespace guestmm
