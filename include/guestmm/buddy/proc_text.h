#ifndef GUESTMM_BUDDY_PROC_TEXT_H_
#define GUESTMM_BUDDY_PROC_TEXT_H_

// The allocator's state as the text files in which a kernel tells it, for
// people and scripts that read those: lines, columns and spaces are those of
// Linux 5.3 on x86-64.
//
//   std::cout << BuddyInfo(*allocator);
//   Node 0, zone      DMA      0      0      0      0 …
//   Node 0, zone    DMA32      2      1      5      3 …

#include <string>

#include "guestmm/buddy/page_allocator.h"

namespace guestmm {

// /proc/buddyinfo: a line for each zone that has memory, with its free blocks
// of each order up to max_order(). The numbers of a line are of one moment.
std::string BuddyInfo(const PageAllocator& allocator);

// /proc/pagetypeinfo: free blocks of each order by migratetype, then pageblocks
// by migratetype; all of that once for each node that has memory. Blocks on
// their way offline are in the row Isolate; those isolated for the host are in
// none. Walks the free lists under the zones' locks, without the kernel's end
// at 100,000 blocks.
std::string PageTypeInfo(const PageAllocator& allocator);

// /proc/zoneinfo: a paragraph for each zone; for one without memory it ends
// with its protection. A snapshot. Left out is what there is none of here: what
// the kernel counts of LRU lists, slabs, files and the rest, numa_interleave,
// "vm stats threshold" and node_unreclaimable. No page is set aside at boot, so
// `present` is `managed`.
std::string ZoneInfo(const PageAllocator& allocator);

// /proc/vmstat: those of its lines that VmStat has, in its order, then VmStat's
// own. A snapshot.
std::string VmStatText(const PageAllocator& allocator);

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PROC_TEXT_H_
