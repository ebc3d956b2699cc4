#include "guestmm/vmm/vmm.h"

#include <sys/resource.h>

#include <algorithm>
#include <utility>

#include "guestmm/ram/foreign_fault_guard.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/wire/balloon.h"

namespace guestmm {
namespace {

// The largest number of guests: fewer than kMost if the hard limit of file
// descriptors does not suffice.
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

// Per guest. Together the guests then use at most half of the mappings that a
// process may have by default (vm.max_map_count).
constexpr size_t kMaxRegions = 128;

constexpr uint16_t kQueueSize = 1024;

}  // namespace

Vmm::Vmm(VmmOptions options)
    : options_(std::move(options)),
      balloons_({.features = kBalloonFPageReporting | kBalloonFPagePoison,
                 .reporting_queue_size = kQueueSize,
                 .queue_size = kQueueSize}),
      server_(balloons_.maker(), ServerOptions()) {
  GuardAgainstForeignFaults();
}

Vmm::~Vmm() = default;

VhostUserServerOptions Vmm::ServerOptions() {
  VhostUserServerOptions options;
  options.max_sessions = MaxGuests();
  options.max_regions = kMaxRegions;
  options.on_begin = [this](const VhostUserSessionInfo& info) {
    if (!options_.on_begin) return;
    options_.on_begin({.id = info.id, .pid = info.pid, .counters = {}});
  };
  options.on_end = [this](const VhostUserSessionInfo& info,
                          const absl::Status& why) {
    const VmmGuest guest = {
        .id = info.id,
        .pid = info.pid,
        .counters = {.requests = info.counters,
                     .discards = balloons_.discards(info.id)}};
    balloons_.Forget(info.id);
    if (options_.on_end) options_.on_end(guest, why);
  };
  return options;
}

absl::Status Vmm::Listen(const std::string& path) {
  return server_.Listen(path);
}

void Vmm::Stop() { server_.Stop(); }

size_t Vmm::guests() const { return server_.sessions().size(); }

VmmCounters Vmm::counters() const {
  return {.requests = server_.counters(), .discards = balloons_.discards()};
}

}  // namespace guestmm
