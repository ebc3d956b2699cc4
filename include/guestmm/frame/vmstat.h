#ifndef GUESTMM_FRAME_VMSTAT_H_
#define GUESTMM_FRAME_VMSTAT_H_

#include <array>
#include <cstdint>

#include "guestmm/frame/zone_type.h"

namespace guestmm {

// What the allocator counted since it was made: events, by the names of
// /proc/vmstat where the kernel has them, and three of our own.
struct VmStat {
  // Pages allocated, by the zone they came from: pgalloc_dma, pgalloc_dma32, …
  std::array<uint64_t, kZoneTypes> pgalloc{};
  uint64_t pgfree = 0;  // pages
  // Requests that had to reclaim, by the first zone they looked in. (The kernel
  // counts by the highest that they could use, populated or not.)
  std::array<uint64_t, kZoneTypes> allocstall{};
  uint64_t pgsteal_direct = 0;  // pages that reclaimers freed for them

  // Requests, by where they were served: on the node asked for, on another in
  // its place (counted there as a miss, and on the one asked for as foreign),
  // on the vCPU's own, on another than the vCPU's.
  uint64_t numa_hit = 0;
  uint64_t numa_miss = 0;
  uint64_t numa_foreign = 0;
  uint64_t numa_local = 0;
  uint64_t numa_other = 0;

  // Requests that failed; those among them that found memory isolated for the
  // host ("premature OOM"), and how many pages that was, added up; and requests
  // that waited for isolated memory to come back.
  uint64_t alloc_failed = 0;
  uint64_t alloc_failed_isolated = 0;
  uint64_t alloc_failed_isolated_pages = 0;
  uint64_t alloc_waited_isolated = 0;

  bool operator==(const VmStat&) const = default;
  VmStat& operator+=(const VmStat& other);
};

}  // namespace guestmm

#endif  // GUESTMM_FRAME_VMSTAT_H_
