#include "guestmm/vmm/vmm.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "guestmm/ram/foreign_fault_guard.h"
#include "guestmm/virtio/device/balloon_device.h"

namespace guestmm {
namespace {

// As many guests as there may be: fewer if this process may not have the file
// descriptors for them.
size_t MaxGuests() {
  constexpr size_t kMost = 256;
  constexpr size_t kFdsPerGuest = 32;
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  return std::clamp<size_t>(limit.rlim_cur / kFdsPerGuest, 1, kMost);
}

// Of each guest. All of them are a part of the mappings that a process may
// have.
constexpr size_t kMaxRegions = 128;

constexpr uint16_t kQueueSize = 1024;

}  // namespace

std::unique_ptr<VhostUserServer> MakeVmm(
    decltype(VhostUserServerOptions::on_begin) on_begin,
    decltype(VhostUserServerOptions::on_end) on_end) {
  GuardAgainstForeignFaults();
  VhostUserServerOptions options;
  options.max_sessions = MaxGuests();
  options.max_regions = kMaxRegions;
  options.on_begin = std::move(on_begin);
  options.on_end = std::move(on_end);
  return std::make_unique<VhostUserServer>(
      [](const GuestRam& ram, Hypervisor& hypervisor, Workqueue& workqueue) {
        return std::make_unique<BalloonDevice>(
            ram, hypervisor, workqueue,
            BalloonDeviceOptions{
                .features = kBalloonFPageReporting | kBalloonFPagePoison,
                .reporting_queue_size = kQueueSize,
                .queue_size = kQueueSize});
      },
      std::move(options));
}

}  // namespace guestmm
