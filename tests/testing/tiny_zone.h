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
// the block before it; . offline. Each call takes the zone's lock.

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
#include "guestmm/buddy/zone.h"

namespace guestmm {

class TinyZone {
 public:
  // All of [0, pages) is memory.
  explicit TinyZone(uint64_t pages, Order max_order = kMaxOrder)
      : TinyZone(PfnRange{Pfn(0), Pfn(pages)}, {{Pfn(0), Pfn(pages)}},
                 max_order) {}

  TinyZone(PfnRange span, const std::vector<PfnRange>& memory,
           Order max_order = kMaxOrder)
      : pages_(PageMap::Create(span.end, Zone::kListHeads).value()),
        zone_({.span = span, .max_order = max_order}, *pages_) {
    for (const PfnRange& range : memory) zone_.AddMemory(range);
  }

  Zone& operator*() { return zone_; }
  Zone* operator->() { return &zone_; }
  PageMap& pages() { return *pages_; }

  std::optional<Pfn> Allocate(int order) {
    LockHolder hold(zone_.lock());
    return zone_.Allocate(Order(order));
  }
  // Allocates `count` single pages, which a fresh zone hands out in ascending
  // order.
  void AllocatePages(int count) {
    for (int i = 0; i < count; ++i) Allocate(0);
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

  // The free list of `order`, head first.
  std::vector<uint64_t> List(int order) {
    LockHolder hold(zone_.lock());
    std::vector<uint64_t> list;
    zone_.ForEachFreeBlock(Order(order),
                           [&](Pfn pfn) { list.push_back(pfn.value()); });
    return list;
  }

  // From the first page of the span to its last.
  std::string Picture() const {
    constexpr char kLetters[] = ".-FACI";
    std::string picture;
    for (Pfn pfn = zone_.span().start; pfn < zone_.span().end;
         pfn += PageCount(1)) {
      picture += kLetters[static_cast<size_t>(pages_->Get(pfn).state)];
    }
    return picture;
  }

 private:
  std::unique_ptr<PageMap> pages_;
  Zone zone_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_TINY_ZONE_H_
