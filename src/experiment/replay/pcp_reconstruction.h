#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_PCP_RECONSTRUCTION_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_PCP_RECONSTRUCTION_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/per_cpu_pages.h"
#include "guestmm/frame/migratetype.h"

namespace guestmm {

// What a real vCPU's lists of one zone must have held, as far as a trace tells
// (Linux 6.1): which of its pages went back to the zone, and when.
//
// A trace shows what leaves and enters a list, not the zone behind it. A page
// that was freed here and is allocated here was in the list all the time. One
// that comes from the zone shows that the list was empty and was refilled with
// a batch. What the others of that are may be supposed; for those that are not,
// places are kept, so that the list is as long as the real one. Both lie behind
// whatever is freed here later, and are the first to go.
class PcpReconstruction {
 public:
  struct Block {
    Pfn pfn;
    Order order;
    // It was supposed, and wrongly: the zone had it all the time.
    bool never_left = false;
  };
  using Blocks = std::vector<Block>;

  // REQUIRES: limits.batch > 0.
  explicit PcpReconstruction(PerCpuLimits limits);

  // Orders that are cached.
  static bool Caches(Order order) {
    return order.value() < PerCpuLists::kSmallOrders ||
           order == kPageblockOrder;
  }

  // A block is freed here: those that go to the zone for it, oldest first.
  void Free(Pfn pfn, Order order, MigrateType type, Blocks& back);
  // A block is allocated here that was freed here, or supposed, and is in the
  // lists: true, and it is not any more.
  bool Take(Pfn pfn, Order order, MigrateType type);
  // One is allocated here that was not: what was listed of its kind cannot have
  // been, and goes to the zone. Returns how many others the list was refilled
  // with, for which places are kept.
  uint64_t TakeUnlisted(Order order, MigrateType type, Blocks& back);
  // One of these others, to be handed out after those supposed before.
  // REQUIRES: a place is kept for it.
  void AssumeCached(Pfn pfn, Order order, MigrateType type);
  // So many pages are in the lists at first, no one knows which, nor in which
  // list. They are the first to go.
  void AddUnknown(uint64_t pages);
  // A block is allocated here that was one of those: it was in use neither, nor
  // free in the zone.
  void TakeUnknown(Order order);
  // Takes a block out, of whatever type its list is. False if it is not there.
  bool Remove(Pfn pfn, Order order);
  // A page of a block that is listed here turns up elsewhere: so the block had
  // gone to the zone, after what is older in its list. If it was only supposed,
  // it was another one.
  void EvictThrough(Pfn pfn, Order order, Blocks& back);

  uint64_t pages() const { return count_; }

 private:
  // Newest first.
  struct List {
    std::deque<Pfn> pfns;
    uint64_t supposed = 0;  // of them, the oldest
    uint64_t unknown = 0;   // places, older still

    bool IsAssumed(const std::deque<Pfn>::const_iterator& at) const {
      return static_cast<uint64_t>(pfns.end() - at) <= supposed;
    }
  };

  // Takes the newest known `pfn` out of the list: true if it was there.
  bool Erase(size_t index, Pfn pfn);
  // Takes the oldest known block out, which goes to the zone.
  void GiveBackOldest(size_t index, Blocks& back);
  void GiveBack(uint64_t pages, size_t first_list, Blocks& back);

  const PerCpuLimits limits_;
  std::array<List, PerCpuLists::kCount> lists_;
  uint64_t count_ = 0;  // pages, known or not
  uint64_t unknown_at_first_ = 0;
  uint32_t free_factor_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_PCP_RECONSTRUCTION_H_
