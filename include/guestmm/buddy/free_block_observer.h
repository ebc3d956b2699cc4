#ifndef GUESTMM_BUDDY_FREE_BLOCK_OBSERVER_H_
#define GUESTMM_BUDDY_FREE_BLOCK_OBSERVER_H_

#include <span>

#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

class Zone;

// kTell if an observer is notified of blocks taken off the free lists.
enum class TakenBlocks : bool { kIgnore, kTell };

// Notified of blocks freed (v12 patch 1/2, page_reporting_enqueue), of blocks
// taken off the free lists if TakenBlocks::kTell, and of memory brought online
// and offline.
class FreeBlockObserver {
 public:
  virtual ~FreeBlockObserver() = default;

  // Called after a block was inserted into a free list of `zone`; `order` is
  // that of the merged block. Only records; must not call back into the
  // allocator. Returns true if the caller must call Wake. REQUIRES: the caller
  // holds zone.lock().
  virtual bool OnBlockFreed(Zone& zone, Pfn pfn, Order order) = 0;

  // Called after blocks of `order` were taken off the free lists of `zone`
  // together, to be allocated or cached on a per-CPU list. Each of `runs` is
  // one block or several adjacent ones, in the order in which they were taken.
  // Only with TakenBlocks::kTell. Otherwise as OnBlockFreed, without a Wake.
  virtual void OnBlocksTaken(Zone& /*zone*/, std::span<const PfnRange> /*runs*/,
                             Order /*order*/) {}

  // Called before `range` becomes part of `zone`, when no block of it is free
  // yet. Called first for the memory that is online when the observer is set.
  // Must not call back into the allocator, but may lock a zone.
  virtual void OnMemoryOnline(Zone& /*zone*/, PfnRange /*range*/) {}
  // Called after `range`, whole sections, was removed from `zone`. Otherwise as
  // OnMemoryOnline.
  virtual void OnMemoryOffline(Zone& /*zone*/, PfnRange /*range*/) {}

  // Called outside all locks of the allocator after OnBlockFreed returned true.
  // May be called after the observer was replaced.
  virtual void Wake() = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_FREE_BLOCK_OBSERVER_H_
