#ifndef GUESTMM_REPORTING_ADAPTIVE_POLICY_H_
#define GUESTMM_REPORTING_ADAPTIVE_POLICY_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/fields.h"
#include "guestmm/base/units.h"
#include "guestmm/reporting/adaptive_delay.h"
#include "guestmm/reporting/reporting_policy.h"
#include "guestmm/reporting/unreported_memory.h"

namespace guestmm {

struct AdaptiveOptions {
  // At rest, every free block of at least this order is with the host.
  Order order = kPageblockOrder;
  // What the host can take back at least, and gives on one touch: order 9 where
  // huge pages are behind guest RAM. At most `order`.
  Order granule = Order(0);
  // Smaller blocks are reported where memory stays cold, down to this order; as
  // `order`: none.
  Order floor = Order(0);
  // How long memory must have been left alone to be reported, at least; from 1
  // ms.
  Nanoseconds delay = std::chrono::milliseconds(200);
  // The most ranges in one report.
  size_t capacity = 32;
};

// order, floor, capacity, delay; `granule` is the host's.
const Fields<AdaptiveOptions>& AdaptiveFields();

// the adaptive policy: no loss, no waste, no harm.
//
// It keeps account of what the host may back, in the host's granules: a granule
// that was taken since it was last reported, or was never. Only those are
// reported, as parts of the free blocks that hold them.
//
// A region (a block of the reporting order) that has such granules waits in a
// queue: first to settle, that is, to be left alone for a while; then, if it is
// not free as a whole, longer, to be cold: what is free of it is reported then.
// How long follows from how much of what was reported comes back into use soon
// (AdaptiveDelay). What is refused or fails stays in its queue.
//
// docs/policies.md tells why, and what it costs.
class AdaptivePolicy final : public ReportingPolicy {
 public:
  // REQUIRES: granule <= floor <= order <= kMaxOrder, capacity > 0, delay >= 1
  // ms (CHECKed).
  explicit AdaptivePolicy(const AdaptiveOptions& options);

  std::string_view name() const override { return "adaptive"; }
  std::vector<std::pair<std::string_view, uint64_t>> parameters()
      const override;
  Order min_order() const override { return told_order_; }
  size_t capacity() const override { return options_.capacity; }
  TakenBlocks taken_blocks() const override { return TakenBlocks::kTell; }
  Nanoseconds delay() const override { return options_.delay; }

  absl::Status Enable(const ReportingEnvironment& environment) override;
  void Disabling() override;
  void Disable() override;
  bool BlockFreed(Zone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void BlocksTaken(Zone& zone, std::span<const Pfn> blocks,
                   Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void MemoryOnline(Zone& zone, PfnRange range) override
      ABSL_LOCKS_EXCLUDED(zone.lock());
  void MemoryOffline(Zone& zone, PfnRange range) override
      ABSL_LOCKS_EXCLUDED(zone.lock());
  std::optional<Nanoseconds> NextPass() override;
  bool NextBatch(Scatterlist& list) override;
  void ReturnBatch(Scatterlist& list, bool acknowledged) override;
  // R4 of docs/invariants.md.
  absl::Status CheckInvariants() const override;

  // What it takes, in bytes. REQUIRES: no vCPU runs.
  size_t MemoryBytes() const;

 private:
  using Time = UnreportedMemory::Time;
  using Queue = UnreportedMemory::Queue;

  struct TrackedZone {
    Zone* zone;
    UnreportedMemory memory;
    // What was taken since a time; and whether that was next to nothing the
    // last time that it was counted.
    uint64_t taken_pages = 0;
    Time counted_since = 0;
    bool quiet = false;
    // How much may be isolated at once in the hold that is under way.
    PageCount room = {};
    // It is near its watermarks: nothing more in this pass.
    bool refused = false;
    // Where a look at a region's pieces goes on; anywhere else: nowhere.
    Pfn next_piece = {};
  };

  // What came of a look at some memory.
  enum class Look {
    kDone,     // nothing of it is left to report
    kMore,     // some is, but this hold has done enough
    kLater,    // it may not be isolated now
    kRefused,  // so may nothing of the zone
  };

  // A time, or how long something takes, rounded down.
  static Time ToTime(Nanoseconds time);
  Time Now() const;
  // For events, which are many: does without the clock while passes follow each
  // other, and then is the time at which the next one is due.
  Time NowOrNextPass() const;
  static bool Waited(Time since, Time now, Time age);
  TrackedZone& Tracked(const Zone& zone) {
    return zones_[static_cast<size_t>(zone.index())];
  }
  AdaptiveDelay& PatienceFor(Queue queue) {
    return queue == Queue::kCold ? cold_ : settling_;
  }
  bool IsRegion(Order order) const { return order >= options_.order; }

  // Queues what the host may back of a block that is free. REQUIRES: the zone's
  // lock.
  void Enqueue(TrackedZone& tracked, Pfn pfn, Order order, Time now);

  // A zone without memory, as most are.
  static bool IsEmpty(const TrackedZone& tracked) {
    return tracked.zone->managed_pages() == PageCount(0);
  }
  // Marks the free blocks of a section of which the host has everything.
  void MarkSection(TrackedZone& tracked, Pfn section);

  // `pages`, of one region or of whole ones, came into use. REQUIRES: as
  // Enqueue.
  void Taken(TrackedZone& tracked, PfnRange pages, Time now);

  void BeginPass();
  // How long what waits in a queue must have been left alone.
  Time Age(const TrackedZone& tracked, Queue queue) const;
  // How much of the zone may be isolated at once.
  PageCount Room(const TrackedZone& tracked) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(tracked.zone->lock());
  // Isolates what is due in a zone, in one hold. False: it is done with.
  bool Fill(TrackedZone& tracked, Scatterlist& list);
  // The next region of `queue` that has waited long enough; none if no one has.
  // Those that were used meanwhile go to the end, which costs `looks`.
  std::optional<Pfn> NextDue(TrackedZone& tracked, Queue queue, int& looks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(tracked.zone->lock());
  Look LookAtRegion(TrackedZone& tracked, Pfn region, Queue queue, int& looks,
                    Scatterlist& list)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(tracked.zone->lock());
  Look LookAtPieces(TrackedZone& tracked, Pfn region, int& looks,
                    Scatterlist& list)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(tracked.zone->lock());
  Look LookAtBlock(TrackedZone& tracked, Zone::Block block, Scatterlist& list)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(tracked.zone->lock());

  // Whether what the host may back of a block is in a queue, all of it.
  bool Waits(const TrackedZone& tracked, Pfn pfn, Order order) const;

  const AdaptiveOptions options_;
  const Order told_order_;
  const Clock* clock_ = nullptr;
  LockHoldObserver* holds_ = nullptr;
  std::vector<TrackedZone> zones_;

  // No pass is under way, due or asked for.
  std::atomic<bool> idle_{false};
  // When the next one is due, if not.
  std::atomic<Time> next_pass_{0};

  // Of the reporter's queue alone, but for what AdaptiveDelay says.
  AdaptiveDelay settling_;
  AdaptiveDelay cold_;
  bool in_pass_ = false;
  // Where the pass is, and how many zones it has yet to see.
  size_t at_zone_ = 0;
  size_t zones_left_ = 0;
  // What it may still report.
  uint64_t budget_bytes_ = 0;
  // In a row: reports that failed, and passes after which all that waits is in
  // zones near their watermarks.
  int failures_ = 0;
  int refused_passes_ = 0;
  // Of the block in hand.
  std::vector<GpaRange> parts_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_ADAPTIVE_POLICY_H_
