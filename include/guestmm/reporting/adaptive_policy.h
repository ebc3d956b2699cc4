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
#include "guestmm/base/export.h"
#include "guestmm/base/fields.h"
#include "guestmm/base/units.h"
#include "guestmm/reporting/adaptive_delay.h"
#include "guestmm/reporting/reporting_policy.h"
#include "guestmm/reporting/unreported_memory.h"

namespace GUESTMM_EXPORT guestmm {

struct AdaptiveOptions {
  // Every free block of at least this order is reported in the end.
  Order order = kPageblockOrder;
  // The unit in which the host maps memory: order 9 if huge pages back the
  // guest's RAM.
  Order granule = Order(0);
  // Smaller blocks are reported if they are cold, down to this order. `order`
  // or more: none are. Unset: the granule, so that none of the host's is split.
  std::optional<Order> floor = {};
  // The minimum time that memory must be left alone before it is reported; at
  // least 1 ms.
  Nanoseconds delay = std::chrono::milliseconds(200);
  // The most ranges in one report.
  size_t capacity = 32;
  // The most reports in flight at a time.
  size_t reports = 1;
};

// order, floor, capacity, delay, reports; `granule` is the host's.
const Fields<AdaptiveOptions>& AdaptiveFields();

// The adaptive policy: loses nothing, reports nothing twice, does little harm.
//
// It tracks which memory the host may back: what was taken since its last
// report, what the host maps with that, and what was never reported. It reports
// only that, as parts of the free blocks that hold it; in parts of the host's
// granules only if `order` or `floor` is below them.
//
// A region (a block of the reporting order) with such memory waits in a
// queue. It is reported once it has settled: it was left alone for a while, and
// is free. If it is only partly free, it waits longer, until it is cold; then
// its free parts are reported. Both delays adapt to the share of reported
// memory that is used again soon (AdaptiveDelay). Refused and failed memory
// stays queued.
//
// docs/policies.md has the reasons and the costs.
class AdaptivePolicy final : public ReportingPolicy {
 public:
  // REQUIRES: order <= kMaxOrder, granule <= kPageblockOrder, capacity > 0,
  // delay >= 1 ms, 1 <= reports <= kMaxReports (CHECKed).
  explicit AdaptivePolicy(const AdaptiveOptions& options);

  std::string_view name() const override { return "adaptive"; }
  std::vector<std::pair<std::string_view, uint64_t>> parameters()
      const override;
  Order min_order() const override { return told_order_; }
  size_t capacity() const override { return options_.capacity; }
  size_t reports() const override { return options_.reports; }
  TakenBlocks taken_blocks() const override { return TakenBlocks::kTell; }
  Nanoseconds delay() const override { return options_.delay; }

  absl::Status Enable(const ReportingEnvironment& environment) override;
  void Disabling() override;
  void Disable() override;
  bool BlockFreed(ReportableZone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void BlocksTaken(ReportableZone& zone, std::span<const PfnRange> runs,
                   Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  void MemoryOnline(ReportableZone& zone, PfnRange range) override
      ABSL_LOCKS_EXCLUDED(zone.lock());
  void MemoryOffline(ReportableZone& zone, PfnRange range) override
      ABSL_LOCKS_EXCLUDED(zone.lock());
  std::optional<Nanoseconds> NextPass() override;
  bool NextBatch(Scatterlist& list) override;
  void ReturnBatch(Scatterlist& list, bool acknowledged) override;
  // R4 of docs/invariants.md.
  absl::Status CheckInvariants() const override;

  // The memory that it uses, in bytes. REQUIRES: no vCPU runs.
  size_t MemoryBytes() const;

 private:
  using Time = UnreportedMemory::Time;
  using Queue = UnreportedMemory::Queue;

  struct TrackedZone {
    ReportableZone* zone;
    UnreportedMemory memory;
    // Pages taken since `counted_since`; and whether the last count was almost
    // none.
    uint64_t taken_pages = 0;
    Time counted_since = 0;
    bool quiet = false;
    // Pages that may still be isolated in the current hold.
    PageCount room = {};
    // The zone is near its watermarks, and is skipped for the rest of the pass.
    bool refused = false;
    // The place where the scan of a region's pieces continues, if it is in
    // that region.
    Pfn next_piece = {};
  };

  // The result of a look at some memory.
  enum class Look {
    kDone,     // nothing is left to report
    kMore,     // something is, but this hold has reached its limit
    kLater,    // it must not be isolated now
    kRefused,  // nothing of the zone may be isolated now
  };

  // In milliseconds, rounded down.
  static Time ToTime(Nanoseconds time);
  Time Now() const;
  // For the hooks, which run often: while passes follow each other, the time at
  // which the next one is due, which saves reading the clock.
  Time NowOrNextPass() const;
  static bool Waited(Time since, Time now, Time age);
  TrackedZone& Tracked(const ReportableZone& zone) {
    return zones_[static_cast<size_t>(zone.index())];
  }
  TrackedZone& Tracked(const IsolatedBlock& block) {
    return zones_[static_cast<size_t>(block.zone().index())];
  }
  AdaptiveDelay& PatienceFor(Queue queue) {
    return queue == Queue::kCold ? cold_ : settling_;
  }
  bool IsRegion(Order order) const { return order >= options_.order; }

  // Queues the regions of a free block that have memory which the host may
  // back. REQUIRES: the zone's lock.
  void Enqueue(TrackedZone& tracked, Pfn pfn, Order order, Time now);
  // The same; `was_used`: it was in use until now.
  void EnqueueFree(TrackedZone& tracked, Pfn pfn, Order order, Time now,
                   bool was_used);

  // True for a zone without memory, as most are.
  static bool IsEmpty(const TrackedZone& tracked) {
    return tracked.zone->managed_pages() == PageCount(0);
  }
  // Marks the free blocks of a section that the host has whole.
  void MarkSection(TrackedZone& tracked, Pfn section);

  // `pages` came into use: a part of one region, or whole regions. REQUIRES:
  // the zone's lock.
  void Taken(TrackedZone& tracked, PfnRange pages, Time now);
  // The same, of memory that the host does not back whole: it maps that again,
  // and what it maps with it.
  void Backed(TrackedZone& tracked, PfnRange pages, Time now);
  // Queues the regions of `pages`, which the host maps with what was taken, and
  // which may be free. REQUIRES: the zone's lock.
  void EnqueueMapped(TrackedZone& tracked, PfnRange pages, Time now);

  void BeginPass();
  // The time that a region of `queue` must be left alone.
  Time Age(const TrackedZone& tracked, Queue queue) const;
  // The number of the zone's pages that may be isolated for one report.
  PageCount Room(const TrackedZone& tracked) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(tracked.zone->lock());
  // Isolates memory that is due in a zone, in one hold. Returns false if
  // nothing is left to do there in this pass.
  bool Fill(TrackedZone& tracked, Scatterlist& list);
  // The next region of `queue` that has waited long enough; none if there is
  // none. Moves regions that were used meanwhile to the end; each counts as one
  // of `looks`.
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

  // True if every part of the block that the host may back is queued.
  bool Waits(const TrackedZone& tracked, Pfn pfn, Order order) const;

  const AdaptiveOptions options_;
  const Order floor_;
  // The unit in which memory is tracked.
  const Order unit_;
  const Order told_order_;
  const Clock* clock_ = nullptr;
  std::vector<TrackedZone> zones_;

  // True while no pass is running, due or requested.
  std::atomic<bool> idle_{false};
  // The time at which the next pass is due, if not idle.
  std::atomic<Time> next_pass_{0};

  // From here on used only on the reporter's queue, except where AdaptiveDelay
  // says otherwise.
  AdaptiveDelay settling_;
  AdaptiveDelay cold_;
  bool in_pass_ = false;
  // The zone that the pass is at, and the number of zones left in it.
  size_t at_zone_ = 0;
  size_t zones_left_ = 0;
  // Bytes that the pass may still report.
  uint64_t budget_bytes_ = 0;
  // Consecutive failed reports; and consecutive passes after which all queued
  // memory is in zones near their watermarks.
  int failures_ = 0;
  int refused_passes_ = 0;
  // Parts of the block that is being added to a report.
  std::vector<GpaRange> parts_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_ADAPTIVE_POLICY_H_
