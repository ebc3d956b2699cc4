#include "guestmm/machine/real/guest.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/thread_workqueue.h"

namespace guestmm {
namespace {

absl::Status CheckVmm(const GuestOptions& options) {
  if (options.vmm_socket.empty()) return absl::OkStatus();
  const auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError(
        absl::StrCat("vmm_socket is \"", options.vmm_socket, "\", and ", why));
  };
  if (options.memory_source != MemorySource::kSharedMemfd &&
      options.memory_source != MemorySource::kHugetlb) {
    return refuse(absl::StrCat(
        "memory_source is ", std::string(Name(options.memory_source)),
        ": another process can map only a shared memfd or a hugetlb memfd"));
  }
  if (options.virtual_time != nullptr) {
    return refuse("virtual_time is given: another process runs in real time");
  }
  if (options.make_hypervisor) {
    return refuse("make_hypervisor is given: the VMM has the hypervisor");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Guest>> Guest::Create(
    const GuestOptions& options) {
  // PagePoison leaves alone what the host maps afresh, as the kernel does.
  if (options.memory_source == MemorySource::kPrivateFile &&
      options.page_poison.mode == PagePoisonMode::kInitOnFree) {
    return absl::InvalidArgumentError(
        "page_poison.mode is kInitOnFree, and memory_source is kPrivateFile: "
        "what is free at first is not zero");
  }
  if (absl::Status status = CheckVmm(options); !status.ok()) return status;
  std::unique_ptr<Guest> guest(new Guest);

  absl::StatusOr<std::unique_ptr<GuestRam>> ram =
      GuestRam::Create({.regions = options.memory.regions(),
                        .huge_pages = options.huge_pages,
                        .source = options.memory_source,
                        .file = options.memory_file});
  if (!ram.ok()) return ram.status();
  guest->ram_ = *std::move(ram);
  if (options.page_poison != PagePoisonOptions{}) {
    guest->page_poison_ =
        std::make_unique<PagePoison>(*guest->ram_, options.page_poison);
  }

  const bool has_balloon = options.make_policy || options.balloon_features ||
                           !options.vmm_socket.empty();
  if (has_balloon && options.virtual_time == nullptr) {
    guest->guest_thread_ = std::make_unique<ThreadWorkqueue>();
    if (options.vmm_socket.empty()) {
      guest->device_thread_ = std::make_unique<ThreadWorkqueue>();
    }
  }
  guest->guest_workqueue_ = options.virtual_time != nullptr
                                ? options.virtual_time
                                : guest->guest_thread_.get();

  PageAllocatorOptions allocator_options = {
      .memory = options.memory,
      .cpus = options.vcpus,
      .min_free_kbytes = options.min_free_kbytes,
      .wait_for_isolated =
          options.wait_for_isolated ? guest->guest_workqueue_ : nullptr,
      .poison = guest->page_poison_.get()};
  if (options.hotplug_end) {
    allocator_options.hotplug_end = ToPfn(*options.hotplug_end);
  }
  absl::StatusOr<std::unique_ptr<PageAllocator>> allocator =
      PageAllocator::Create(allocator_options);
  if (!allocator.ok()) return allocator.status();
  guest->allocator_ = *std::move(allocator);
  guest->hotplug_ = std::make_unique<MemoryHotplug>(
      *guest->allocator_, guest->ram_.get(), guest->guest_workqueue_);

  guest->backing_ = options.make_backing
                        ? options.make_backing(*guest->ram_)
                        : std::make_unique<RamBacking>(*guest->ram_);
  for (int id = 0; id < options.vcpus; ++id) {
    guest->vcpus_.push_back(
        std::make_unique<Vcpu>(id, *guest->allocator_, *guest->backing_));
  }

  if (!options.vmm_socket.empty()) {
    // The VMM's.
  } else if (options.make_hypervisor) {
    guest->hypervisor_ = options.make_hypervisor(*guest->ram_);
  } else {
    absl::StatusOr<std::unique_ptr<DiscardingHypervisor>> hypervisor =
        DiscardingHypervisor::Create(*guest->ram_, options.discard);
    if (!hypervisor.ok()) return hypervisor.status();
    guest->hypervisor_ = *std::move(hypervisor);
  }
  if (has_balloon) {
    if (absl::Status status = guest->SetUpBalloon(options); !status.ok()) {
      return status;
    }
  }
  return guest;
}

absl::Status Guest::SetUpBalloon(const GuestOptions& options) {
  const uint64_t features = options.balloon_features.value_or(
      kBalloonFPageReporting | kBalloonFPagePoison);
  std::unique_ptr<ReportingPolicy> policy;
  if (options.make_policy) {
    policy = options.make_policy();
    if (policy == nullptr) {
      return absl::InvalidArgumentError("make_policy made no policy");
    }
    if ((features & kBalloonFPageReporting) == 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "balloon_features is 0x%x, without PAGE_REPORTING, and make_policy "
          "asks for reporting",
          features));
    }
  }
  // As many descriptors as the policy's largest report, and Linux's 32 at
  // least.
  const auto queue_size = static_cast<uint16_t>(std::max<size_t>(
      32, std::bit_ceil(policy == nullptr ? 0 : policy->capacity())));
  VirtioDevice* device = nullptr;
  if (options.vmm_socket.empty()) {
    device_ = std::make_unique<BalloonDevice>(
        *ram_, *hypervisor_,
        options.virtual_time != nullptr ? *options.virtual_time
                                        : *device_thread_,
        BalloonDeviceOptions{.features = features,
                             .reporting_queue_size = queue_size});
    device = device_.get();
  } else {
    absl::StatusOr<std::unique_ptr<VhostUserDevice>> vmm =
        VhostUserDevice::Connect(options.vmm_socket, *ram_, options.vmm);
    if (!vmm.ok()) return vmm.status();
    vmm_ = *std::move(vmm);
    device = vmm_.get();
  }
  absl::StatusOr<std::unique_ptr<BalloonDriver>> driver = BalloonDriver::Create(
      *device, *ram_, *allocator_, *guest_workqueue_,
      BalloonDriverOptions{
          .features = options.balloon_features.value_or(kBalloonFeatures),
          .reporting_queue_size = queue_size,
          .page_poison = options.page_poison.mode});
  if (!driver.ok()) return driver.status();
  driver_ = *std::move(driver);
  if (policy == nullptr || driver_->max_report_entries() == 0) {
    return absl::OkStatus();
  }
  reporter_ = std::make_unique<Reporter>(*allocator_, *guest_workqueue_,
                                         std::move(policy), options.holds);
  return reporter_->Enable(*driver_);
}

absl::Status Guest::Suspend() {
  if (driver_ == nullptr) {
    return absl::FailedPreconditionError("the guest has no balloon");
  }
  // The reset first: it ends a report that the device would never end.
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
  if (driver_ == nullptr) return;
  // The reset ends a report that a broken device would never end. What a VMM
  // that does not answer may do to the guest's memory does not matter any more.
  if (!driver_->Remove() && vmm_ != nullptr) vmm_->Abandon();
}

absl::Status Guest::ReconnectVmm() {
  if (!driver_->is_down()) {
    return absl::FailedPreconditionError(
        "the balloon driver is not down: the VMM was not reset");
  }
  if (absl::Status status = vmm_->Reconnect(); !status.ok()) return status;
  return driver_->Restore();
}

bool Guest::WaitUntilAtRest(Nanoseconds timeout) {
  return reporter_ == nullptr ||
         guest_workqueue_->WaitUntil([this] { return reporter_->AtRest(); },
                                     timeout);
}

absl::Status Guest::CheckInvariants() const {
  absl::Status status = allocator_->CheckInvariants();
  if (driver_ != nullptr) {
    status.Update(driver_->CheckInvariants());
    if (device_ != nullptr) status.Update(device_->CheckInvariants());
  }
  PageCount in_flight;
  if (reporter_ != nullptr) {
    status.Update(reporter_->policy().CheckInvariants());
    in_flight = reporter_->in_flight_pages();
  }
  const PageCount isolated = allocator_->Counts().isolated;
  if (isolated != in_flight) {
    status.Update(absl::InternalError(
        absl::StrCat("S2: ", isolated.value(), " pages are isolated, ",
                     in_flight.value(), " in flight")));
  }
  return status;
}

}  // namespace guestmm
