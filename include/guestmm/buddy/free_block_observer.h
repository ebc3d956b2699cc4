#ifndef GUESTMM_BUDDY_FREE_BLOCK_OBSERVER_H_
#define GUESTMM_BUDDY_FREE_BLOCK_OBSERVER_H_

#include <span>

#include "guestmm/base/units.h"

namespace guestmm {

class Zone;

// Whether an observer is told of blocks that are taken off the free lists.
enum class TakenBlocks : bool { kIgnore, kTell };

// Told of blocks that became free (v12 patch 1/2, page_reporting_enqueue), of
// those taken where it asks for that, and of memory that comes and goes.
class FreeBlockObserver {
 public:
  virtual ~FreeBlockObserver() = default;

  // A block of `order`, as it is after merging, came onto a free list of
  // `zone`. Only records; must not call back into the allocator. True if Wake
  // should follow.
  // REQUIRES: the caller holds zone.lock().
  virtual bool OnBlockFreed(Zone& zone, Pfn pfn, Order order) = 0;

  // Blocks of `order` were taken off the free lists of `zone` together: they
  // are allocated now, or wait on a per-CPU list to be. For observers that ask
  // for it. As OnBlockFreed, but for Wake.
  virtual void OnBlocksTaken(Zone& /*zone*/, std::span<const Pfn> /*blocks*/,
                             Order /*order*/) {}

  // `range` is about to be part of `zone`: before any block of it is free.
  // First of all, for memory that is there already when the observer is set.
  // Must not call back into the allocator, but may take a zone's lock.
  virtual void OnMemoryOnline(Zone& /*zone*/, PfnRange /*range*/) {}
  // `range`, in whole sections, is no longer part of `zone`. As OnMemoryOnline.
  virtual void OnMemoryOffline(Zone& /*zone*/, PfnRange /*range*/) {}

  // Called without any lock of the allocator once OnBlockFreed said so. May
  // come after the observer was taken off the zones.
  virtual void Wake() = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_FREE_BLOCK_OBSERVER_H_
