#ifndef GUESTMM_TESTS_TESTING_BUDDY_MODEL_H_
#define GUESTMM_TESTS_TESTING_BUDDY_MODEL_H_

// The allocator's rules, written down as plainly as the standard library
// allows and with no regard for speed: the oracle of the model tests. They are
// the kernel's (Linux 5.3 and 6.1, mm/page_alloc.c), not those of src/buddy.

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/migratetype.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_map.h"

namespace guestmm::buddy {

// A free block, by its first page and its order.
using FreeBlock = std::pair<uint64_t, int>;

class ZoneModel {
 public:
  struct Block {
    PageState state;
    int order;
    // Of an allocated block: what it was asked for as, by how many it is
    // pinned, whether its owner freed it.
    MigrateType as = MigrateType::kMovable;
    int pins = 0;
    bool freed = false;
  };
  struct Rules {
    int max_order;
    int pageblock_order;
    PlacementOptions placement;
  };
  // By order, heads first.
  using Lists = std::vector<std::list<uint64_t>>;

  explicit ZoneModel(const Rules& rules);

  // Memory, in the largest blocks that fit. Returns what each became.
  std::vector<FreeBlock> AddMemory(PfnRange range);
  void RemoveMemory(PfnRange range);

  bool WatermarkOk(int order, uint64_t mark) const;
  // A block for a request of `type`, or none; `mixing` as in Zone.
  std::optional<uint64_t> Allocate(int order, MigrateType type, Mixing mixing,
                                   PageState state);
  // Merges and lists the block at `pfn` on a list of `type`; what it became.
  FreeBlock Free(uint64_t pfn, MigrateType type, bool to_tail = false);
  FreeBlock Return(uint64_t pfn);
  // False, with no effect, where the min watermark or its pageblock forbids it.
  bool Isolate(uint64_t pfn);

  std::vector<MigrateType> IsolatePageblocks(PfnRange range);
  void RestorePageblocks(PfnRange range, const std::vector<MigrateType>& types);

  MigrateType TypeAt(uint64_t pfn) const {
    return pageblocks_.at(pfn >> rules_.pageblock_order);
  }
  bool Has(uint64_t pfn) const { return BlockOf(pfn) != blocks_.end(); }
  // Whether all pages of `range` are the zone's.
  bool HasAll(PfnRange range) const;
  // From the first page to behind the last; {0, 0} if there is none.
  PfnRange span() const;
  uint64_t managed() const;
  uint64_t PagesIn(PageState state) const;
  // Free to be allocated, and free on their way offline.
  uint64_t free() const;
  uint64_t offlining() const { return PagesIn(PageState::kFree) - free(); }
  // Every block by its first page, whatever its state.
  std::map<uint64_t, Block>& blocks() { return blocks_; }
  const std::map<uint64_t, Block>& blocks() const { return blocks_; }
  // Every pageblock's type, by its number.
  const std::map<uint64_t, MigrateType>& pageblocks() const {
    return pageblocks_;
  }
  const Lists& lists(MigrateType type) const {
    return lists_[static_cast<size_t>(type)];
  }

  Watermarks marks;
  LowmemReserve reserve{};
  uint64_t steals = 0;
  uint64_t stolen_pageblocks = 0;

 private:
  std::map<uint64_t, Block>::const_iterator BlockOf(uint64_t pfn) const;
  std::list<uint64_t>& List(int order, MigrateType type) {
    return lists_[static_cast<size_t>(type)][static_cast<size_t>(order)];
  }
  bool IsFree(uint64_t pfn, int order) const;
  void Unlist(uint64_t pfn);
  // Off its list and onto one of `type`.
  void Move(uint64_t pfn, MigrateType type);
  void SetType(uint64_t pfn, int order, MigrateType type);
  std::optional<uint64_t> TakeSmallest(int order, MigrateType type);
  bool Steal(int order, MigrateType type, Mixing mixing);
  void StealBlock(uint64_t pfn, MigrateType type, bool whole_pageblock);

  bool cold_to_tail() const { return rules_.placement.rules == Linux::k61; }

  Rules rules_;
  std::optional<Random> random_;
  std::map<uint64_t, Block> blocks_;
  std::map<uint64_t, MigrateType> pageblocks_;
  std::array<Lists, kMigrateTypes> lists_;
};

// One vCPU's blocks of one zone.
struct CpuListsModel {
  // By order, 0 to 3 and a pageblock's, and then by type; the block freed last
  // is in front.
  std::array<std::list<uint64_t>, 13> lists;
  int free_factor = 0;
};

class AllocatorModel {
 public:
  AllocatorModel(const PageAllocatorOptions& options, Order observed_from);

  std::optional<uint64_t> Allocate(int cpu, int order, const Gfp& gfp);
  void Free(int cpu, uint64_t pfn);
  void Pin(uint64_t pfn) { BlockAt(pfn).pins++; }
  void Unpin(int cpu, uint64_t pfn);
  void Drain();
  bool Isolate(uint64_t pfn);
  // The order the block has on its free list.
  int Return(uint64_t pfn);

  // The zone that all of `range` is in; null if there is none.
  ZoneModel* ZoneWithAll(PfnRange range);
  // False, with no effect but those of a drain, where something is in use.
  bool Offline(PfnRange range);
  void Online(size_t zone, PfnRange range);

  // By node, and then by type.
  const std::vector<ZoneModel>& zones() const { return zones_; }
  size_t ZoneOf(uint64_t pfn) const;
  // Pages in a vCPU's lists of a zone.
  uint64_t CachedPages(int cpu, size_t zone) const;
  uint64_t cached() const;

  // What the observer was told, in order, and how often it was woken.
  struct Told {
    std::vector<FreeBlock> freed;
    // Memory that came, and that went.
    std::vector<std::string> memory;
    int wakes = 0;
    bool operator==(const Told&) const = default;
  };
  const Told& told() const { return told_; }
  static std::string ToldOfMemory(bool online, size_t zone, PfnRange range);

  // What vmstat() is to say.
  const VmStat& vmstat() const { return vmstat_; }

  // Everything that decides what happens next, as a key.
  std::string State() const;

 private:
  enum class Keep { kLow, kMin, kNothing };

  CpuListsModel& CpuLists(int cpu, size_t zone) {
    return cpu_lists_[static_cast<size_t>(cpu) * zones_.size() + zone];
  }
  const CpuListsModel& CpuLists(int cpu, size_t zone) const {
    return cpu_lists_[static_cast<size_t>(cpu) * zones_.size() + zone];
  }
  ZoneModel::Block& BlockAt(uint64_t pfn) {
    return zones_[ZoneOf(pfn)].blocks().at(pfn);
  }
  size_t NodeOf(int cpu) const;
  bool IsCachedOrder(int order) const;
  size_t CpuListOf(int order, MigrateType type) const;
  int OrderOf(size_t cpu_list) const;
  // The zones that a request may use, first choice first.
  std::vector<size_t> Zonelist(int cpu, const Gfp& gfp) const;
  bool MayTake(const ZoneModel& zone, int order, const Gfp& gfp, Keep keep,
               size_t first_type) const;
  std::optional<uint64_t> TakeFrom(int cpu, size_t zone, int order,
                                   MigrateType type, Mixing mixing);
  std::optional<uint64_t> TryZones(int cpu, int order, const Gfp& gfp,
                                   Keep keep, Mixing mixing);
  // Frees to the zone and tells the observer; true if it heard of it.
  bool FreeToZone(uint64_t pfn, MigrateType type);
  bool Tell(const FreeBlock& block);
  // Frees `pages` cached pages or a few more; true as FreeToZone.
  bool GiveBack53(int cpu, size_t zone, uint64_t pages);
  bool GiveBack61(int cpu, size_t zone, uint64_t pages, size_t first);
  bool GiveBackOldest(int cpu, size_t zone, size_t list);
  void ZonesResized();

  const PageAllocatorOptions options_;
  const int pageblock_order_;
  const int observed_from_;
  size_t nodes_ = 1;
  std::vector<ZoneModel> zones_;
  std::vector<CpuListsModel> cpu_lists_;
  Told told_;
  VmStat vmstat_;
};

}  // namespace guestmm::buddy

#endif  // GUESTMM_TESTS_TESTING_BUDDY_MODEL_H_
