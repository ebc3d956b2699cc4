// Each invariant that CheckInvariants claims, broken behind the zone's back:
// a check that cannot fail checks nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/zone.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm {
namespace {

using ::testing::HasSubstr;

// Zones make their lists in the order of orders, behind the last page.
PageMap::Index ListOf(TinyZone& zone, int order) {
  return static_cast<PageMap::Index>(zone.pages().end().value()) +
         static_cast<PageMap::Index>(order);
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
  zone_.pages().Set(Pfn(3), PageState::kTail);
  ExpectViolation(zone_.CheckInvariants(), "P1: pfn 0x3 is a tail of no block");
}

TEST_F(ZoneInvariantsTest, P1ABlockHasNothingElseInside) {
  zone_.pages().Set(Pfn(9), PageState::kAllocated);
  ExpectViolation(zone_.CheckInvariants(),
                  "P1: pfn 0x9 is allocated, order 0 inside the block at pfn "
                  "0x8");
}

TEST_F(ZoneInvariantsTest, P2EveryManagedPageIsInSomeState) {
  zone_.pages().Set(Pfn(5), PageState::kOffline);
  ExpectViolation(zone_.CheckInvariants(),
                  "P2: 15 pages not offline, 16 pages managed");
}

TEST_F(ZoneInvariantsTest, Z1ABlockIsAlignedToItsSize) {
  zone_.pages().Set(Pfn(3), PageState::kAllocated, Order(1));
  ExpectViolation(zone_.CheckInvariants(),
                  "Z1: block at pfn 0x3, allocated, order 1, is not aligned");
}

TEST_F(ZoneInvariantsTest, Z1ABlockIsInsideItsZone) {
  zone_.pages().Set(Pfn(0), PageState::kAllocated, Order(5));
  ExpectViolation(zone_.CheckInvariants(),
                  "Z1: block at pfn 0x0 leaves its zone");
}

TEST_F(ZoneInvariantsTest, Z2BuddiesAreNotBothFree) {
  zone_.Free(2, 0);
  zone_.pages().Set(Pfn(3), PageState::kFree);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z2: block at pfn 0x2, order 0, and its buddy are both free");
}

TEST_F(ZoneInvariantsTest, Z3AListHasFreeBlocksOnly) {
  zone_.pages().Set(Pfn(8), PageState::kAllocated, Order(3));
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: pfn 0x8 is on the list of free blocks of order 3 but is "
                  "allocated, order 3");
}

TEST_F(ZoneInvariantsTest, Z3AListHasBlocksOfItsOrderOnly) {
  zone_.pages().Remove(Pfn(8));
  zone_.pages().PushFront(ListOf(zone_, 2), Pfn(8));
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: pfn 0x8 is on the list of free blocks of order 2 but is "
                  "free, order 3");
}

TEST_F(ZoneInvariantsTest, Z3AListHasAsManyBlocksAsCounted) {
  zone_.pages().Remove(Pfn(8));
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: 0 blocks on the list of order 3, 1 counted");
}

// Pushed on the list of order 4, it leads from list 3 to the head of list 4,
// which is pfn 16 + 4 where links are concerned.
TEST_F(ZoneInvariantsTest, Z3NoBlockIsOnTwoLists) {
  zone_.pages().PushFront(ListOf(zone_, 4), Pfn(8));
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: pfn 0x14 is on the list of free blocks of order 3 but "
                  "not in the zone");
}

// Such a list goes round and round; the check must not.
TEST_F(ZoneInvariantsTest, Z3NoBlockIsOnAListTwice) {
  zone_.pages().PushFront(ListOf(zone_, 3), Pfn(8));
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: more blocks on the list of order 3 than the 1 counted");
}

TEST_F(ZoneInvariantsTest, Z3FreePagesAreOnAList) {
  zone_.pages().Set(Pfn(3), PageState::kFree);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z3: 9 pages free by their states, 8 pages counted");
}

TEST_F(ZoneInvariantsTest, Z4IsolatedPagesAreCounted) {
  zone_.pages().Set(Pfn(3), PageState::kIsolated);
  ExpectViolation(zone_.CheckInvariants(),
                  "Z4: 1 pages isolated by their states, 0 pages counted");
}

// 16 pages, the first two taken from the zone as a batch: ACFF---...
class AllocatorInvariantsTest : public ::testing::Test {
 protected:
  AllocatorInvariantsTest() { allocator_->Allocate(0, Order(0)); }

  // The allocator's own map, to break it.
  PageMap& pages() { return const_cast<PageMap&>(allocator_->pages()); }

  std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create(
          {.memory = {{Pfn(0), Pfn(16)}},
           .min_free_kbytes = 0,
           .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}})
          .value();
};

TEST_F(AllocatorInvariantsTest, HoldAtFirst) {
  EXPECT_TRUE(pages().Is(Pfn(0), PageState::kAllocated, Order(0)));
  EXPECT_TRUE(pages().Is(Pfn(1), PageState::kCached, Order(0)));
  EXPECT_TRUE(allocator_->CheckInvariants().ok());
}

TEST_F(AllocatorInvariantsTest, P3APageOnAPerCpuListIsCached) {
  pages().Set(Pfn(1), PageState::kAllocated);
  ExpectViolation(allocator_->CheckInvariants(),
                  "P3: pfn 0x1 is on a per-CPU list but is allocated, order 0");
}

TEST_F(AllocatorInvariantsTest, P3ACachedPageIsOnAPerCpuList) {
  pages().Set(Pfn(0), PageState::kCached);
  ExpectViolation(allocator_->CheckInvariants(),
                  "P3: 2 pages cached by their states, 1 on per-CPU lists");
}

TEST_F(AllocatorInvariantsTest, ViolationsOfAZoneAreFoundToo) {
  pages().Set(Pfn(0), PageState::kTail);
  ExpectViolation(allocator_->CheckInvariants(), "P1: pfn 0x0");
}

}  // namespace
}  // namespace guestmm
