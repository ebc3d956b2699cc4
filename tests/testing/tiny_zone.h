#ifndef GUESTMM_TESTS_TESTING_TINY_ZONE_H_
#define GUESTMM_TESTS_TESTING_TINY_ZONE_H_

// A zone of a few pages with a page map of its own, whose state is a picture:
//
//   TinyZone zone(16);              // F---------------
//   zone.Allocate(0);               // AFF-F---F-------
//   EXPECT_EQ(zone.Picture(), "AFF-F---F-------");
//   EXPECT_THAT(zone.List(1), ElementsAre(2));
//
// One letter a page: F free, A allocated, C cached, I isolated; - the rest of
// the block before it; . offline. Types() is a picture of its pageblocks. Each
// call takes the zone's lock.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/frame/migratetype.h"

namespace guestmm {

class TinyZone {
 public:
  struct Options {
    // The state that the picture shows.
    PfnRange span;
    std::vector<PfnRange> memory = {};
    Order max_order = kMaxOrder;
    // Unset: 9, or max_order if that is less.
    std::optional<Order> pageblock_order = {};
    PlacementOptions placement = {};
  };

  explicit TinyZone(const Options& options)
      : span_(options.span),
        pages_(PageMap::Create(
                   {.end = options.span.end,
                    .pageblock_order = options.pageblock_order.value_or(
                        std::min(kPageblockOrder, options.max_order)),
                    // One more, for tests that break things.
                    .list_heads = Zone::kListHeads + 1})
                   .value()),
        zone_({.max_order = options.max_order, .placement = options.placement},
              *pages_) {
    for (const PfnRange& range : options.memory) zone_.AddMemory(range);
  }
  // All of [0, pages) is memory.
  explicit TinyZone(uint64_t pages, Order max_order = kMaxOrder)
      : TinyZone(PfnRange{Pfn(0), Pfn(pages)}, {{Pfn(0), Pfn(pages)}},
                 max_order) {}
  TinyZone(PfnRange span, const std::vector<PfnRange>& memory,
           Order max_order = kMaxOrder)
      : TinyZone(
            Options{.span = span, .memory = memory, .max_order = max_order}) {}

  Zone& operator*() { return zone_; }
  Zone* operator->() { return &zone_; }
  PageMap& pages() { return *pages_; }

  std::optional<Pfn> Allocate(int order,
                              MigrateType type = MigrateType::kMovable,
                              Mixing mixing = Mixing::kAllow) {
    LockHolder hold(zone_.lock());
    return zone_.Allocate(Order(order), type, mixing);
  }
  // Allocates `count` single pages, in ascending order in a fresh zone.
  void AllocatePages(int count, MigrateType type = MigrateType::kMovable) {
    for (int i = 0; i < count; ++i) Allocate(0, type);
  }
  FreeBlockObserver* Free(uint64_t pfn, int order) {
    LockHolder hold(zone_.lock());
    return zone_.Free(Pfn(pfn), Order(order));
  }
  std::optional<IsolatedBlock> Isolate(uint64_t pfn) {
    LockHolder hold(zone_.lock());
    return zone_.Isolate(Pfn(pfn));
  }
  Order Return(IsolatedBlock block) {
    LockHolder hold(zone_.lock());
    return zone_.Return(std::move(block));
  }
  std::optional<Order> FreeBlockAt(uint64_t pfn) {
    LockHolder hold(zone_.lock());
    return zone_.FreeBlockAt(Pfn(pfn));
  }
  absl::Status CheckInvariants() {
    LockHolder hold(zone_.lock());
    return zone_.CheckInvariants();
  }

  // The free list of `order` and `type`, head first.
  std::vector<uint64_t> List(int order,
                             MigrateType type = MigrateType::kMovable) {
    LockHolder hold(zone_.lock());
    std::vector<uint64_t> list;
    zone_.ForEachFreeBlock(Order(order), type,
                           [&](Pfn pfn) { list.push_back(pfn.value()); });
    return list;
  }

  // From the first to the last page of the span.
  std::string Picture() const {
    constexpr char kLetters[] = ".-FACI";
    std::string picture;
    for (Pfn pfn = span_.start; pfn < span_.end; pfn += PageCount(1)) {
      picture += kLetters[static_cast<size_t>(pages_->Get(pfn).state)];
    }
    return picture;
  }

  // One letter per pageblock: U unmovable, M movable, R reclaimable, H reserved
  // for atomic requests, I being offlined; . not in the zone.
  std::string Types() const {
    constexpr char kLetters[] = "UMRHI";
    std::string types;
    const Order order = pages_->pageblock_order();
    for (Pfn pfn = span_.start.AlignDown(order); pfn < span_.end;
         pfn += order.pages()) {
      const PageMap::Pageblock block = pages_->pageblock(pfn);
      types += block.zone == PageMap::Pageblock::kNoZone
                   ? '.'
                   : kLetters[static_cast<size_t>(block.type)];
    }
    return types;
  }

 private:
  PfnRange span_;
  std::unique_ptr<PageMap> pages_;
  Zone zone_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_TINY_ZONE_H_
