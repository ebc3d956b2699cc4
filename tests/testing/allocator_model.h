#ifndef GUESTMM_TESTS_TESTING_ALLOCATOR_MODEL_H_
#define GUESTMM_TESTS_TESTING_ALLOCATOR_MODEL_H_

// A model of PageAllocator, on top of the zones of zone_model.h: the other half
// of the oracle.

#include <array>
#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "tests/testing/zone_model.h"

namespace guestmm::buddy {

// One vCPU's blocks of one zone.
struct CpuListsModel {
  // By order (0 to 3 and the pageblock order), then by type; the block freed
  // last is in front.
  std::array<std::list<uint64_t>, 14> lists;
  int free_factor = 0;  // 6.1
  // 6.12
  int64_t high = 0;
  int64_t free_count = 0;
  int alloc_factor = 0;
  bool previous_free_high_order = false;
};

class AllocatorModel {
 public:
  AllocatorModel(const PageAllocatorOptions& options, Order observed_from);

  std::optional<uint64_t> Allocate(int cpu, int order, const Gfp& gfp);
  void Free(int cpu, uint64_t pfn);
  void Pin(uint64_t pfn) { BlockAt(pfn).pins++; }
  void Unpin(int cpu, uint64_t pfn);
  void Drain();
  // As once a second on `cpu`.
  void Refresh(int cpu);
  bool Isolate(uint64_t pfn);
  // The block's order on its free list.
  int Return(uint64_t pfn, ReturnTo to);
  void Mark(uint64_t pfn) { zones_[ZoneOf(pfn)].Mark(pfn); }
  void Rotate(uint64_t pfn) { zones_[ZoneOf(pfn)].Rotate(pfn); }

  // The zone that contains all of `range`; null if there is none.
  ZoneModel* ZoneWithAll(PfnRange range);
  // False, with no effect except that of a drain, if a page is in use.
  bool Offline(PfnRange range);
  void Online(size_t zone, PfnRange range);

  // By node, then by type.
  const std::vector<ZoneModel>& zones() const { return zones_; }
  size_t ZoneOf(uint64_t pfn) const;
  // Pages on a vCPU's lists of a zone.
  uint64_t CachedPages(int cpu, size_t zone) const;
  uint64_t cached() const;
  // The high mark of those lists.
  uint64_t High(int cpu, size_t zone) const {
    return static_cast<uint64_t>(CpuLists(cpu, zone).high);
  }

  // Blocks taken off a zone's lists together, and the free pages afterwards.
  struct Taken {
    size_t zone;
    std::vector<uint64_t> blocks;
    int order;
    uint64_t free_after;
    bool operator==(const Taken&) const = default;
  };
  // The observer's notifications, in order, and the number of wakes.
  struct Notifications {
    std::vector<FreeBlock> freed;
    std::vector<Taken> taken;
    // Memory brought online and offline.
    std::vector<std::string> memory;
    int wakes = 0;
    bool operator==(const Notifications&) const = default;
  };
  const Notifications& notifications() const { return notifications_; }
  void ClearNotifications() { notifications_ = {}; }
  static std::string MemoryEvent(bool online, size_t zone, PfnRange range);

  // The expected vmstat().
  const VmStat& vmstat() const { return vmstat_; }

  // The state that decides all further behaviour, as a key.
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
  // The zones that a request may use, the preferred one first.
  std::vector<size_t> Zonelist(int cpu, const Gfp& gfp) const;
  bool MayTake(const ZoneModel& zone, int order, const Gfp& gfp, Keep keep,
               size_t first_type) const;
  // Takes up to `count` blocks off the zone's free lists.
  std::vector<uint64_t> Take(size_t zone, uint64_t count, int order,
                             MigrateType type, Mixing mixing, PageState state);
  std::optional<uint64_t> TakeFrom(int cpu, size_t zone, int order,
                                   MigrateType type, Mixing mixing);
  std::optional<uint64_t> TryZones(int cpu, int order, const Gfp& gfp,
                                   Keep keep, Mixing mixing);
  // The blocks to take for an empty list.
  uint64_t RefillOf(int cpu, size_t zone, int order);
  // 6.12: notes that a request finds the zone below its high watermark.
  void CheckHigh(ZoneModel& zone, int order, size_t first_type) const;
  // What follows once a block was added to a list. True if the observer must be
  // woken.
  bool AfterFree(int cpu, size_t zone, int order, size_t list);
  bool AfterFree61(int cpu, size_t zone, int order, size_t list);
  bool AfterFree612(int cpu, size_t zone, int order, size_t list);
  // Frees to the zone and notifies the observer; true if it must be woken.
  bool FreeToZone(uint64_t pfn, MigrateType type);
  bool Notify(const FreeBlock& block);
  // Frees `pages` cached pages or a few more. Returns as FreeToZone.
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
  Notifications notifications_;
  VmStat vmstat_;
};

}  // namespace guestmm::buddy

#endif  // GUESTMM_TESTS_TESTING_ALLOCATOR_MODEL_H_
