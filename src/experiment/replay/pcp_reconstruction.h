#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_PCP_RECONSTRUCTION_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_PCP_RECONSTRUCTION_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/per_cpu_marks.h"
#include "guestmm/buddy/per_cpu_pages.h"
#include "guestmm/frame/migratetype.h"
#include "src/experiment/replay/listed_blocks.h"

namespace guestmm {

// The per-CPU lists that a real vCPU had of one zone, reconstructed
// from a trace: which blocks were listed, and when they were drained to the
// zone.
//
// The tracepoints show what vCPUs allocate and free, not what moves between a
// list and the zone. Three rules show most of it:
//
//   1. A block freed by this vCPU is listed until PerCpuMarks drain it, the
//      oldest first. If this vCPU allocates it again, it was listed all along.
//   2. A block allocated here that is not listed came from the zone, so the
//   list
//      was empty and was refilled with a batch. The rest of the batch is listed
//      as placeholders: their number is known, their identity is not.
//   3. A listed block that another vCPU allocates, or that is allocated in
//   other
//      bounds, had been drained before, together with all older blocks of its
//      list.
//
// The caller may identify a placeholder with the block that the zone most
// likely handed out (Assume). If that block turns up elsewhere, the assumption
// was wrong: it never left the zone, and its placeholder stays.
//
// For example, of order 0 with a batch of 4 (newest first, ? a placeholder, (n)
// an assumed block):
//
//   event                       call                           list
//   allocate 100: not listed    Refill -> 3                    ? ? ?
//   101, 102 are free behind it Assume(101), Assume(102)       (101) (102) ?
//   allocate 101                TakeListed(101) -> true        (102) ?
//   free 7                      Free(7)                        7 (102) ?
//   vCPU 1 allocates 102        DrainThrough(102): it never    7 ? ?
//                               left the zone
//   allocate 7                  TakeListed(7) -> true          ? ?
//   free 8                      Free(8)                        8 ? ?
//   allocate 50, 51: not listed Refill -> 0: placeholders      8
//   allocate 52: not listed     Refill -> 3, drains 8          ? ? ?
class PcpReconstruction {
 public:
  // A block that moves from the lists to the zone.
  struct Block {
    Pfn pfn;
    Order order;
    // It was assumed to be listed, wrongly: the zone had it all along. As
    // ListedBlocks::Block.
    bool never_left_zone = false;
    std::optional<Order> reported = {};
  };
  using Blocks = std::vector<Block>;

  // Keeps its blocks in `blocks`, which must outlive this. REQUIRES:
  // limits.batch > 0.
  PcpReconstruction(KernelVersion version, PerCpuLimits limits,
                    ListedBlocks& blocks);

  // True for the orders with per-CPU lists in 6.1: 0 to 3, and a pageblock's.
  static bool Caches(Order order) {
    return order.value() < PerCpuLists::kSmallOrders ||
           order == kPageblockOrder;
  }

  // The zone's size has changed. Keeps what the lists hold and have learnt.
  // REQUIRES: limits.batch > 0.
  void SetLimits(PerCpuLimits limits) { marks_.SetLimits(limits); }

  // Below, `order` must be one that Caches(), and blocks that move to the zone
  // are appended to `drained`, the oldest of a list first.

  // Seeds the lists with `pages` pages of unknown identity and list (the count
  // in zoneinfo). They are drained first.
  void Seed(uint64_t pages);
  // Identifies a block that was listed from the start, older than all in its
  // list. Its pages are seeded ones, or more if none is left.
  void Identify(Pfn pfn, Order order, MigrateType type);
  // Starts from a recorded high mark (PerCpuMarks).
  void set_high(uint32_t high) { marks_.set_high(high); }

  // Lists a block that this vCPU freed, and drains what exceeds the marks.
  void Free(Pfn pfn, Order order, MigrateType type, ZonePressure pressure,
            Blocks& drained);

  // This vCPU allocates a block. True if it was listed, which it no longer is.
  bool TakeListed(Pfn pfn, Order order, MigrateType type);

  // This vCPU allocated a block of this order and type from the zone. Drains
  // assumed blocks, which would have been handed out first, as never having
  // left the zone. If a placeholder remains, the block was that one: returns 0.
  // Else the list was empty: drains it, and returns the number of placeholders
  // that the refill left.
  uint64_t Refill(Order order, MigrateType type, ZonePressure pressure,
                  Blocks& drained);

  // Identifies a placeholder of the last refill with a block, to be handed out
  // after those assumed before it. `reported` as in ListedBlocks::Block.
  // REQUIRES: the list has a placeholder.
  void Assume(Pfn pfn, Order order, MigrateType type,
              std::optional<Order> reported = {});

  // This vCPU allocated a seeded page: one neither in use, nor listed, nor free
  // in the zone. No effect if none is left.
  void TakeSeeded(Order order);

  // True if the block is in one of these lists.
  bool Lists(ListedBlocks::Index block) const {
    const ListedBlocks::Index list = blocks_[block].list;
    return first_list_ <= list && list < first_list_ + PerCpuLists::kCount;
  }
  // REQUIRES for both: these Lists() the block.
  //
  // Removes the block from its list.
  void Remove(ListedBlocks::Index block);
  // The block was seen outside of the lists. Drains it and all older blocks of
  // its list; if it was assumed, it alone, as never having left the zone.
  void DrainThrough(ListedBlocks::Index block, Blocks& drained);

  // Drains what the kernel does once a second.
  void Decay(Blocks& drained);

  // Pages listed, placeholders and seeded pages included.
  uint64_t pages() const { return pages_; }

 private:
  // Beside the identified blocks, the oldest of which are assumed.
  struct List {
    uint64_t assumed = 0;
    uint64_t placeholders = 0;  // older than all identified blocks
  };

  ListedBlocks::Index ListOf(size_t index) const {
    return first_list_ + static_cast<ListedBlocks::Index>(index);
  }
  // Removes a block of the list `index`, and returns it.
  ListedBlocks::Block Take(size_t index, ListedBlocks::Index block);
  // Drains the oldest identified block of a list. False if it has none.
  bool DrainOldest(size_t index, Blocks& drained);
  // Drains `pages` pages as free_pcppages_bulk does: seeded pages, then each
  // list until it is empty, from `first_list` on.
  void Drain(uint64_t pages, size_t first_list, Blocks& drained);

  PerCpuMarks marks_;
  ListedBlocks& blocks_;
  // The first of PerCpuLists::kCount, by PerCpuLists::IndexOf.
  const ListedBlocks::Index first_list_;
  std::array<List, PerCpuLists::kCount> lists_;
  uint64_t pages_ = 0;
  uint64_t seeded_pages_ = 0;  // of pages_
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_PCP_RECONSTRUCTION_H_
