// No trace breaks the invariants of the allocator that follows it.

#include "src/experiment/replay/trace_placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/virtual_time.h"

namespace guestmm::trace_placement_test {
namespace {

// 128 MiB with a hole of a page in the middle of a block, and 1 MiB that the
// guest does not manage.
constexpr uint64_t kEnd = 0x8000;
constexpr uint64_t kHole = 0x1237;
constexpr uint64_t kOffline = 0x3000;

class TracePlacementTest : public ::testing::TestWithParam<ReplayPlacement> {
 protected:
  TracePlacementTest() {
    recording_.first.emplace();
    auto& states = recording_.first->states;
    states.assign(kEnd, RecordedPages::State::kFree);
    std::fill_n(states.begin() + kOffline, 256, RecordedPages::State::kOffline);
    placement_ =
        TracePlacement::Create(GetParam(), recording_, KernelVersion::kV6_1, {},
                               *allocator_, *host_, counters_);
  }
  void Follow(TraceEvent::Kind kind, uint64_t pfn, int order, int cpu = 0) {
    TraceEvent event;
    event.kind = kind;
    event.pfn = Pfn(pfn);
    event.order = Order(order);
    event.cpu = static_cast<uint16_t>(cpu);
    event.migratetype = migratetype_;
    placement_->Follow(event);
  }
  void Alloc(uint64_t pfn, int order, int cpu = 0) {
    Follow(TraceEvent::Kind::kAlloc, pfn, order, cpu);
  }
  void Free(uint64_t pfn, int order, int cpu = 0) {
    Follow(TraceEvent::Kind::kFree, pfn, order, cpu);
  }

  uint8_t migratetype_ = 1;
  Recording recording_;
  const std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create(
          {.memory = {{Pfn(0), Pfn(kHole)}, {Pfn(kHole + 1), Pfn(kEnd)}},
           .cpus = 2,
           .per_cpu_lists = KernelVersion::kV6_1,
           .placement = {.rules = KernelVersion::kV6_1}})
          .value();
  const VirtualTime time_{1};
  const std::unique_ptr<ReplayHost> host_ =
      ReplayHost::Create({{Pfn(0), Pfn(kEnd)}}, {}, time_).value();
  ReplayCounters counters_;
  std::unique_ptr<TracePlacement> placement_;
};

INSTANTIATE_TEST_SUITE_P(Both, TracePlacementTest,
                         ::testing::Values(ReplayPlacement::kRecorded,
                                           ReplayPlacement::kNative));

// Its block is in a vCPU's list, as a whole.
TEST_P(TracePlacementTest, APartOfAFreedBlockIsFreedAgain) {
  Alloc(64, 3);
  Free(64, 3);
  Free(65, 0);
  EXPECT_EQ(counters_.unmatched_frees, 1u);
  // Enough for the list to be drained.
  for (uint64_t pfn = 4096; pfn < 8192; pfn += 8) Alloc(pfn, 3);
  for (uint64_t pfn = 4096; pfn < 8192; pfn += 8) Free(pfn, 3);
  EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
}

TEST_P(TracePlacementTest, APartOfAFreedBlockIsAllocated) {
  Alloc(64, 3);
  Free(64, 3);
  Alloc(65, 0);
  Free(65, 0);
  for (uint64_t pfn = 4096; pfn < 8192; pfn += 8) Alloc(pfn, 3);
  for (uint64_t pfn = 4096; pfn < 8192; pfn += 8) Free(pfn, 3);
  EXPECT_EQ(counters_.unmatched_frees, 0u);
  EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
}

// The blocks were allocated one by one, and need not be adjacent.
TEST_P(TracePlacementTest, SeveralBlocksFreedAsOneAreOneSplitFree) {
  Alloc(8192, 9);
  Alloc(8192 + 512, 9);
  Free(8192, 10);
  Alloc(64, 3);
  Free(64, 2);
  EXPECT_EQ(counters_.split_frees, 2u);
  EXPECT_EQ(counters_.unmatched_frees, 0u);
  EXPECT_EQ(counters_.frees, 2u);
}

TEST_P(TracePlacementTest, ABlockWithAHoleIsOutsideMemory) {
  const uint64_t block = kHole & ~uint64_t{511};
  Alloc(block, 9);
  Free(block, 9);
  Alloc(kHole, 0);
  EXPECT_EQ(counters_.outside_memory, 3u);
  EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
}

TEST_P(TracePlacementTest, AnyEventsAtAll) {
  using Kind = TraceEvent::Kind;
  constexpr std::array kKinds = {Kind::kAlloc, Kind::kFree, Kind::kZoneAlloc,
                                 Kind::kDrain};
  constexpr uint64_t kSeed = 11;
  SCOPED_TRACE(kSeed);
  Random random(kSeed);
  for (int step = 0; step < 60'000; ++step) {
    // Few pfns, so that events overlap; also beyond the end, and unaligned.
    const int order = static_cast<int>(random.Below(12));
    uint64_t pfn = random.Below(64) * 256 + random.Below(16);
    if (random.Below(8) != 0) pfn &= ~((uint64_t{1} << order) - 1);
    if (random.Below(64) == 0) pfn += kEnd;
    const int cpu = static_cast<int>(random.Below(4));
    migratetype_ = static_cast<uint8_t>(random.Below(3));
    // Lists are inferred until the first move.
    Follow(kKinds[random.Below(step < 30'000 ? 2 : 4)], pfn, order, cpu);
    if (step % 500 == 0) {
      ASSERT_EQ(allocator_->CheckInvariants(), absl::OkStatus()) << step;
    }
  }
  EXPECT_GT(counters_.forced_placements, 100u);
  EXPECT_GT(counters_.split_frees, 100u);
  EXPECT_GT(counters_.unmatched_frees, 100u);
  EXPECT_GT(counters_.outside_memory, 100u);
  EXPECT_GT(counters_.unfit_moves, 100u);
  EXPECT_LE(counters_.unfit_moves, counters_.moves);
}

}  // namespace
}  // namespace guestmm::trace_placement_test
