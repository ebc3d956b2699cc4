#include "guestmm/frame/vmstat.h"

namespace guestmm {

VmStat& VmStat::operator+=(const VmStat& other) {
  for (size_t type = 0; type < kZoneTypes; ++type) {
    pgalloc[type] += other.pgalloc[type];
    allocstall[type] += other.allocstall[type];
  }
  pgfree += other.pgfree;
  pgsteal_direct += other.pgsteal_direct;
  numa_hit += other.numa_hit;
  numa_miss += other.numa_miss;
  numa_foreign += other.numa_foreign;
  numa_local += other.numa_local;
  numa_other += other.numa_other;
  alloc_failed += other.alloc_failed;
  alloc_failed_isolated += other.alloc_failed_isolated;
  alloc_failed_isolated_pages += other.alloc_failed_isolated_pages;
  alloc_waited_isolated += other.alloc_waited_isolated;
  return *this;
}

}  // namespace guestmm
