// Breaks each invariant that CheckInvariants checks: a check that cannot fail
// checks nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/zone.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm::zone_invariants_test {
namespace {

using ::testing::HasSubstr;

constexpr MigrateType kMovable = MigrateType::kMovable;

// A zone makes its lists by type, then by order, ascending, behind the last
// page.
PageMap::Index ListOf(TinyZone& zone, int order, MigrateType type = kMovable) {
  return static_cast<PageMap::Index>(zone.pages().end().value()) +
         static_cast<PageMap::Index>(static_cast<int>(type) * Zone::kOrders +
                                     order);
}

// Makes `pfn` look free behind the zone's back: on a list that is no zone's.
void MakeFree(TinyZone& zone, uint64_t pfn, int order) {
  zone.pages().lists().Push(zone.pages().MakeLists(1), Pfn(pfn), Order(order),
                            ListEnd::kHead);
}

void ExpectViolation(const absl::Status& status, const std::string& text) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.ToString(), HasSubstr(text));
}

// Eight single pages and a block of eight: AAAAAAAAF-------
class ZoneInvariantsTest : public ::testing::Test {
 protected:
  ZoneInvariantsTest() { zone_.AllocatePages(8); }

  TinyZone zone_{16};
};

TEST_F(ZoneInvariantsTest, HoldAtFirst) {
  EXPECT_EQ(zone_.Picture(), "AAAAAAAAF-------");
  EXPECT_TRUE(zone_.CheckInvariants().ok());
}

TEST_F(ZoneInvariantsTest, P1ATailBelongsToABlock) {
  zone_.pages().SetTail(Pfn(3));
  ExpectViolation(zone_.CheckInvariants(), "P1: pfn 0x3 is a tail of no block");
}

TEST_F(ZoneInvariantsTest, P1ABlockHasNothingElseInside) {
  zone_.pages().SetAllocated(Pfn(9), Order(0), kMovable);
  ExpectViolation(zone_.CheckInvariants(),
                  "P1: pfn 0x9 is allocated, order 0 inside the block at pfn "
                  "0x8");
}

TEST_F(ZoneInvariantsTest, P1APageOfTheZoneIsNotOffline) {
  zone_.pages().SetOffline(Pfn(5));
  ExpectViolation(zone_.CheckInvariants(),
                  "P1: pfn 0x5 is in the zone but offline");
}

TEST_F(ZoneInvariantsTest, Z1ABlockIsAlignedToItsSize) {
  zone_.pages().SetAllocated(Pfn(3), Order(1), kMovable);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z1: block at pfn 0x3, allocated, order 1, is not aligned");
}

TEST_F(ZoneInvariantsTest, Z1ABlockIsInsideItsZone) {
  zone_.pages().SetAllocated(Pfn(0), Order(5), kMovable);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z1: block at pfn 0x0 leaves its zone's memory");
}

TEST_F(ZoneInvariantsTest, Z2BuddiesAreNotBothFree) {
  zone_.Free(2, 0);
  MakeFree(zone_, 3, 0);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z2: block at pfn 0x2, order 0, and its buddy are both free");
}

TEST_F(ZoneInvariantsTest, Z3AListHasFreeBlocksOnly) {
  zone_.pages().SetAllocated(Pfn(8), Order(3), kMovable);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: pfn 0x8 is on the list of free blocks of order 3 but is "
                  "allocated, order 3");
}

TEST_F(ZoneInvariantsTest, Z3AListHasBlocksOfItsOrderOnly) {
  zone_.pages().lists().Remove(Pfn(8));
  zone_.pages().lists().Push(ListOf(zone_, 2), Pfn(8), Order(3),
                             ListEnd::kHead);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: pfn 0x8 is on the list of free blocks of order 2 but is "
                  "free, order 3");
}

TEST_F(ZoneInvariantsTest, Z3AListHasAsManyBlocksAsCounted) {
  zone_.Free(0, 0);
  zone_.Free(2, 0);
  zone_.pages().lists().Remove(Pfn(0));
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: 1 blocks on the lists of order 0, 2 counted");
}

TEST_F(ZoneInvariantsTest, Z3AListHasNoMoreBlocksThanCounted) {
  zone_.pages().lists().Push(ListOf(zone_, 3), Pfn(0), Order(3),
                             ListEnd::kHead);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: more blocks on the lists of order 3 than the 1 counted");
}

TEST_F(ZoneInvariantsTest, Z3AListHasBlocksOfTheZoneOnly) {
  zone_.pages().lists().Push(ListOf(zone_, 3), Pfn(512), Order(3),
                             ListEnd::kHead);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: pfn 0x200 is on the list of free blocks of order 3 but "
                  "not in the zone");
}

TEST_F(ZoneInvariantsTest, Z3FreePagesAreOnAList) {
  MakeFree(zone_, 3, 0);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: 9 pages free by their states, 8 pages counted");
}

TEST_F(ZoneInvariantsTest, Z4IsolatedPagesAreCounted) {
  zone_.pages().SetIsolated(Pfn(3), Order(0));
  ExpectViolation(zone_.CheckInvariants(),
                  "Z4: 1 pages isolated by their states, 0 pages counted");
}

// Inserted into the list of order 4, it is still the first of list 3.
TEST_F(ZoneInvariantsTest, Z7NoBlockIsOnTwoLists) {
  zone_.pages().lists().Push(ListOf(zone_, 4), Pfn(8), Order(3),
                             ListEnd::kHead);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z7: pfn 0x8 does not link back to its predecessor");
}

// Such a list has a cycle; the check must end all the same.
TEST_F(ZoneInvariantsTest, Z7NoBlockIsOnAListTwice) {
  zone_.pages().lists().Push(ListOf(zone_, 3), Pfn(8), Order(3),
                             ListEnd::kHead);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z7: pfn 0x8 does not link back to its predecessor");
}

TEST_F(ZoneInvariantsTest, Z7AnEmptyListIsNotMarked) {
  zone_.pages().lists().Remove(Pfn(8));
  ExpectViolation(zone_.CheckInvariants(),
                  "Z7: the list of order 3, Movable, is marked but empty");
}

// From one type's list to another's: the count by order stays right.
// In a zone that has mixed types, since otherwise Z9 is violated first.
TEST_F(ZoneInvariantsTest, Z7AListInUseIsMarked) {
  zone_.Free(zone_.Allocate(0, MigrateType::kUnmovable)->value(), 0);
  ASSERT_EQ(zone_.CheckInvariants(), absl::OkStatus());
  zone_.pages().lists().Remove(Pfn(8));
  zone_.pages().lists().Push(ListOf(zone_, 3, MigrateType::kUnmovable), Pfn(8),
                             Order(3), ListEnd::kHead);
  ExpectViolation(
      zone_.CheckInvariants(),
      "Z7: the list of order 3, Unmovable, is in use but not marked");
}

TEST_F(ZoneInvariantsTest, Z9ABlockIsOnItsPageblocksList) {
  zone_.pages().lists().Remove(Pfn(8));
  zone_.pages().lists().Push(ListOf(zone_, 3, MigrateType::kUnmovable), Pfn(8),
                             Order(3), ListEnd::kHead);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z9: pfn 0x8 is on a list of type Unmovable, its pageblock "
                  "is Movable");
}

// Four pageblocks of eight pages; the first is all allocated.
class PageblockInvariantsTest : public ::testing::Test {
 protected:
  PageblockInvariantsTest() {
    for (int i = 0; i < 4; ++i) zone_.Allocate(3);
    for (const uint64_t pfn : {8, 16, 24}) zone_.Free(pfn, 3);
  }

  TinyZone zone_{{.span = {Pfn(0), Pfn(32)},
                  .memory = {{Pfn(0), Pfn(32)}},
                  .max_order = Order(4),
                  .pageblock_order = Order(3)}};
};

TEST_F(PageblockInvariantsTest, HoldAtFirst) {
  EXPECT_EQ(zone_.Picture(), "A-------F-------F---------------");
  EXPECT_EQ(zone_.Types(), "MMMM");
  EXPECT_TRUE(zone_.CheckInvariants().ok());
}

TEST_F(PageblockInvariantsTest, Z5AZonesPageblocksAreItsOwn) {
  zone_.pages().SetPageblock(Pfn(0), {.zone = 1});
  ExpectViolation(zone_.CheckInvariants(),
                  "Z5: the pageblock of pfn 0x0 is not in the zone");
}

TEST_F(PageblockInvariantsTest, Z6AFreeBlockIsIsolatedAsAWholeOrNot) {
  zone_.pages().SetPageblock(Pfn(24),
                             {.zone = 0, .type = MigrateType::kIsolate});
  ExpectViolation(zone_.CheckInvariants(),
                  "Z6: only part of the free block at pfn 0x10 is being "
                  "offlined");
}

TEST_F(PageblockInvariantsTest, Z6WhatIsFreeInAnIsolatedPageblockIsOnItsList) {
  zone_.pages().SetPageblock(Pfn(8),
                             {.zone = 0, .type = MigrateType::kIsolate});
  ExpectViolation(zone_.CheckInvariants(),
                  "Z6: pfn 0x8 is on a list of type Movable, its pageblock is "
                  "Isolate");
}

TEST_F(PageblockInvariantsTest, Z6IsolatedPageblocksAreCounted) {
  zone_.pages().SetPageblock(Pfn(0),
                             {.zone = 0, .type = MigrateType::kIsolate});
  ExpectViolation(zone_.CheckInvariants(),
                  "Z6: 1 pageblocks isolated, 0 counted");
}

// 16 pages, the first two taken from the zone as a batch: ACFF---...
class AllocatorInvariantsTest : public ::testing::Test {
 protected:
  AllocatorInvariantsTest() { allocator_->Allocate(0, Order(0)); }

  // Breaks the allocator's own map.
  PageMap& pages() { return const_cast<PageMap&>(allocator_->pages()); }

  std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create(
          {.memory = {{Pfn(0), Pfn(16)}},
           .min_free_kbytes = 0,
           .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}})
          .value();
};

TEST_F(AllocatorInvariantsTest, HoldAtFirst) {
  EXPECT_TRUE(pages().IsAllocated(Pfn(0), Order(0)));
  EXPECT_EQ(pages().Get(Pfn(1)), (PageInfo{PageState::kCached, Order(0)}));
  EXPECT_TRUE(allocator_->CheckInvariants().ok());
}

TEST_F(AllocatorInvariantsTest, P3APageOnAPerCpuListIsCached) {
  pages().SetAllocated(Pfn(1), Order(0), kMovable);
  ExpectViolation(allocator_->CheckInvariants(),
                  "P3: pfn 0x1 is on a per-CPU list but is allocated, order 0");
}

TEST_F(AllocatorInvariantsTest, P3ACachedPageIsOnAPerCpuList) {
  pages().SetCached(Pfn(0), Order(0));
  ExpectViolation(allocator_->CheckInvariants(),
                  "P3: 2 pages cached by their states, 1 on per-CPU lists");
}

TEST_F(AllocatorInvariantsTest, ViolationsOfAZoneAreFoundToo) {
  pages().SetOffline(Pfn(0));
  ExpectViolation(allocator_->CheckInvariants(), "P1: pfn 0x0");
}

}  // namespace
}  // namespace guestmm::zone_invariants_test
