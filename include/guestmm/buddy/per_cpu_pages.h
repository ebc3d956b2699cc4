#ifndef GUESTMM_BUDDY_PER_CPU_PAGES_H_
#define GUESTMM_BUDDY_PER_CPU_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/zone.h"

namespace guestmm {

// How many single pages a per-CPU list holds, and how many it takes from or
// gives to its zone at a time.
struct PerCpuLimits {
  uint32_t batch = 0;
  uint32_t high = 0;
};

// Linux's choice for a zone of `managed` pages: 63 and 378 from 1 GiB upwards
// (Linux 5.3, zone_batchsize, pageset_set_batch).
PerCpuLimits DefaultPerCpuLimits(PageCount managed);

// One vCPU's cache of one zone's single pages (struct per_cpu_pages, with the
// lock that Linux gave it in 6.0). The page freed last is handed out first; the
// one freed longest ago goes back to the zone first.
//
// Its lock nests outside its zone's.
class PerCpuPages {
 public:
  // REQUIRES: limits.batch > 0; both limits at most 2^20.
  PerCpuPages(Zone& zone, PageMap& pages, PerCpuLimits limits);
  PerCpuPages(const PerCpuPages&) = delete;
  PerCpuPages& operator=(const PerCpuPages&) = delete;

  // A page, after refilling from the zone where the list is empty. None if the
  // zone has none either.
  std::optional<Pfn> Allocate() ABSL_LOCKS_EXCLUDED(lock_, zone_.lock()) {
    return ToOptional(Take());
  }

  // Takes a page in; at the high mark a batch goes to the zone. Returns the
  // observer to Wake, or null.
  // REQUIRES: a single page, allocated from this zone (CHECKed).
  [[nodiscard]] FreeBlockObserver* Free(Pfn pfn)
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());

  // Gives every page to the zone. Safe from any thread. Returns as Free.
  [[nodiscard]] FreeBlockObserver* Drain()
      ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());

  Zone& zone() const { return zone_; }
  PerCpuLimits limits() const { return limits_; }
  PageCount cached_pages() const ABSL_LOCKS_EXCLUDED(lock_);

  // For an invariant check that must see all lists at rest.
  SpinLock& lock() const ABSL_LOCK_RETURNED(lock_) { return lock_; }
  PageCount CheckedCount(absl::Status& status) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

 private:
  // The `i`th page from the one freed last.
  uint32_t& At(uint32_t i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return ring_[(first_ + i) & (ring_.size() - 1)];
  }
  // A page, or kNoPfn.
  Pfn Take() ABSL_LOCKS_EXCLUDED(lock_, zone_.lock());
  // False if the zone has no page. REQUIRES: the list is empty.
  bool Refill() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  FreeBlockObserver* GiveOldest(uint32_t count)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  Zone& zone_;
  PageMap& pages_;
  const PerCpuLimits limits_;
  mutable SpinLock lock_;
  // A double-ended queue in a ring of a power of two; 32-bit pfns as in the
  // page map.
  std::vector<uint32_t> ring_ ABSL_GUARDED_BY(lock_);
  uint32_t first_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t count_ ABSL_GUARDED_BY(lock_) = 0;
  std::vector<Pfn> batch_ ABSL_GUARDED_BY(lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PER_CPU_PAGES_H_
