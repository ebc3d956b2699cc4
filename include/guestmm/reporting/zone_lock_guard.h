#ifndef GUESTMM_REPORTING_ZONE_LOCK_GUARD_H_
#define GUESTMM_REPORTING_ZONE_LOCK_GUARD_H_

// A policy's access to a zone:
//
//   ZoneLockGuard hold(zone);            // a ReportableZone
//   if (std::optional<Order> order = zone.FreeBlockAt(pfn)) {
//     std::optional<IsolatedBlock> block = zone.Isolate(pfn);
//   }

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/biased_lock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/watermarks.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/frame/migratetype.h"

namespace GUESTMM_EXPORT guestmm {

// The work of a policy on a zone while it held the lock.
struct ZoneWork {
  // Steps of a search: lookups of a free block, steps along a free list, and
  // the lookups that Isolate, MarkReported and RotateFreeList begin with.
  uint64_t scanned = 0;
  uint64_t isolated = 0;
  uint64_t returned = 0;
};

// Notified when a policy acquires or releases a zone's lock. Used to measure
// lock hold times, and by tests to force interleavings.
class LockHoldObserver {
 public:
  virtual ~LockHoldObserver() = default;

  // The lock is about to be acquired.
  virtual void OnLock(const Zone& zone) ABSL_LOCKS_EXCLUDED(zone.lock()) {
    static_cast<void>(zone);
  }
  // The lock is held.
  virtual void OnLocked(const Zone& zone)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    static_cast<void>(zone);
  }
  // The lock is about to be released, after `work`.
  virtual void OnUnlock(const Zone& zone, const ZoneWork& work)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) = 0;
};

// The part of a Zone that a policy may use. See Zone for what each function
// does. Functions that need the lock are called under a ZoneLockGuard.
class ReportableZone {
 public:
  // `zone` must outlive this, and so must `holds`; null: there is none.
  explicit ReportableZone(Zone& zone, LockHoldObserver* holds = nullptr)
      : zone_(&zone), holds_(holds) {}
  ReportableZone(ReportableZone&&) = default;
  ReportableZone& operator=(ReportableZone&&) = delete;

  // The zone's place in ReportingEnvironment::zones.
  int index() const { return zone_->index(); }
  Order max_order() const { return zone_->max_order(); }

  // Without the lock these are snapshots.
  PfnRange span() const { return zone_->span(); }
  PageCount managed_pages() const { return zone_->managed_pages(); }
  PageCount free_pages() const { return zone_->free_pages(); }
  uint64_t free_blocks(Order order) const { return zone_->free_blocks(order); }
  Watermarks watermarks() const { return zone_->watermarks(); }
  bool WatermarkOk(Order order, PageCount mark) const {
    return zone_->WatermarkOk(order, mark);
  }
  bool HasFreeBlock(Order order, MigrateType type) const {
    return zone_->HasFreeBlock(order, type);
  }

  // For annotations, and for holds that are not part of a pass (memory online
  // and offline, checks), which no observer is notified of.
  BiasedLock& lock() const ABSL_LOCK_RETURNED(zone_->lock()) {
    return zone_->lock();
  }

  std::vector<PfnRange> ranges() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    return zone_->ranges();
  }

  // Look up free blocks.
  std::optional<Order> FreeBlockAt(Pfn pfn) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    ++work_.scanned;
    return zone_->FreeBlockAt(pfn);
  }
  std::optional<Zone::Block> FreeBlockAround(Pfn pfn) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    ++work_.scanned;
    return zone_->FreeBlockAround(pfn);
  }
  MigrateType pageblock_type(Pfn pfn) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    return zone_->pageblock_type(pfn);
  }
  void SetPageblockType(Pfn pfn, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    zone_->SetPageblockType(pfn, type);
  }

  // Walk a free list.
  std::optional<Pfn> FirstFreeBlock(Order order, MigrateType type) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    ++work_.scanned;
    return zone_->FirstFreeBlock(order, type);
  }
  std::optional<Pfn> NextFreeBlock(Pfn pfn, Order order, MigrateType type) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    ++work_.scanned;
    return zone_->NextFreeBlock(pfn, order, type);
  }
  void RotateFreeList(Order order, MigrateType type, Pfn first)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    ++work_.scanned;
    zone_->RotateFreeList(order, type, first);
  }

  // Mark free blocks as reported.
  bool IsReported(Pfn pfn) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    return zone_->IsReported(pfn);
  }
  void MarkReported(Pfn pfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    ++work_.scanned;
    zone_->MarkReported(pfn);
  }

  // Isolate a free block, and return it.
  std::optional<IsolatedBlock> Isolate(Pfn pfn)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    ++work_.scanned;
    std::optional<IsolatedBlock> block = zone_->Isolate(pfn);
    if (block) ++work_.isolated;
    return block;
  }
  Order Return(IsolatedBlock block, ReturnTo to = ReturnTo::kItsPlace)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock()) {
    ++work_.returned;
    return zone_->Return(std::move(block), to);
  }

 private:
  friend class ZoneLockGuard;

  Zone* zone_;
  LockHoldObserver* holds_;
  // Since the lock was acquired.
  mutable ZoneWork work_;
};

// One ReportableZone for each of an allocator's zones, in their order.
inline std::vector<ReportableZone> ReportableZones(
    std::span<const std::unique_ptr<Zone>> zones,
    LockHoldObserver* holds = nullptr) {
  std::vector<ReportableZone> reportable;
  reportable.reserve(zones.size());
  for (const std::unique_ptr<Zone>& zone : zones) {
    reportable.emplace_back(*zone, holds);
  }
  return reportable;
}

// The zone of `zones`, which are by index, that the block is to be returned to.
inline ReportableZone& ZoneOf(std::span<ReportableZone> zones,
                              const IsolatedBlock& block) {
  return zones[static_cast<size_t>(block.zone().index())];
}

// Holds a zone's lock for a scope, and notifies the zone's observer.
class ABSL_SCOPED_LOCKABLE ZoneLockGuard {
 public:
  explicit ZoneLockGuard(const ReportableZone& zone)
      ABSL_EXCLUSIVE_LOCK_FUNCTION(zone.lock())
      : zone_(zone) {
    if (zone.holds_ != nullptr) zone.holds_->OnLock(*zone.zone_);
    zone.lock().Lock();
    zone.work_ = {};
    if (zone.holds_ != nullptr) zone.holds_->OnLocked(*zone.zone_);
  }
  ~ZoneLockGuard() ABSL_UNLOCK_FUNCTION() {
    if (zone_.holds_ != nullptr) {
      zone_.holds_->OnUnlock(*zone_.zone_, zone_.work_);
    }
    zone_.lock().Unlock();
  }
  ZoneLockGuard(const ZoneLockGuard&) = delete;
  ZoneLockGuard& operator=(const ZoneLockGuard&) = delete;

 private:
  const ReportableZone& zone_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_ZONE_LOCK_GUARD_H_
