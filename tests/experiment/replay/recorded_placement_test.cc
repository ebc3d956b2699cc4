// Reconstruction of a real guest's per-CPU lists: two vCPUs, whose lists have a
// batch of 4 and a high mark of 2,000.

#include "src/experiment/replay/recorded_placement.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "guestmm/base/virtual_time.h"

namespace guestmm::recorded_placement_test {
namespace {

constexpr uint64_t kFirst = 0x1000;  // from 16 MiB on: ZONE_DMA32
constexpr uint64_t kEnd = 0x8000;
constexpr int kUnmovable = 0;
constexpr int kMovable = 1;

class RecordedPlacementTest : public ::testing::Test {
 protected:
  explicit RecordedPlacementTest(uint64_t batch = 4) {
    recording_.first.emplace();
    auto& states = recording_.first->states;
    states.assign(kFirst, RecordedPages::State::kAbsent);
    states.resize(kEnd, RecordedPages::State::kFree);
    RecordedZone& zone = recording_.zones.emplace_back();
    zone.name = "DMA32";
    zone.per_cpu.assign(2, {.count = 0, .high = 2000, .batch = batch});
    for (const uint64_t pfn : {kReported, kReported + 1024}) {
      recording_.first->reported.push_back(Pfn(pfn));
    }
    Place();
  }
  // Begins anew.
  void Place(KernelVersion kernel = KernelVersion::kV6_1,
             std::span<const TraceEvent> listed = {}) {
    const MemoryMap memory = {{Pfn(kFirst), Pfn(kEnd)}};
    placement_.reset();
    allocator_ =
        PageAllocator::Create({.memory = memory,
                               .cpus = 2,
                               .per_cpu_lists = KernelVersion::kV6_1,
                               .placement = {.rules = KernelVersion::kV6_1}})
            .value();
    host_ = ReplayHost::Create(memory, {}, time_).value();
    placement_ =
        TracePlacement::Create(ReplayPlacement::kRecorded, recording_, kernel,
                               listed, *allocator_, *host_, counters_);
  }
  void Alloc(uint64_t pfn, int order = 0, int cpu = 0, int type = kMovable) {
    placement_->Follow({.pfn = Pfn(pfn),
                        .order = Order(order),
                        .kind = TraceEvent::Kind::kAlloc,
                        .migratetype = static_cast<uint8_t>(type),
                        .cpu = static_cast<uint16_t>(cpu)});
    EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
  }
  void Free(uint64_t pfn, int order = 0, int cpu = 0) {
    placement_->Follow({.pfn = Pfn(pfn),
                        .order = Order(order),
                        .kind = TraceEvent::Kind::kFree,
                        .cpu = static_cast<uint16_t>(cpu)});
    EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
  }
  // What the real lists and zones exchanged.
  void Exchange(TraceEvent::Kind kind, uint64_t pfn, int order, int cpu) {
    placement_->Follow({.pfn = Pfn(pfn),
                        .order = Order(order),
                        .kind = kind,
                        .migratetype = kMovable,
                        .cpu = static_cast<uint16_t>(cpu)});
    EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
  }
  void LeaveZone(uint64_t pfn, int order = 0, int cpu = 0) {
    Exchange(TraceEvent::Kind::kZoneAlloc, pfn, order, cpu);
  }
  void Drain(uint64_t pfn, int order = 0) {
    Exchange(TraceEvent::Kind::kDrain, pfn, order, /*cpu=*/0);
  }
  // Pages that are in use, for the host.
  uint64_t used() const {
    uint64_t pages = 0;
    for (uint64_t pfn = kFirst; pfn < kEnd; ++pfn) {
      if (host_->ledger().InUse(Pfn(pfn))) ++pages;
    }
    return pages;
  }
  Zone& zone() { return allocator_->ZoneOf(Pfn(kFirst)); }
  // Pages that are not free in the zone: in use, or listed.
  uint64_t out() { return kEnd - kFirst - zone().free_pages().value(); }
  bool IsReported(uint64_t pfn) {
    LockHolder hold(zone().lock());
    return zone().IsReported(Pfn(pfn));
  }
  uint64_t FirstBlock(int order = kMaxOrder.value()) {
    LockHolder hold(zone().lock());
    return zone()
        .FirstFreeBlock(Order(order), MigrateType::kMovable)
        .value()
        .value();
  }

  static constexpr uint64_t kReported = 0x4000;
  Recording recording_;
  const VirtualTime time_{1};
  std::unique_ptr<PageAllocator> allocator_;
  std::unique_ptr<ReplayHost> host_;
  ReplayCounters counters_;
  std::unique_ptr<TracePlacement> placement_;
};

TEST_F(RecordedPlacementTest, ARefillTakesTheFollowingPages) {
  Alloc(0x2000);
  EXPECT_EQ(out(), 4u);
  for (const uint64_t pfn : {0x2001, 0x2002, 0x2003}) Alloc(pfn);
  EXPECT_EQ(out(), 4u) << "they were in the list";
  Alloc(0x2004);
  EXPECT_EQ(out(), 8u);
  EXPECT_EQ(counters_.forced_placements, 0u);
}

// If the page is not the head of a free block, the block after it is unknown.
TEST_F(RecordedPlacementTest, ARefillEndsWithItsBlock) {
  Alloc(0x2002);
  EXPECT_EQ(out(), 2u);
}

TEST_F(RecordedPlacementTest, AnAssumedPageMayTurnUpElsewhere) {
  Alloc(0x2000, 0, /*cpu=*/0);
  Alloc(0x2001, 0, /*cpu=*/1);
  EXPECT_EQ(out(), 2u + 2u + 3u) << "in use; assumed, of either vCPU";
  Alloc(0x2002, 1, /*cpu=*/1);
  EXPECT_EQ(out(), 4u + 3u + 2u) << "in use; assumed; and another pair";
  EXPECT_EQ(counters_.forced_placements, 0u);
}

// A refill takes two pageblocks: with the other half of the block, or the next
// one.
TEST_F(RecordedPlacementTest, ARefillOfPageblocksTakesTheOtherHalf) {
  Alloc(0x2000, 9);
  EXPECT_EQ(out(), 1024u);
  Alloc(0x2200, 9);
  EXPECT_EQ(out(), 1024u);
}

TEST_F(RecordedPlacementTest, ARefillOfPageblocksGoesOnWithTheNextBlock) {
  const uint64_t first = FirstBlock();
  Alloc(first, 9, /*cpu=*/0);
  Alloc(first + 512, 9, /*cpu=*/1);
  EXPECT_EQ(out(), 3 * 512u);
  Alloc(first + 1024, 9, /*cpu=*/1);
  EXPECT_EQ(out(), 3 * 512u);
  // The upper half alone is not what the zone would hand out next.
  Alloc(first + 2048 + 512, 9, /*cpu=*/0);
  EXPECT_EQ(out(), 4 * 512u);
}

class LargeBatchTest : public RecordedPlacementTest {
 protected:
  LargeBatchTest() : RecordedPlacementTest(40) {}
};

// Two free blocks of 16 pages in a pageblock in use.
TEST_F(LargeBatchTest, ARefillGoesOnWithSmallBlocksButBreaksNoPageblock) {
  Alloc(0x2000, 10);
  Free(0x2000, 4);
  Free(0x2020, 4);
  ASSERT_EQ(out(), 1024u - 32);
  Alloc(FirstBlock(4));
  EXPECT_EQ(out(), 1024u);
  EXPECT_EQ(counters_.forced_placements, 0u);
}

// A block allocated from the zone while another is assumed shows that the
// assumption was wrong: the assumed block is restored, still marked as
// reported.
TEST_F(RecordedPlacementTest, ABlockThatNeverLeftTheZoneKeepsItsMark) {
  const uint64_t first = FirstBlock();
  for (uint64_t pfn = kFirst; pfn < kEnd; pfn += 1024) {
    if (pfn != first && pfn != kReported && pfn != kReported + 1024) {
      Alloc(pfn, 10);
    }
  }
  const uint64_t used = out();
  Alloc(first, 9, /*cpu=*/0);
  Alloc(first + 512, 9, /*cpu=*/1);
  EXPECT_EQ(out(), used + 3 * 512);
  EXPECT_FALSE(IsReported(kReported)) << "a half of it is assumed to be listed";
  Alloc(kReported + 1024, 9, /*cpu=*/1);
  EXPECT_EQ(out(), used + 3 * 512);
  EXPECT_TRUE(IsReported(kReported));
  EXPECT_EQ(counters_.forced_placements, 0u);
}

// The kernel's bulk allocations have no event. A page of one goes to the list
// of the vCPU that frees it.
TEST_F(RecordedPlacementTest, APageAllocatedWithoutAnEventIsFreed) {
  Free(0x3000);
  EXPECT_EQ(counters_.unmatched_frees, 1u);
  EXPECT_EQ(out(), 1u) << "listed";
  EXPECT_EQ(host_->ledger().resident_pages(), kPageblockOrder.pages());
  Alloc(0x3000);
  EXPECT_EQ(out(), 1u);
  EXPECT_EQ(counters_.forced_placements, 0u);
}

TEST_F(RecordedPlacementTest, AListedPageMayHaveBeenAllocatedWithoutAnEvent) {
  for (uint64_t pfn = 0x3000; pfn < 0x3010; ++pfn) Alloc(pfn);
  for (uint64_t pfn = 0x3000; pfn < 0x3010; ++pfn) Free(pfn, 0, /*cpu=*/0);
  Free(0x3008, 0, /*cpu=*/1);
  EXPECT_EQ(counters_.unmatched_frees, 1u);
  Alloc(0x3008, 0, /*cpu=*/1);
  EXPECT_EQ(out(), 16u) << "pages freed before it are still listed";
}

// A list has pages of pageblocks of one type, so that a refill of another list
// does not drain it.
TEST_F(RecordedPlacementTest, APageIsListedByTheTypeOfItsPageblock) {
  Alloc(0x2000, 0, 0, kUnmovable);
  Free(0x2000);
  EXPECT_EQ(out(), 4u);
  Alloc(0x6000, 0, 0, kMovable);
  EXPECT_EQ(out(), 8u) << "nothing was drained";
  Alloc(0x2000, 0, 0, kUnmovable);
  EXPECT_EQ(out(), 8u);
}

// Pages that are allocated as one block had been drained before, with all older
// pages of their list.
TEST_F(RecordedPlacementTest, ListedPagesMayBeAllocatedAsOneBlock) {
  for (uint64_t pfn = 0x3000; pfn < 0x3008; ++pfn) Alloc(pfn);
  for (uint64_t pfn = 0x3000; pfn < 0x3008; ++pfn) Free(pfn);
  Alloc(0x3000, 3, /*cpu=*/1);
  EXPECT_EQ(counters_.forced_placements, 0u);
  EXPECT_EQ(out(), 2 * 8u) << "a refill brings two of that size";
}

TEST_F(RecordedPlacementTest, WhatTheTraceShowsIsNotInferred) {
  LeaveZone(0x2000);
  LeaveZone(0x2001);
  EXPECT_EQ(out(), 2u) << "listed";
  Alloc(0x2001);
  Alloc(0x3000);
  EXPECT_EQ(out(), 3u) << "no refill";
  for (uint64_t pfn = 0x4000; pfn < 0x4000 + 2500; ++pfn) Alloc(pfn);
  for (uint64_t pfn = 0x4000; pfn < 0x4000 + 2500; ++pfn) Free(pfn);
  EXPECT_EQ(out(), 2503u) << "listed, above any mark";
  Drain(0x4007);
  EXPECT_EQ(out(), 2502u);
  EXPECT_EQ(counters_.forced_placements, 0u);
  EXPECT_EQ(counters_.events, 5002u) << "moves are no requests";
}

// Pages may go to the zone without an event, past a list that is locked.
TEST_F(RecordedPlacementTest, AListedPageThatTurnsUpElsewhereHadLeft) {
  LeaveZone(0x2000);
  Alloc(0x2000, 1, /*cpu=*/1);
  EXPECT_EQ(out(), 2u);
  Free(0x2000, 1);
  LeaveZone(0x2000, 0, /*cpu=*/1);
  EXPECT_EQ(out(), 1u);
  EXPECT_EQ(counters_.forced_placements, 0u);
  EXPECT_EQ(counters_.unmatched_frees, 0u);
}

TEST_F(RecordedPlacementTest, MovesThatHaveHappenedAlreadyHaveNoEffect) {
  Alloc(0x2000);
  EXPECT_EQ(out(), 4u) << "a refill is inferred before the first move";
  LeaveZone(0x2000);
  Drain(0x3000);
  LeaveZone(0x2800);
  LeaveZone(0x2800);
  EXPECT_EQ(out(), 5u);
  Free(0x2000);
  EXPECT_EQ(counters_.unmatched_frees, 0u);
}

// The request for a block that no list can have follows.
TEST_F(RecordedPlacementTest, ABlockForARequestIsNotListed) {
  LeaveZone(0x2000, 4);
  EXPECT_EQ(out(), 0u);
  Alloc(0x2000, 4);
  EXPECT_EQ(out(), 16u);
}

TEST_F(RecordedPlacementTest, ADrainedPageInUseWasFreedByALostEvent) {
  LeaveZone(0x2000);
  Alloc(0x2000);
  EXPECT_EQ(used(), 1u);
  Drain(0x2000);
  EXPECT_EQ(out(), 0u);
  EXPECT_EQ(used(), 0u);
}

// 256 pages are not free at the start.
class ListedAtStartTest : public RecordedPlacementTest {
 protected:
  ListedAtStartTest() {
    for (uint64_t pfn = 0x2000; pfn < 0x2100; ++pfn) {
      recording_.first->states[pfn] = RecordedPages::State::kInUse;
    }
  }
};

TEST_F(ListedAtStartTest, TheyAreNeitherInUseNorFree) {
  const TraceEvent listed[] = {{.pfn = Pfn(0x2000), .migratetype = kMovable},
                               {.pfn = Pfn(0x2010),
                                .order = Order(2),
                                .kind = TraceEvent::Kind::kDrain,
                                .migratetype = kMovable,
                                .cpu = 1}};
  Place(KernelVersion::kV6_1, listed);
  EXPECT_EQ(out(), 256u);
  EXPECT_EQ(used(), 256u - 5);
  Alloc(0x2000);
  EXPECT_EQ(counters_.forced_placements, 0u);
  Drain(0x2010, 2);
  EXPECT_EQ(out(), 256u - 4);
}

// A vCPU had not used its lists yet: they have the least mark, here of a low
// watermark of 200 pages for two vCPUs.
TEST_F(ListedAtStartTest, AMarkOfZeroIsTheFormulas) {
  RecordedZone& recorded = recording_.zones.front();
  recorded.managed = PageCount(kEnd - kFirst);
  recorded.low = PageCount(200);
  for (RecordedZone::PerCpu& lists : recorded.per_cpu) lists.high = 0;
  for (const KernelVersion kernel :
       {KernelVersion::kV6_1, KernelVersion::kV6_12}) {
    Place(kernel);
    for (uint64_t pfn = 0x2000; pfn < 0x2000 + 99; ++pfn) Free(pfn);
    EXPECT_EQ(out(), 256u) << "listed";
    Free(0x2000 + 99);
    EXPECT_LT(out(), 256u) << "drained";
  }
}

// A mark of 2,000 falls to 100 in steps of an eighth.
TEST_F(ListedAtStartTest, ListsAreDrainedWithTime) {
  RecordedZone& recorded = recording_.zones.front();
  recorded.managed = PageCount(kEnd - kFirst);
  recorded.low = PageCount(200);
  for (const auto& [kernel, left] : {std::pair(KernelVersion::kV6_1, 256u),
                                     std::pair(KernelVersion::kV6_12, 100u)}) {
    Place(kernel);
    for (uint64_t pfn = 0x2000; pfn < 0x2100; ++pfn) Free(pfn);
    EXPECT_EQ(out(), 256u);
    for (int second = 0; second < 30; ++second) {
      placement_->RefreshPerCpuLists();
    }
    EXPECT_EQ(out(), left);
  }
}

TEST_F(RecordedPlacementTest, MovesThatFitAreNotCounted) {
  LeaveZone(5000);
  Alloc(5000);
  Free(5000);
  Drain(5000);
  LeaveZone(6016, 5);
  Alloc(6016, 5);
  Free(6016, 5);
  EXPECT_EQ(counters_.moves, 3u);
  EXPECT_EQ(counters_.unfit_moves, 0u);
}

TEST_F(RecordedPlacementTest, AMoveOfABlockThatIsElsewhereIsCounted) {
  LeaveZone(5000);
  LeaveZone(5000);  // is listed
  Alloc(5000);
  LeaveZone(5000);  // is in use
  LeaveZone(4992, 5);
  EXPECT_EQ(counters_.unfit_moves, 3u);
  Drain(5000);  // is in use
  Drain(5000);  // is free
  EXPECT_EQ(counters_.unfit_moves, 5u);
  EXPECT_EQ(counters_.moves, 6u);
  EXPECT_EQ(out(), 0u);
}

// A list's pages would be freed with the block, and again for themselves.
TEST_F(RecordedPlacementTest, ADrainInOtherBoundsThanThoseListedIsNotFollowed) {
  LeaveZone(5000);
  Alloc(5000);
  LeaveZone(5001);
  Drain(5000, 1);
  EXPECT_EQ(counters_.unfit_moves, 1u);
  EXPECT_EQ(out(), 2u);
  Drain(5001);
  Free(5000);
  Drain(5000);
  EXPECT_EQ(counters_.unfit_moves, 1u);
  EXPECT_EQ(out(), 0u);
}

TEST_F(RecordedPlacementTest, MovesThatTheTraceLacksAreCounted) {
  LeaveZone(5000);
  Alloc(5000);
  Alloc(5001);  // left the zone
  EXPECT_EQ(counters_.unfit_moves, 1u);
  Free(5000);
  Alloc(5000, 3);  // was drained
  EXPECT_EQ(counters_.unfit_moves, 2u);
  EXPECT_EQ(counters_.moves, 3u);
}

}  // namespace
}  // namespace guestmm::recorded_placement_test
