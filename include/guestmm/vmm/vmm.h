#ifndef GUESTMM_VMM_VMM_H_
#define GUESTMM_VMM_VMM_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/unix_listener.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/virtio/wire/balloon.h"
#include "guestmm/vmm/balloon_factory.h"
#include "guestmm/vmm/balloon_offer.h"

namespace GUESTMM_EXPORT guestmm {

class StatisticsTimer;

// Counts of what one guest, or all of them, did so far.
struct VmmCounters {
  VhostUserCounters requests;
  BalloonDiscards discards;
};

// The balloon of one guest: what the host wants, and what the guest says.
struct VmmBalloon {
  uint64_t accepted_features = 0;  // by the driver; 0 before that
  uint8_t status = 0;              // of the device
  uint64_t target_bytes = 0;
  uint64_t actual_bytes = 0;
  bool hinting = false;  // a run was requested and has not ended
  // Hinted and discarded since the last run was requested.
  uint64_t run_bytes = 0;
  bool holds_discards = false;
  uint64_t max_discard_rate = 0;  // bytes per second; 0: no limit
  BalloonStatistics statistics;
  Nanoseconds statistics_interval{0};  // 0: none
};

// One guest of a Vmm.
struct VmmGuest {
  uint64_t id = 0;  // from 1, in order of arrival
  UnixPeer peer;
  VmmCounters counters;
  VmmBalloon balloon;
};

struct VmmOptions {
  // Balloon features, as of ParseBalloonOffer.
  uint64_t offered = kDefaultBalloonOffer;
  // In bytes per second, for each guest; 0: no limit.
  uint64_t max_discard_rate = 0;
  // Limits, the socket and its users; must have no callbacks. max_sessions is
  // lowered to what the process's limit of file descriptors suffices for.
  VhostUserServerOptions server = DefaultServer();
  // Called when a guest has connected, and when it has left and its memory is
  // unmapped. The status is as in VhostUserServerOptions::on_end. Called on
  // threads of the VMM; must not call it.
  std::function<void(const VmmGuest&)> on_begin = {};
  std::function<void(const VmmGuest&, const absl::Status&)> on_end = {};
  // Called for the first refusal of each kind (request, code of the reason) by
  // a guest, up to a number, and for each connection that was refused. As
  // above.
  std::function<void(uint64_t guest, const VhostUserRefusal&)> on_refused = {};
  std::function<void(const UnixPeer&, const absl::Status&)>
      on_refused_connection = {};

  // 256 guests of up to 128 regions each: together they use at most half of the
  // mappings that a process may have by default (vm.max_map_count). 128 GiB of
  // each guest's memory are guaranteed. One user can have three quarters of all
  // that is shared.
  static VhostUserServerOptions DefaultServer();
};

// Makes this process the VMM of guests in other processes
// (GuestOptions::vmm_socket): serves balloon devices over vhost-user, with
// queues as long as those guests request.
//
// For a program, not a library: the constructor raises the process's limit of
// file descriptors to the hard limit, from which it derives the largest number
// of guests, and installs GuardAgainstForeignFaults.
class Vmm {
 public:
  explicit Vmm(VmmOptions options = {});
  // Stops.
  ~Vmm();
  Vmm(const Vmm&) = delete;
  Vmm& operator=(const Vmm&) = delete;

  // As VhostUserServer::Listen.
  absl::Status Listen(const std::string& path);
  void Listen(UnixListener listener);
  // As VhostUserServer::Serve.
  absl::Status Serve(UniqueFd connection);
  // Disconnects all guests and removes the socket. No effect if repeated.
  void Stop();

  // Guests connected now.
  size_t guests() const;
  // The same, with what is known of each.
  std::vector<VmmGuest> Guests();
  // Of all guests, including those that have left.
  VmmCounters counters() const;
  uint64_t refused_connections() const { return server_.refused_sessions(); }
  uint64_t offered() const { return options_.offered; }

  // The methods of BalloonDevice, for one guest or, with nullopt, for all. The
  // errors name the guest; NotFound if it is not connected. For all: the first
  // error, after the others were done.
  using GuestId = std::optional<uint64_t>;
  // FailedPrecondition if what they ask for is not offered. InvalidArgument
  // unless `bytes` is a number of whole pages, fewer than 2^32.
  absl::Status SetTarget(GuestId guest, uint64_t bytes);
  absl::Status StartHinting(GuestId guest);
  absl::Status StopHinting(GuestId guest);
  absl::Status RequestStatistics(GuestId guest);
  // Requests statistics at intervals; 0: no more.
  absl::Status SetStatisticsInterval(GuestId guest, Nanoseconds interval);
  // For all: also for guests that connect later.
  absl::Status HoldDiscards(GuestId guest, bool hold);
  absl::Status SetMaxDiscardRate(GuestId guest, uint64_t bytes_per_second);

 private:
  VhostUserServerOptions ServerOptions();
  absl::Status ForGuests(
      GuestId guest,
      absl::FunctionRef<absl::Status(uint64_t id, BalloonDevice&)> use);
  // FailedPrecondition, naming the word of --offer, unless it was offered.
  absl::Status CheckOffered(uint64_t feature, std::string_view word) const;
  void Describe(VmmGuest& guest);
  // True for the first of its kind.
  bool IsNews(uint64_t guest, const VhostUserRefusal& refusal);
  void Forget(uint64_t guest);

  const VmmOptions options_;
  BalloonFactory balloons_;
  ThreadWorkqueue timer_;
  const std::unique_ptr<StatisticsTimer> statistics_;

  mutable Mutex mutex_;
  // The kinds of refusals by guest.
  std::map<uint64_t, std::set<std::pair<std::string, absl::StatusCode>>>
      refusals_ ABSL_GUARDED_BY(mutex_);
  // Hinted bytes of a guest when its last run was requested.
  std::map<uint64_t, uint64_t> hinted_before_ ABSL_GUARDED_BY(mutex_);

  VhostUserServer server_;
};

}  // namespace guestmm

#endif  // GUESTMM_VMM_VMM_H_
