#ifndef GUESTMM_BUDDY_PROC_TEXT_H_
#define GUESTMM_BUDDY_PROC_TEXT_H_

// The allocator's state as the text of /proc files, for people and scripts that
// read those. Lines, columns and spaces are those of Linux 5.3 on x86-64.
//
//   std::cout << BuddyInfo(*allocator);
//   Node 0, zone      DMA      0      0      0      0 …
//   Node 0, zone    DMA32      2      1      5      3 …

#include <string>

#include "guestmm/base/export.h"
#include "guestmm/buddy/page_allocator.h"

namespace GUESTMM_EXPORT guestmm {

// /proc/buddyinfo: a line per zone that has memory: its free blocks of each
// order up to max_order(). Each line is a consistent snapshot.
std::string BuddyInfo(const PageAllocator& allocator);

// /proc/pagetypeinfo: free blocks of each order by migratetype, then pageblocks
// by migratetype, for each node that has memory. Blocks that are being offlined
// are in the row Isolate; blocks isolated for the host are in no row. Walks the
// free lists under the zones' locks, without the kernel's limit of 100,000
// blocks.
std::string PageTypeInfo(const PageAllocator& allocator);

// /proc/zoneinfo: a paragraph per zone; that of a zone without memory ends with
// its protection. A snapshot. Lines without a counterpart here are left out:
// counters of LRU lists, slabs, files and the like, numa_interleave, "vm stats
// threshold" and node_unreclaimable. No page is reserved at boot, so `present`
// equals `managed`.
std::string ZoneInfo(const PageAllocator& allocator);

// /proc/vmstat: the lines that VmStat has, in the kernel's order, then VmStat's
// own counters. A snapshot.
std::string VmStatText(const PageAllocator& allocator);

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PROC_TEXT_H_
