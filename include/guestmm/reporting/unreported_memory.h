#ifndef GUESTMM_REPORTING_UNREPORTED_MEMORY_H_
#define GUESTMM_REPORTING_UNREPORTED_MEMORY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// The memory of a zone that the host may still back, and the queues in which it
// waits to be reported:
//
//   units      a bit for each: set if the host may back it
//   granules   a bit for each: set if the host maps it page by page
//   regions    blocks of the reporting order, each with the times at which it
//              was last used and queued, in at most one of two queues
//
// Each section of 128 MiB that has memory has both; a hole costs a pointer. The
// links of a queue are in its regions, so it uses no memory of its own. All
// functions but AddMemory and RemoveMemory take time that does not depend on
// the size of the zone.
//
// The host maps a *granule* at a touch, and discards *units*: a granule, or
// parts of it. A granule of which a part was discarded is *split*: the host
// maps its pages one by one, until it is discarded as a whole (HostLedger).
//
// Not thread-safe: used under the zone's lock.
class UnreportedMemory {
 public:
  // Milliseconds of a policy's clock; wraps after 49 days.
  using Time = uint32_t;

  enum class Queue : uint8_t { kNone, kSettling, kCold };

  struct Region {
    Time active = 0;  // when a part of it was last taken or freed
    Time queued = 0;  // when it was put at the end of its queue
    // The queue that it was last reported from.
    Queue reported_from = Queue::kNone;
    Queue queue = Queue::kNone;

   private:
    friend class UnreportedMemory;
    uint32_t previous_ = 0;
    uint32_t next_ = 0;
  };

  // REQUIRES: unit <= region <= kMaxOrder, unit <= granule <= kSectionOrder.
  UnreportedMemory(Order region, Order granule, Order unit);
  ~UnreportedMemory();
  UnreportedMemory(UnreportedMemory&&) noexcept;

  Order region_order() const { return region_order_; }
  bool Has(Pfn pfn) const {
    return SectionOf(pfn) < sections_.size() &&
           sections_[SectionOf(pfn)] != nullptr;
  }

  // Adds memory. The host may back all of it, and it is in no queue.
  void AddMemory(PfnRange range);
  // Removes memory, also from the queues.
  void RemoveMemory(PfnRange range);

  // REQUIRES for the rest: Has() is true for every page in the arguments.

  // True if the host may back all units of the pages. REQUIRES: the pages are
  // in one section.
  bool HasAll(PfnRange pages) const {
    const uint64_t* const words =
        sections_[SectionOf(pages.start)]->units.data();
    const size_t first = IndexOf(pages.start, unit_);
    const size_t last = IndexOf(pages.end - PageCount(1), unit_);
    size_t word = first / kBitsPerWord;
    const size_t end = last / kBitsPerWord;
    const uint64_t from_first = kAll << first % kBitsPerWord;
    const uint64_t to_last = kAll >> (kBitsPerWord - 1 - last % kBitsPerWord);
    if (word == end) return (~words[word] & from_first & to_last) == 0;
    uint64_t clear = (~words[word] & from_first) | (~words[end] & to_last);
    while (++word < end) clear |= ~words[word];
    return clear == 0;
  }
  // The pages that the host may map if `pages` are touched: also the rest of a
  // granule that is not split and of which it backs nothing. REQUIRES: the
  // pages are in one section.
  PfnRange MappedWith(PfnRange pages) const;
  // Records that the host may back the pages. Returns the number of units that
  // were clear until now. REQUIRES: the pages are in one section.
  uint64_t Mark(PfnRange pages);
  // Records that the host backs none of the units that are wholly in `range`,
  // which it discarded at once.
  void Clear(PfnRange range);
  // Marks all of each granule in `range` that is split and marked in part, so
  // that it is reported, and then mapped again, as a whole.
  void MarkSplit(PfnRange range) {
    if (unit_ < granule_) MarkSplitGranules(range);
  }
  // The first contiguous pages of `range` that the host may back: whole units,
  // clipped to `range`. None if there are none.
  std::optional<PfnRange> FindRun(PfnRange range) const;

  // The region that holds `pfn`.
  Region& region(Pfn pfn) {
    return sections_[SectionOf(pfn)]->regions[IndexOf(pfn, region_order_)];
  }
  const Region& region(Pfn pfn) const {
    return sections_[SectionOf(pfn)]->regions[IndexOf(pfn, region_order_)];
  }

  // The first page of the first region of a queue; none if the queue is empty.
  std::optional<Pfn> Head(Queue queue) const;
  // The number of regions in a queue.
  uint64_t Size(Queue queue) const { return list(queue).size; }
  // Moves the region of `pfn` to the end of `queue`, from any queue or none.
  void Enqueue(Pfn pfn, Queue queue, Time now);
  void Dequeue(Pfn pfn);

  // The memory that it uses, in bytes, itself included.
  size_t MemoryBytes() const;

 private:
  struct Section {
    std::vector<uint64_t> units;
    std::vector<bool> split;  // empty if a granule is a unit
    std::vector<Region> regions;
  };
  struct List {
    uint32_t first = kNone;
    uint32_t last = kNone;
    uint64_t size = 0;
  };
  static constexpr uint32_t kNone = ~uint32_t{0};

  static constexpr size_t kBitsPerWord = 64;
  static constexpr uint64_t kAll = ~uint64_t{0};

  static size_t SectionOf(Pfn pfn) {
    return static_cast<size_t>(pfn.value() >> kSectionOrder.value());
  }
  static size_t IndexOf(Pfn pfn, Order order) {
    return static_cast<size_t>((pfn - pfn.AlignDown(kSectionOrder)).value() >>
                               order.value());
  }
  // Calls visit(word, mask) for the units in [first, end) of a section,
  // until that returns false.
  template <typename Words, typename Visitor>
  static void ForEachWord(Words& words, size_t first, size_t end,
                          Visitor visit);
  // The same for all units that overlap `range`.
  template <typename Visitor>
  void ForEachWordOf(PfnRange range, Visitor visit);

  void MarkSplitGranules(PfnRange range);
  PfnRange GranuleOf(Pfn pfn) const {
    return PagesOf(pfn.AlignDown(granule_), granule_);
  }
  bool IsSplit(Pfn pfn) const {
    return sections_[SectionOf(pfn)]->split[IndexOf(pfn, granule_)];
  }
  void SetSplit(Pfn pfn, bool split) {
    sections_[SectionOf(pfn)]->split[IndexOf(pfn, granule_)] = split;
  }

  // Regions by number.
  uint32_t NumberOf(Pfn pfn) const {
    return static_cast<uint32_t>(pfn.value() >> region_order_.value());
  }
  Pfn FirstPage(uint32_t number) const {
    return Pfn(uint64_t{number} << region_order_.value());
  }
  Region& RegionOf(uint32_t number) { return region(FirstPage(number)); }
  List& list(Queue queue) { return lists_[static_cast<size_t>(queue)]; }
  const List& list(Queue queue) const {
    return lists_[static_cast<size_t>(queue)];
  }

  const Order region_order_;
  const Order granule_;
  const Order unit_;
  std::vector<std::unique_ptr<Section>> sections_;
  std::array<List, 3> lists_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_UNREPORTED_MEMORY_H_
