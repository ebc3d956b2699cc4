#ifndef GUESTMM_FRAME_VMSTAT_H_
#define GUESTMM_FRAME_VMSTAT_H_

#include <array>
#include <cstdint>

#include "guestmm/base/export.h"
#include "guestmm/frame/zone_type.h"

namespace GUESTMM_EXPORT guestmm {

// Events since the allocator's creation: counters of /proc/vmstat by the
// kernel's names, and alloc_…, which the kernel lacks.
struct VmStat {
  // Pages allocated, by their zone: pgalloc_dma, pgalloc_dma32, …
  std::array<uint64_t, kZoneTypes> pgalloc{};
  uint64_t pgfree = 0;  // pages
  // Requests that entered direct reclaim, by their preferred zone. (The kernel
  // counts by the request's highest zone, populated or not.)
  std::array<uint64_t, kZoneTypes> allocstall{};
  uint64_t pgsteal_direct = 0;  // pages that reclaimers freed for them

  // Requests by the node that served them: the preferred node (hit), or another
  // (a miss there, foreign on the preferred node); the vCPU's node (local), or
  // another (other).
  uint64_t numa_hit = 0;
  uint64_t numa_miss = 0;
  uint64_t numa_foreign = 0;
  uint64_t numa_local = 0;
  uint64_t numa_other = 0;

  // Requests that failed; of those, the requests that failed while memory was
  // isolated for the host ("premature OOM"), and the isolated pages, summed
  // over them; and requests that waited for isolated memory to return
  // (a request that is repeated after a wait counts each time it waits).
  uint64_t alloc_failed = 0;
  uint64_t alloc_failed_isolated = 0;
  uint64_t alloc_failed_isolated_pages = 0;
  uint64_t alloc_waited_isolated = 0;

  bool operator==(const VmStat&) const = default;
  VmStat& operator+=(const VmStat& other);
};

}  // namespace guestmm

#endif  // GUESTMM_FRAME_VMSTAT_H_
