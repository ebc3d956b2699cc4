#ifndef GUESTMM_BUDDY_PAGE_ALLOCATOR_H_
#define GUESTMM_BUDDY_PAGE_ALLOCATOR_H_

// The allocator's front door: zones, per-CPU lists, and the way from one to the
// other (alloc_pages, __free_pages).
//
//   auto allocator =
//       PageAllocator::Create({.memory = {{Pfn(0), Pfn(262144)}}});
//   std::optional<Pfn> page = (*allocator)->Allocate(/*cpu=*/0, Order(0));
//   (*allocator)->Free(/*cpu=*/0, *page, Order(0));

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/per_cpu_pages.h"
#include "guestmm/buddy/zone.h"

namespace guestmm {

struct PageAllocatorOptions {
  // The pages that are there: non-empty, ascending, disjoint.
  std::vector<PfnRange> memory = {};
  // vCPUs, each with a list of single pages for every zone.
  int cpus = 1;
  // At most kMaxOrder.
  Order max_order = kMaxOrder;
  // The kernel's formula where absent; at most 2^30.
  std::optional<uint64_t> min_free_kbytes = {};
  // The kernel's formula where absent. batch > 0; both at most 2^20.
  std::optional<PerCpuLimits> per_cpu_limits = {};
};

// Every page by its state (docs/invariants.md, P2).
struct PageCounts {
  PageCount managed;
  PageCount free;
  PageCount cached;
  PageCount isolated;

  PageCount allocated() const { return managed - free - cached - isolated; }
};

class PageAllocator {
 public:
  // All memory free, in zones DMA32 and Normal as far as they have pages.
  // InvalidArgument names the option that is out of bounds.
  static absl::StatusOr<std::unique_ptr<PageAllocator>> Create(
      const PageAllocatorOptions& options);

  PageAllocator(const PageAllocator&) = delete;
  PageAllocator& operator=(const PageAllocator&) = delete;

  // Takes a block for vCPU `cpu`, from zones up to `highest` (GFP_DMA32 is
  // kDma32: for devices that reach no further): from the highest zone that
  // stays above its low watermark; else from one that stays above min; else,
  // after the per-CPU lists were drained, once more. None if memory is out.
  // Safe from any thread; fastest where one thread at a time uses a cpu.
  // REQUIRES: 0 <= cpu < cpus(); order <= max_order().
  std::optional<Pfn> Allocate(int cpu, Order order,
                              ZoneType highest = ZoneType::kNormal) {
    return ToOptional(Take(cpu, order, highest));
  }

  // Frees a block on vCPU `cpu`, which need not be the one that allocated it.
  // REQUIRES: as Allocate; `pfn` is a block allocated at `order` (CHECKed).
  void Free(int cpu, Pfn pfn, Order order);

  // Gives all per-CPU pages back to their zones (drain_all_pages).
  void DrainPerCpuPages();

  // Sets the observer of every zone; see Zone::SetObserver.
  void SetObserver(FreeBlockObserver* observer, Order min_order = Order(0));

  int cpus() const { return cpus_; }
  Order max_order() const { return max_order_; }
  const PageMap& pages() const { return *pages_; }
  // The populated zones, lowest addresses first.
  std::span<const std::unique_ptr<Zone>> zones() const { return zones_; }
  // The zone whose span holds `pfn`. REQUIRES: one does (CHECKed).
  Zone& ZoneOf(Pfn pfn) const;

  // A consistent count only while no other thread is in the allocator.
  PageCounts Counts() const;
  // Free pages above the low watermarks, those in per-CPU lists left out: what
  // can be had without dipping into reserves.
  PageCount FreePagesAboveLow() const;

  // Checks every invariant of docs/invariants.md, P and Z, holding all locks.
  absl::Status CheckInvariants() const;

 private:
  PageAllocator(const PageAllocatorOptions& options,
                std::unique_ptr<PageMap> pages);

  PerCpuPages& per_cpu(int cpu, const Zone& zone) const {
    return *per_cpu_[static_cast<size_t>(cpu) * zones_.size() +
                     static_cast<size_t>(zone.index())];
  }
  // Allocate's attempts: above the low watermarks; above min; and above min
  // once more, with a look under the zone's lock.
  enum class Attempt { kLow, kMin, kLast };
  // These two return kNoPfn where Allocate returns none.
  Pfn Take(int cpu, Order order, ZoneType highest);
  Pfn Try(Attempt attempt, int cpu, Order order, ZoneType highest);
  static bool MayTake(Attempt attempt, const Zone& zone, Order order);

  const int cpus_;
  const Order max_order_;
  std::unique_ptr<PageMap> pages_;
  std::vector<std::unique_ptr<Zone>> zones_;
  // By cpu, then by zone.
  std::vector<std::unique_ptr<PerCpuPages>> per_cpu_;
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PAGE_ALLOCATOR_H_
