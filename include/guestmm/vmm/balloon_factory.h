#ifndef GUESTMM_VMM_BALLOON_FACTORY_H_
#define GUESTMM_VMM_BALLOON_FACTORY_H_

#include <cstdint>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/virtio/wire/virtio_device.h"

namespace guestmm {

// Counts of what balloon devices have discarded so far.
struct BalloonDiscards {
  uint64_t reports = 0;   // batches given to the hypervisor
  uint64_t bytes = 0;     // discarded
  uint64_t failures = 0;  // ranges that the host refused to discard

  BalloonDiscards& operator+=(const BalloonDiscards& other);
};

// Makes the devices of a VhostUserServer: for each session a balloon, with a
// hypervisor that discards the guest's memory. Keeps count of what they
// discard.
//
//   BalloonFactory balloons;
//   VhostUserServer server(balloons.maker());
//
// Thread-safe.
class BalloonFactory {
 public:
  // All balloons have `options`.
  explicit BalloonFactory(const BalloonDeviceOptions& options = {});
  // REQUIRES: all balloons are gone.
  ~BalloonFactory();
  BalloonFactory(const BalloonFactory&) = delete;
  BalloonFactory& operator=(const BalloonFactory&) = delete;

  // Make, for VhostUserServer. The factory must outlive the server.
  VhostUserServer::MakeDevice maker();

  // A balloon device that owns its hypervisor. RAM and workqueue must outlive
  // it. Another server may use the number of an ended session again.
  // REQUIRES: the session has no balloon now (CHECKed).
  std::shared_ptr<VirtioDevice> Make(uint64_t session, const GuestRam& ram,
                                     Workqueue& workqueue);

  // The discards of `session`, which may have ended. Zero if it is unknown.
  BalloonDiscards discards(uint64_t session) const;
  // The discards of all sessions, including those that ended.
  BalloonDiscards discards() const;
  // Forgets a session that has ended. It still counts in the sum.
  void Forget(uint64_t session);

 private:
  class Balloon;

  // A session's balloon while it exists, then what it had discarded.
  struct Session {
    const Balloon* balloon = nullptr;
    BalloonDiscards discards;
  };

  static BalloonDiscards DiscardsOf(const Session& session);
  // Called by the balloon when its device is reset for good.
  void Ended(uint64_t session);

  const BalloonDeviceOptions options_;
  mutable Mutex mutex_;
  std::map<uint64_t, Session> sessions_ ABSL_GUARDED_BY(mutex_);
  // Those of forgotten sessions.
  BalloonDiscards forgotten_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace guestmm

#endif  // GUESTMM_VMM_BALLOON_FACTORY_H_
