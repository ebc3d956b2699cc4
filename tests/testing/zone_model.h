#ifndef GUESTMM_TESTS_TESTING_ZONE_MODEL_H_
#define GUESTMM_TESTS_TESTING_ZONE_MODEL_H_

// A zone's rules, written as plainly as possible and without regard for speed:
// half of the oracle of the model tests. They follow the kernel (Linux 5.3 and
// 6.1, mm/page_alloc.c), not src/buddy.

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/frame/migratetype.h"

namespace guestmm::buddy {

// A free block: its first page and its order.
using FreeBlock = std::pair<uint64_t, int>;

class ZoneModel {
 public:
  struct Block {
    PageState state;
    int order;
    // For an allocated block: the request's type, the number of pins, whether
    // its owner has freed it.
    MigrateType as = MigrateType::kMovable;
    int pins = 0;
    bool freed = false;
    // For a free block: marked as reported.
    bool reported = false;
  };
  struct Rules {
    int max_order;
    int pageblock_order;
    PlacementOptions placement;
  };
  // By order, heads first.
  using Lists = std::vector<std::list<uint64_t>>;

  explicit ZoneModel(const Rules& rules);

  // Adds memory, in the largest blocks that fit. Returns the merged blocks.
  std::vector<FreeBlock> AddMemory(PfnRange range);
  void RemoveMemory(PfnRange range);

  bool WatermarkOk(int order, uint64_t mark) const;
  // Allocates a block for a request of `type`; `mixing` as in Zone.
  std::optional<uint64_t> Allocate(int order, MigrateType type, Mixing mixing,
                                   PageState state);
  // Merges the block at `pfn` and inserts it into a list of `type`; returns the
  // merged block.
  FreeBlock Free(uint64_t pfn, MigrateType type, bool to_tail = false);
  FreeBlock Return(uint64_t pfn, ReturnTo to);
  // False, with no effect, if the min watermark or the pageblock forbids it.
  bool Isolate(uint64_t pfn);

  // The free block that contains `pfn`.
  std::optional<FreeBlock> FreeBlockAround(uint64_t pfn) const;
  // The type of the list that holds the free block at `pfn`; it may differ from
  // its pageblock's.
  MigrateType ListTypeOf(uint64_t pfn) const;
  // Rotates the list so that the block is its first.
  void Rotate(uint64_t pfn);
  void Mark(uint64_t pfn) { blocks_.at(pfn).reported = true; }

  std::vector<MigrateType> IsolatePageblocks(PfnRange range);
  void RestorePageblocks(PfnRange range, const std::vector<MigrateType>& types);

  MigrateType TypeAt(uint64_t pfn) const {
    return pageblocks_.at(pfn >> rules_.pageblock_order);
  }
  bool Has(uint64_t pfn) const { return BlockOf(pfn) != blocks_.end(); }
  // True if all pages of `range` are in the zone.
  bool HasAll(PfnRange range) const;
  // From the first page to one past the last; {0, 0} if there is none.
  PfnRange span() const;
  uint64_t managed() const;
  uint64_t PagesIn(PageState state) const;
  // Pages that are free, and pages that are free but being offlined.
  uint64_t free() const;
  uint64_t offlining() const { return PagesIn(PageState::kFree) - free(); }
  // Every block, by its first page, whatever its state.
  std::map<uint64_t, Block>& blocks() { return blocks_; }
  const std::map<uint64_t, Block>& blocks() const { return blocks_; }
  // The type of every pageblock, by its number.
  const std::map<uint64_t, MigrateType>& pageblocks() const {
    return pageblocks_;
  }
  const Lists& lists(MigrateType type) const {
    return lists_[static_cast<size_t>(type)];
  }

  Watermarks marks;
  LowmemReserve reserve{};
  bool below_high = false;  // 6.12: a request found too little free
  uint64_t steals = 0;
  uint64_t stolen_pageblocks = 0;

 private:
  std::map<uint64_t, Block>::const_iterator BlockOf(uint64_t pfn) const;
  std::list<uint64_t>& List(int order, MigrateType type) {
    return lists_[static_cast<size_t>(type)][static_cast<size_t>(order)];
  }
  bool IsFree(uint64_t pfn, int order) const;
  void Unlist(uint64_t pfn);
  // Moves a block to a list of `type`.
  void Move(uint64_t pfn, MigrateType type);
  void SetType(uint64_t pfn, int order, MigrateType type);
  std::optional<uint64_t> TakeSmallest(int order, MigrateType type);
  bool Steal(int order, MigrateType type, Mixing mixing);
  void StealBlock(uint64_t pfn, MigrateType type, bool whole_pageblock);

  bool cold_to_tail() const {
    return rules_.placement.rules != KernelVersion::kV5_3;
  }

  Rules rules_;
  std::optional<Random> random_;
  std::map<uint64_t, Block> blocks_;
  std::map<uint64_t, MigrateType> pageblocks_;
  std::array<Lists, kMigrateTypes> lists_;
};

}  // namespace guestmm::buddy

#endif  // GUESTMM_TESTS_TESTING_ZONE_MODEL_H_
