// An allocator that follows a guest whose memory arrives and leaves.

#include "src/experiment/replay/hotplugged_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/virtual_time.h"
#include "src/experiment/replay/replayed_guest.h"
#include "src/experiment/replay/trace_placement.h"

namespace guestmm::hotplugged_memory_test {
namespace {

constexpr uint64_t kBlock = kMaxOrder.pages().value();

GpaRange Range(uint64_t pfn, uint64_t pages) {
  return {.gpa = ToGpa(Pfn(pfn)), .bytes = pages * kPageSize};
}

RecordedZone MakeZone(const std::string& name, uint64_t start, uint64_t managed,
                      Watermarks watermarks) {
  RecordedZone zone;
  zone.name = name;
  zone.span = {Pfn(start), Pfn(start + managed)};
  zone.present = PageCount(managed);
  zone.managed = PageCount(managed);
  zone.min = watermarks.min;
  zone.low = watermarks.low;
  zone.high = watermarks.high;
  return zone;
}

// The guest of Linux 6.12 that docs/fidelity.md calls hotplug612: 1 GiB at
// 4 GiB arrives. All numbers are from its zoneinfo.
TEST(HotplugWatermarksTest, AreSetAnewAsTheKernelSetsThem) {
  constexpr uint64_t kNormal = 0x100000;
  Recording recording;
  recording.memory = {Range(1, 0xfff), Range(0x1000, 258007)};
  recording.arriving = {Range(kNormal, 262144)};
  recording.zones = {
      MakeZone("DMA", 1, 3840,
               {PageCount(189), PageCount(236), PageCount(283)}),
      MakeZone("DMA32", 0x1000, 226699,
               {PageCount(11074), PageCount(13842), PageCount(16610)})};
  recording.zones[0].per_cpu.resize(2, {.batch = 1});
  recording.zones[1].per_cpu.resize(2, {.high = 6921, .batch = 63});
  const std::unique_ptr<PageAllocator> allocator =
      MakeReplayedGuest(recording, KernelOf(recording)).value();
  const VirtualTime time{1};
  const std::unique_ptr<ReplayHost> host =
      ReplayHost::Create(MemoryMap::WholePages(recording.AllMemory()), {}, time)
          .value();
  ReplayCounters counters;
  const std::unique_ptr<TracePlacement> placement = TracePlacement::Create(
      ReplayPlacement::kRecorded, recording, KernelOf(recording), {},
      *allocator, *host, counters);
  const auto watermarks = [&](ZoneType type) {
    const Watermarks marks = allocator->zone(0, type).watermarks();
    return std::vector<uint64_t>{marks.min.value(), marks.low.value(),
                                 marks.high.value()};
  };
  using ::testing::ElementsAre;
  EXPECT_THAT(watermarks(ZoneType::kDma), ElementsAre(189, 236, 283));
  EXPECT_THAT(watermarks(ZoneType::kDma32), ElementsAre(11074, 13842, 16610));
  for (uint64_t at = 0; at < 262144; at += kBlock) {
    placement->Follow({.pfn = Pfn(kNormal + at),
                       .order = kMaxOrder,
                       .kind = TraceEvent::Kind::kFree});
  }
  EXPECT_THAT(watermarks(ZoneType::kDma), ElementsAre(131, 163, 195));
  EXPECT_THAT(watermarks(ZoneType::kDma32), ElementsAre(7774, 9717, 11660));
  EXPECT_THAT(watermarks(ZoneType::kNormal), ElementsAre(8989, 11236, 13483));
  const Zone& dma = allocator->zone(0, ZoneType::kDma);
  EXPECT_EQ(dma.lowmem_reserve(ZoneType::kDma32), PageCount(885));
  EXPECT_EQ(dma.lowmem_reserve(ZoneType::kNormal), PageCount(1909));
  EXPECT_EQ(
      allocator->zone(0, ZoneType::kDma32).lowmem_reserve(ZoneType::kNormal),
      PageCount(1024));
  EXPECT_EQ(counters.outside_memory, 0u);
  EXPECT_EQ(allocator->CheckInvariants(), absl::OkStatus());
}

// Memory arrives, in any order, and leaves, whatever is in use.
class HotplugProgramTest : public ::testing::TestWithParam<ReplayPlacement> {};

INSTANTIATE_TEST_SUITE_P(Both, HotplugProgramTest,
                         ::testing::Values(ReplayPlacement::kRecorded,
                                           ReplayPlacement::kNative));

TEST_P(HotplugProgramTest, NoEventsBreakTheInvariants) {
  constexpr uint64_t kSeed = 12;
  SCOPED_TRACE(kSeed);
  Random random(kSeed);
  Recording recording;
  // 32 MiB, and 16 MiB more.
  recording.memory = {Range(0x2000, 8 * kBlock)};
  recording.arriving = {Range(0x8000, 4 * kBlock)};
  recording.first.emplace();
  recording.first->states.assign(0x2000, RecordedPages::State::kAbsent);
  recording.first->states.resize(0x2000 + 8 * kBlock,
                                 RecordedPages::State::kFree);
  constexpr int kSteps = 20'000;
  for (int i = 0; i < kSteps; i += 250) {
    const bool boot = random.Below(8) == 0;
    recording.plugs.push_back(
        {.time = Nanoseconds(i),
         .range = Range(boot ? 0x2000 + kBlock * random.Below(8)
                             : 0x8000 + kBlock * random.Below(4),
                        kBlock),
         .removed = true});
  }
  const std::unique_ptr<PageAllocator> allocator =
      MakeReplayedGuest(recording, KernelOf(recording)).value();
  const VirtualTime time{1};
  const std::unique_ptr<ReplayHost> host =
      ReplayHost::Create(MemoryMap::WholePages(recording.AllMemory()), {}, time)
          .value();
  ReplayCounters counters;
  const std::unique_ptr<TracePlacement> placement =
      TracePlacement::Create(GetParam(), recording, KernelOf(recording), {},
                             *allocator, *host, counters);
  std::vector<std::pair<Zone*, IsolatedBlock>> isolated;
  const auto return_all = [&] {
    for (auto& [zone, block] : isolated) {
      LockHolder hold(zone->lock());
      zone->Return(std::move(block));
    }
    isolated.clear();
  };
  uint64_t managed_before = 0;
  bool grew = false;
  bool shrank = false;
  for (int step = 0; step < kSteps; ++step) {
    const Nanoseconds now(step);
    placement->Unplug(now);
    TraceEvent event;
    event.time = now;
    const int order = static_cast<int>(random.Below(11));
    const uint64_t pfn =
        (random.Below(3) == 0 ? 0x8000 : 0x2000) + random.Below(8 * kBlock);
    event.order = Order(order);
    event.pfn = Pfn(pfn).AlignDown(Order(order));
    event.kind = random.Below(2) == 0 ? TraceEvent::Kind::kAlloc
                                      : TraceEvent::Kind::kFree;
    event.migratetype = static_cast<uint8_t>(random.Below(3));
    event.cpu = static_cast<uint16_t>(random.Below(4));
    placement->Follow(event);
    // The reporter isolates free blocks, and returns them later.
    if (step % 40 == 0) {
      for (const auto& zone : allocator->zones()) {
        LockHolder hold(zone->lock());
        const auto block =
            zone->FirstFreeBlock(Order(8), MigrateType::kMovable);
        if (!block) continue;
        if (auto taken = zone->Isolate(*block)) {
          isolated.emplace_back(zone.get(), *std::move(taken));
        }
      }
    }
    if (step % 130 == 0) return_all();
    uint64_t managed = 0;
    for (const auto& zone : allocator->zones()) {
      managed += zone->managed_pages().value();
    }
    grew = grew || (step > 0 && managed > managed_before);
    shrank = shrank || managed < managed_before;
    managed_before = managed;
    // What was not isolated at the time leaves at once.
    uint64_t expected = 8 * kBlock;
    for (const MemoryChange& change : placement->memory_changes()) {
      const uint64_t pages = change.range.bytes / kPageSize;
      expected = change.removed ? expected - pages : expected + pages;
    }
    ASSERT_EQ(managed, expected) << step;
    if (step % 500 == 0) {
      ASSERT_EQ(allocator->CheckInvariants(), absl::OkStatus()) << step;
    }
  }
  return_all();
  EXPECT_TRUE(grew);
  EXPECT_TRUE(shrank);
}

}  // namespace
}  // namespace guestmm::hotplugged_memory_test
