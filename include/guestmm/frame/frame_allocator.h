#ifndef GUESTMM_FRAME_FRAME_ALLOCATOR_H_
#define GUESTMM_FRAME_FRAME_ALLOCATOR_H_

// The page-frame allocator of a guest's kernel, as seen by everything that runs
// in the guest: vCPUs, workloads, drivers, accounting. PageAllocator (buddy/)
// is one.
//
//   std::optional<Pfn> page =
//       allocator.Allocate(/*cpu=*/0, Order(0), kGfpKernel);
//   allocator.Free(/*cpu=*/0, *page, Order(0));

#include <functional>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/gfp.h"
#include "guestmm/frame/migratetype.h"
#include "guestmm/frame/no_pfn.h"
#include "guestmm/frame/reclaimer.h"
#include "guestmm/frame/vmstat.h"
#include "guestmm/frame/zone_type.h"

namespace GUESTMM_EXPORT guestmm {

// Pages by state (docs/invariants.md, P2).
struct PageCounts {
  PageCount managed;    // all online pages
  PageCount free;       // on free lists
  PageCount offlining;  // on free lists, in a range that is being offlined
  PageCount cached;     // on per-CPU lists
  PageCount isolated;   // held back for the host to discard

  PageCount allocated() const {
    return managed - free - offlining - cached - isolated;
  }
};

// The zones that ForEachFreeBlock visits: all, or those with more free pages
// than their low watermark.
enum class FreeBlocksOf : bool { kAllZones, kZonesAboveLow };

// Thread-safe. A `cpu` names the per-CPU lists to use; fastest where one thread
// at a time uses a cpu.
class FrameAllocator {
 public:
  FrameAllocator() = default;
  FrameAllocator(const FrameAllocator&) = delete;
  FrameAllocator& operator=(const FrameAllocator&) = delete;
  virtual ~FrameAllocator() = default;

  // Allocates a block of 2^order pages, aligned to its size. May call
  // reclaimers and wait, unless gfp.may_reclaim is false. None if memory is
  // out, or if the caller must not wait here (WhenToRetry). REQUIRES: 0 <= cpu
  // < cpus(); order <= max_order(); gfp.type is one of the kRequestTypes
  // (CHECKed).
  std::optional<Pfn> Allocate(int cpu, Order order, Gfp gfp = kGfpUser) {
    return ToOptional(Take(cpu, order, gfp));
  }

  // Returns what a request that just returned none has to wait for; null if it
  // failed. Only a caller that must not wait inside Allocate, i.e. a work of
  // the queue that returns the memory (Workqueue::MayWait), is given one: it
  // repeats the request once the function returns true. The function must not
  // outlive this, and may be called outside all locks.
  virtual std::function<bool()> WhenToRetry(int /*cpu*/, Order /*order*/,
                                            Gfp /*gfp*/) {
    return nullptr;
  }

  // Frees a block on `cpu`, which need not be the one that allocated it.
  // REQUIRES: as Allocate; `pfn` is a block allocated at `order` (CHECKed).
  virtual void Free(int cpu, Pfn pfn, Order order) = 0;

  // Allocates exactly the block at `pfn` (alloc_contig_range, without
  // migration), whatever the watermarks. False, with no effect, unless all of
  // it is in one free block; pages on per-CPU lists are not free. REQUIRES:
  // aligned; order <= max_order(); `type` as in Allocate.
  virtual bool AllocateAt(Pfn pfn, Order order, MigrateType type) = 0;

  // Frees all pages on per-CPU lists to their zones (drain_all_pages).
  virtual void DrainPerCpuPages() = 0;
  // Does what the kernel does for a vCPU once a second: returns pages that its
  // lists no longer need to their zones, where the kernel's do so
  // (vmstat_update of 6.12). REQUIRES: 0 <= cpu < cpus().
  virtual void RefreshPerCpuPages(int /*cpu*/) {}

  // Registers a reclaimer; reclaimers are called in the order in which they
  // were added. `reclaimer` must outlive its registration.
  virtual void AddReclaimer(Reclaimer& reclaimer) = 0;
  virtual void RemoveReclaimer(Reclaimer& reclaimer) = 0;

  virtual int cpus() const = 0;
  virtual Order max_order() const = 0;
  // One past the highest page that is or may be brought online.
  virtual Pfn hotplug_end() const = 0;

  // A consistent count only while no other thread uses the allocator.
  virtual PageCounts Counts() const = 0;
  // Free pages above the low watermarks, summed over zones, without those on
  // per-CPU lists: what can be allocated without using reserves.
  virtual PageCount FreePagesAboveLow() const = 0;
  // True if a zone has `pages` free pages above its low watermark and the
  // lowmem_reserve that it keeps from requests whose highest zone is `highest`.
  // A snapshot.
  virtual bool HasFreeAboveLow(PageCount pages, ZoneType highest) const = 0;
  // Calls `visit` for each free block of at least `min_order`, outside all
  // locks, on a snapshot taken zone by zone. Blocks in a range that is being
  // offlined are free blocks too.
  virtual void ForEachFreeBlock(
      Order min_order, FreeBlocksOf zones,
      absl::FunctionRef<void(Pfn pfn, Order order)> visit) const = 0;
  // Events since creation. A snapshot.
  virtual VmStat vmstat() const = 0;

  // Checks the allocator's invariants (docs/invariants.md) under all its locks.
  // Internal, naming the invariant and the page, if one does not hold.
  virtual absl::Status CheckInvariants() const = 0;

 private:
  // As Allocate, but kNoPfn for none.
  virtual Pfn Take(int cpu, Order order, Gfp gfp) = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_FRAME_FRAME_ALLOCATOR_H_
