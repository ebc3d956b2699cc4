#ifndef GUESTMM_VMM_BALLOON_FACTORY_H_
#define GUESTMM_VMM_BALLOON_FACTORY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/virtio/wire/virtio_device.h"

namespace GUESTMM_EXPORT guestmm {

// Counts of what balloon devices have discarded so far.
struct BalloonDiscards {
  uint64_t reports = 0;   // batches given to the hypervisor
  uint64_t bytes = 0;     // discarded
  uint64_t failures = 0;  // ranges that the host refused to discard
  BalloonDeviceCounters device;

  BalloonDiscards& operator+=(const BalloonDiscards& other);
};

// Makes the devices of a VhostUserServer: for each session a balloon, with a
// hypervisor that discards the guest's memory. Keeps count of what they
// discard, and gives access to them while they exist.
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

  // Calls `use` with the device of `session`, which exists until that returns.
  // False if there is none now. `use` must not call this, nor reset the device.
  bool With(uint64_t session, absl::FunctionRef<void(BalloonDevice&)> use);
  // The sessions that have a device now, in ascending order.
  std::vector<uint64_t> sessions() const;

  // What holds for the devices made from now on, as for the methods of
  // BalloonDevice.
  void HoldDiscards(bool hold);
  void SetMaxDiscardRate(uint64_t bytes_per_second);

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
    Balloon* balloon = nullptr;
    // False once the balloon is being destroyed.
    bool is_usable = false;
    BalloonDiscards discards;
  };

  static BalloonDiscards DiscardsOf(const Session& session);
  // Called by the balloon before its device is destroyed. From now on the
  // device is not used; it may still discard.
  void Ending(uint64_t session);
  // Called by the balloon when its device is reset for good.
  void Ended(uint64_t session);

  mutable Mutex mutex_;
  // The options of devices that are made from now on.
  BalloonDeviceOptions options_ ABSL_GUARDED_BY(mutex_);
  bool holds_discards_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<uint64_t, Session> sessions_ ABSL_GUARDED_BY(mutex_);
  // Those of forgotten sessions.
  BalloonDiscards forgotten_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace guestmm

#endif  // GUESTMM_VMM_BALLOON_FACTORY_H_
