#include "guestmm/vmm/vmm.h"

#include <sys/resource.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/ram/foreign_fault_guard.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/wire/virtqueue.h"
#include "src/vmm/statistics_timer.h"

namespace guestmm {
namespace {

// `most`, or fewer if the hard limit of file descriptors requires that.
size_t MaxGuests(size_t most) {
  // A session has 7 of its own, 3 for each of 5 queues, and at most 16 that
  // came with the message that it receives.
  constexpr size_t kFdsPerGuest = 40;
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  return std::clamp<size_t>(limit.rlim_cur / kFdsPerGuest, 1,
                            std::max<size_t>(most, 1));
}

// Kinds of refusals of one guest that are told.
constexpr size_t kMaxRefusals = 64;

}  // namespace

VhostUserServerOptions VmmOptions::DefaultServer() {
  VhostUserServerOptions options;
  options.max_sessions = 256;
  options.max_sessions_per_uid = 192;
  options.max_regions = 128;
  // Together with max_total_bytes 96 TiB of this process's 128 TiB of
  // addresses.
  options.guaranteed_guest_bytes = 128 * kGiB;
  options.max_total_bytes_per_uid = options.max_total_bytes / 4 * 3;
  return options;
}

// Front ends choose the queue sizes, some of them the largest there is.
Vmm::Vmm(VmmOptions options)
    : options_(std::move(options)),
      balloons_({.features = options_.offered,
                 .reporting_queue_size = kMaxVirtqueueSize,
                 .queue_size = kMaxVirtqueueSize,
                 .max_discard_rate = options_.max_discard_rate,
                 .max_poll = kBalloonMaxPoll}),
      statistics_(std::make_unique<StatisticsTimer>(
          timer_,
          [this](uint64_t guest) {
            // Fails if the driver is not there yet, or has left.
            [[maybe_unused]] const absl::Status status =
                RequestStatistics(guest);
          })),
      server_(balloons_.maker(), ServerOptions()) {
  GuardAgainstForeignFaults();
}

Vmm::~Vmm() { Stop(); }

VhostUserServerOptions Vmm::ServerOptions() {
  VhostUserServerOptions options = options_.server;
  GUESTMM_CHECK(!options.on_begin && !options.on_end && !options.on_refused &&
                !options.on_refused_connection)
      << "VmmOptions::server with callbacks";
  options.max_sessions = MaxGuests(options.max_sessions);
  options.on_begin = [this](const VhostUserSessionInfo& info) {
    if (!options_.on_begin) return;
    options_.on_begin(
        {.id = info.id, .peer = info.peer, .counters = {}, .balloon = {}});
  };
  options.on_end = [this](const VhostUserSessionInfo& info,
                          const absl::Status& why) {
    const VmmGuest guest = {
        .id = info.id,
        .peer = info.peer,
        .counters = {.requests = info.counters,
                     .discards = balloons_.discards(info.id)},
        .balloon = {}};
    Forget(info.id);
    if (options_.on_end) options_.on_end(guest, why);
  };
  options.on_refused = [this](uint64_t guest, const VhostUserRefusal& refusal) {
    if (options_.on_refused && IsNews(guest, refusal)) {
      options_.on_refused(guest, refusal);
    }
  };
  options.on_refused_connection = options_.on_refused_connection;
  return options;
}

bool Vmm::IsNews(uint64_t guest, const VhostUserRefusal& refusal) {
  LockHolder hold(mutex_);
  auto& told = refusals_[guest];
  return told.size() < kMaxRefusals &&
         told.emplace(refusal.request, refusal.why.code()).second;
}

void Vmm::Forget(uint64_t guest) {
  balloons_.Forget(guest);
  statistics_->Set(guest, Nanoseconds(0));
  LockHolder hold(mutex_);
  refusals_.erase(guest);
  hinted_before_.erase(guest);
}

absl::Status Vmm::Listen(const std::string& path) {
  return server_.Listen(path);
}

void Vmm::Listen(UnixListener listener) { server_.Listen(std::move(listener)); }

absl::Status Vmm::Serve(UniqueFd connection) {
  return server_.Serve(std::move(connection));
}

void Vmm::Stop() { server_.Stop(); }

size_t Vmm::guests() const { return server_.sessions().size(); }

std::vector<VmmGuest> Vmm::Guests() {
  std::vector<VmmGuest> guests;
  for (VhostUserSessionInfo& info : server_.sessions()) {
    VmmGuest guest = {.id = info.id,
                      .peer = info.peer,
                      .counters = {.requests = std::move(info.counters),
                                   .discards = balloons_.discards(info.id)},
                      .balloon = {}};
    Describe(guest);
    guests.push_back(std::move(guest));
  }
  return guests;
}

void Vmm::Describe(VmmGuest& guest) {
  VmmBalloon& balloon = guest.balloon;
  balloons_.With(guest.id, [&](BalloonDevice& device) {
    balloon.accepted_features = device.accepted_features();
    balloon.status = device.status();
    balloon.target_bytes = device.target() * kBalloonPageSize;
    balloon.actual_bytes = device.actual() * kBalloonPageSize;
    balloon.hinting = device.hinting();
    balloon.holds_discards = device.holds_discards();
    balloon.max_discard_rate = device.max_discard_rate();
    balloon.statistics = device.statistics();
  });
  balloon.statistics_interval = statistics_->interval(guest.id);
  LockHolder hold(mutex_);
  const auto before = hinted_before_.find(guest.id);
  if (before == hinted_before_.end()) return;
  const uint64_t now = guest.counters.discards.device.hinted_bytes;
  balloon.run_bytes = now - std::min(now, before->second);
}

VmmCounters Vmm::counters() const {
  return {.requests = server_.counters(), .discards = balloons_.discards()};
}

absl::Status Vmm::ForGuests(
    GuestId guest,
    absl::FunctionRef<absl::Status(uint64_t, BalloonDevice&)> use) {
  absl::Status result;
  for (const uint64_t id :
       guest ? std::vector<uint64_t>{*guest} : balloons_.sessions()) {
    absl::Status status;
    const bool is_there = balloons_.With(
        id, [&](BalloonDevice& device) { status = use(id, device); });
    if (!is_there && guest) {
      return absl::NotFoundError(
          absl::StrFormat("guest %d: must be connected", id));
    }
    if (!status.ok() && result.ok()) {
      result = absl::Status(status.code(),
                            absl::StrCat("guest ", id, ": ", status.message()));
    }
  }
  return result;
}

absl::Status Vmm::CheckOffered(uint64_t feature, std::string_view word) const {
  if ((options_.offered & feature) != 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("not offered to guests (--offer=%s)", word));
}

absl::Status Vmm::SetTarget(GuestId guest, uint64_t bytes) {
  absl::Status offered = CheckOffered(kBalloonFDeflateOnOom, "balloon");
  if (!offered.ok()) return offered;
  if (bytes % kBalloonPageSize != 0 || bytes / kBalloonPageSize > UINT32_MAX) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d: must be a multiple of %d, below 16 TiB", bytes, kBalloonPageSize));
  }
  return ForGuests(guest, [&](uint64_t, BalloonDevice& device) {
    device.SetTarget(static_cast<uint32_t>(bytes / kBalloonPageSize));
    return absl::OkStatus();
  });
}

absl::Status Vmm::StartHinting(GuestId guest) {
  absl::Status offered = CheckOffered(kBalloonFFreePageHint, "hinting");
  if (!offered.ok()) return offered;
  return ForGuests(guest, [&](uint64_t id, BalloonDevice& device) {
    const uint64_t before = device.counters().hinted_bytes;
    absl::Status status = device.StartHinting();
    if (status.ok()) {
      LockHolder hold(mutex_);
      hinted_before_[id] = before;
    }
    return status;
  });
}

absl::Status Vmm::StopHinting(GuestId guest) {
  return ForGuests(guest, [](uint64_t, BalloonDevice& device) {
    device.StopHinting();
    return absl::OkStatus();
  });
}

absl::Status Vmm::RequestStatistics(GuestId guest) {
  absl::Status offered = CheckOffered(kBalloonFStatsVq, "statistics");
  if (!offered.ok()) return offered;
  return ForGuests(guest, [](uint64_t, BalloonDevice& device) {
    return device.RequestStatistics();
  });
}

absl::Status Vmm::SetStatisticsInterval(GuestId guest, Nanoseconds interval) {
  absl::Status offered = CheckOffered(kBalloonFStatsVq, "statistics");
  if (!offered.ok()) return offered;
  std::vector<uint64_t> ids;
  absl::Status status = ForGuests(guest, [&](uint64_t id, BalloonDevice&) {
    ids.push_back(id);
    return absl::OkStatus();
  });
  for (const uint64_t id : ids) {
    statistics_->Set(id, interval);
    // A guest may have left before it was set.
    if (!balloons_.With(id, [](BalloonDevice&) {})) {
      statistics_->Set(id, Nanoseconds(0));
    }
  }
  return status;
}

absl::Status Vmm::HoldDiscards(GuestId guest, bool hold) {
  if (!guest) balloons_.HoldDiscards(hold);
  return ForGuests(guest, [&](uint64_t, BalloonDevice& device) {
    device.HoldDiscards(hold);
    return absl::OkStatus();
  });
}

absl::Status Vmm::SetMaxDiscardRate(GuestId guest, uint64_t bytes_per_second) {
  if (!guest) balloons_.SetMaxDiscardRate(bytes_per_second);
  return ForGuests(guest, [&](uint64_t, BalloonDevice& device) {
    device.SetMaxDiscardRate(bytes_per_second);
    return absl::OkStatus();
  });
}

}  // namespace guestmm
