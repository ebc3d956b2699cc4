#ifndef GUESTMM_SRC_SIM_FOLLOWED_PER_CPU_H_
#define GUESTMM_SRC_SIM_FOLLOWED_PER_CPU_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/migratetype.h"
#include "guestmm/buddy/per_cpu_pages.h"

namespace guestmm {

// What a real vCPU's lists of one zone must have held, as far as a trace tells
// (Linux 6.1): which of its pages went back to the zone, and when.
//
// A trace shows what leaves and enters a list, not the zone behind it. A page
// that was freed here and is allocated here was in the list all the time. One
// that comes from the zone shows that the list was empty and was refilled with
// a batch, of which the others are unknown: places for them are kept, so that
// the list is as long as the real one, and are the first to go.
class FollowedPerCpu {
 public:
  struct Block {
    Pfn pfn;
    Order order;
  };
  using Blocks = std::vector<Block>;

  explicit FollowedPerCpu(PerCpuLimits limits) : limits_(limits) {}

  // Orders that are cached.
  static bool Caches(Order order, Order pageblock_order) {
    return order.value() < kSmallOrders || order == pageblock_order;
  }

  // A block is freed here: those that go to the zone for it, oldest first.
  void Free(Pfn pfn, Order order, MigrateType type, Blocks& back);
  // A block is allocated that was freed here, and is in the lists: true, and it
  // is not any more.
  bool Take(Pfn pfn, Order order, MigrateType type);
  // One is allocated here that was not: what was listed of its kind cannot have
  // been, and goes to the zone.
  void TakeUnlisted(Order order, MigrateType type, Blocks& back);
  // So many pages are in the lists at first, no one knows which, nor in which
  // list. They are the first to go.
  void AddUnknown(uint64_t pages);
  // A block is allocated here that was one of those: it was in use neither, nor
  // free in the zone.
  void TakeUnknown(Order order);
  // Takes a block out, of whatever type its list is. False if it is not there.
  bool Remove(Pfn pfn, Order order);
  // Another vCPU allocates a block that is listed here: so it had gone to the
  // zone, and what is older in its list before it.
  void GoneBefore(Pfn pfn, Order order, Blocks& back);

  uint64_t pages() const { return count_; }

 private:
  static constexpr int kSmallOrders = 4;
  static constexpr size_t kPageblockList = size_t{kSmallOrders} * kRequestTypes;
  static constexpr size_t kLists = kPageblockList + 1;

  // Newest first.
  struct List {
    std::deque<Pfn> pfns;
    uint64_t unknown = 0;
  };

  static size_t IndexOf(Order order, MigrateType type);
  static Order OrderOf(size_t list);
  // Takes the newest known `pfn` out of the list: true if it was there.
  bool Erase(size_t index, Pfn pfn);
  void GiveBack(uint64_t pages, size_t first_list, Blocks& back);

  const PerCpuLimits limits_;
  std::array<List, kLists> lists_;
  uint64_t count_ = 0;  // pages, known or not
  uint64_t unknown_at_first_ = 0;
  uint32_t free_factor_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_SIM_FOLLOWED_PER_CPU_H_
