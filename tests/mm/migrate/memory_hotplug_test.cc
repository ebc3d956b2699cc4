#include "guestmm/mm/migrate/memory_hotplug.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/mm/migrate/memory_hotplug_testing.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::memory_hotplug_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// States

TEST(MemoryHotplugTest, BootMemoryIsOnlineAndTheRestAbsent) {
  const HotplugWorld world;
  EXPECT_EQ(world.StateOf(0), "online");
  EXPECT_EQ(world.StateOf(1), "online");
  EXPECT_EQ(world.StateOf(2), "absent");
  EXPECT_EQ(world.StateOf(1000), "absent");
  // For any page in it.
  EXPECT_EQ(world.hotplug.StateOf(Pfn(31)), "online");
}

TEST(MemoryHotplugTest, ItGoesRoundAllStates) {
  HotplugWorld world;
  EXPECT_EQ(world.hotplug.Add(Section(4), 0), absl::OkStatus());
  EXPECT_EQ(world.StateOf(4), "offline");
  EXPECT_EQ(world.allocator->Counts().managed, PageCount(32));
  EXPECT_EQ(world.hotplug.Online(Section(4), ZoneType::kMovable),
            absl::OkStatus());
  EXPECT_EQ(world.StateOf(4), "online");
  EXPECT_EQ(world.allocator->Counts().managed, PageCount(48));
  EXPECT_EQ(world.allocator->Counts().free, PageCount(48));
  EXPECT_EQ(world.hotplug.Offline(Section(4)), absl::OkStatus());
  EXPECT_EQ(world.StateOf(4), "offline");
  EXPECT_EQ(world.allocator->Counts().managed, PageCount(32));
  EXPECT_EQ(world.allocator->Counts().free, PageCount(32));
  EXPECT_EQ(world.hotplug.Remove(Section(4)), absl::OkStatus());
  EXPECT_EQ(world.StateOf(4), "absent");
  // And once more.
  world.AddOnline(Section(4), ZoneType::kNormal);
  EXPECT_EQ(world.StateOf(4), "online");
}

TEST(MemoryHotplugTest, BootMemoryIsOfflinedAndOnlinedAgain) {
  HotplugWorld world;
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
  EXPECT_EQ(world.StateOf(1), "offline");
  EXPECT_EQ(world.allocator->zone(0, ZoneType::kDma).span(), Section(0));
  EXPECT_EQ(world.hotplug.Online(Section(1), ZoneType::kMovable),
            absl::OkStatus());
  EXPECT_EQ(world.allocator->zone(0, ZoneType::kMovable).span(), Section(1));
}

TEST(MemoryHotplugTest, OfflineMemoryIsOnlinedToAnotherZone) {
  HotplugWorld world;
  world.AddOnline(Section(4), ZoneType::kMovable);
  EXPECT_EQ(world.hotplug.Offline(Section(4)), absl::OkStatus());
  EXPECT_EQ(world.hotplug.Online(Section(4), ZoneType::kNormal),
            absl::OkStatus());
  EXPECT_EQ(world.allocator->ZoneOf(Section(4).start).type(),
            ZoneType::kNormal);
  EXPECT_EQ(world.allocator->zone(0, ZoneType::kMovable).managed_pages(),
            PageCount(0));
}

TEST(MemoryHotplugTest, SeveralBlocksGoTogetherAndApart) {
  HotplugWorld world;
  world.AddOnline(Section(2, 4), ZoneType::kMovable);
  EXPECT_EQ(world.allocator->zone(0, ZoneType::kMovable).managed_pages(),
            PageCount(4 * kSectionPages));
  EXPECT_EQ(world.hotplug.Offline(Section(3, 2)), absl::OkStatus());
  EXPECT_EQ(world.StateOf(2), "online");
  EXPECT_EQ(world.StateOf(3), "offline");
  EXPECT_EQ(world.StateOf(4), "offline");
  EXPECT_EQ(world.StateOf(5), "online");
  EXPECT_EQ(world.hotplug.Remove(Section(4)), absl::OkStatus());
  EXPECT_EQ(world.StateOf(3), "offline");
  EXPECT_EQ(world.StateOf(4), "absent");
}

// Refused operations

TEST(MemoryHotplugErrorTest, RangesThatAreNotWholeMemoryBlocks) {
  HotplugWorld world;
  constexpr const char* kText = ": must be whole memory blocks of 64.00 KiB";
  const PfnRange ranges[] = {{Pfn(32), Pfn(40)},
                             {Pfn(40), Pfn(64)},
                             {Pfn(32), Pfn(32)},
                             {Pfn(48), Pfn(32)}};
  for (const PfnRange& range : ranges) {
    const std::string text =
        absl::StrFormat("memory of pages [0x%x, 0x%x)%s", range.start.value(),
                        range.end.value(), kText);
    constexpr auto kCode = absl::StatusCode::kInvalidArgument;
    world.Expect(world.hotplug.Add(range, 0), kCode, text);
    world.Expect(world.hotplug.Online(range, ZoneType::kMovable), kCode, text);
    world.Expect(world.hotplug.Offline(range), kCode, text);
    world.Expect(world.hotplug.Remove(range), kCode, text);
  }
}

TEST(MemoryHotplugErrorTest, BeyondHotplugEnd) {
  HotplugWorld world;
  world.Expect(world.hotplug.Add(Section(7, 2), 0),
               absl::StatusCode::kInvalidArgument,
               "memory of pages [0x70, 0x90): must end at or below "
               "hotplug_end, pfn 0x80");
  EXPECT_EQ(world.StateOf(7), "absent");
}

TEST(MemoryHotplugErrorTest, AddToAnAbsentNode) {
  HotplugWorld world;
  for (const int node : {-1, 1}) {
    world.Expect(world.hotplug.Add(Section(4), node),
                 absl::StatusCode::kInvalidArgument,
                 absl::StrCat("memory of pages [0x40, 0x50): node ", node,
                              " must be 0 to 0"));
  }
}

TEST(MemoryHotplugErrorTest, AddOfPresentMemory) {
  HotplugWorld world;
  world.Expect(world.hotplug.Add(Section(1, 2), 0),
               absl::StatusCode::kAlreadyExists,
               "memory of pages [0x10, 0x30): the memory block at pfn 0x10 "
               "must be absent");
  EXPECT_EQ(world.StateOf(2), "absent");
  ASSERT_EQ(world.hotplug.Add(Section(4), 0), absl::OkStatus());
  world.Expect(world.hotplug.Add(Section(3, 2), 0),
               absl::StatusCode::kAlreadyExists, "at pfn 0x40");
  EXPECT_EQ(world.StateOf(3), "absent");
}

TEST(MemoryHotplugErrorTest, AddOfABlockThatIsPartlyPresentAtBoot) {
  HotplugWorld world(HotplugOptions({PagesFrom(Pfn(0), 20)}));
  EXPECT_EQ(world.StateOf(1), "online");
  world.Expect(world.hotplug.Add(Section(1), 0),
               absl::StatusCode::kAlreadyExists, "at pfn 0x10");
}

TEST(MemoryHotplugErrorTest, OnlineToDmaOrDma32) {
  HotplugWorld world;
  ASSERT_EQ(world.hotplug.Add(Section(4), 0), absl::OkStatus());
  for (const ZoneType type : {ZoneType::kDma, ZoneType::kDma32}) {
    world.Expect(
        world.hotplug.Online(Section(4), type),
        absl::StatusCode::kInvalidArgument,
        absl::StrCat("memory of pages [0x40, 0x50): zone ",
                     std::string(Name(type)), " must be Normal or Movable"));
  }
}

TEST(MemoryHotplugErrorTest, OnlineOfWhatIsNotOffline) {
  HotplugWorld world;
  ASSERT_EQ(world.hotplug.Add(Section(2), 0), absl::OkStatus());
  world.Expect(world.hotplug.Online(Section(1, 2), ZoneType::kMovable),
               absl::StatusCode::kFailedPrecondition,
               "memory of pages [0x10, 0x30): the memory block at pfn 0x10 "
               "must be offline, but is online");
  world.Expect(world.hotplug.Online(Section(2, 2), ZoneType::kMovable),
               absl::StatusCode::kFailedPrecondition,
               "the memory block at pfn 0x30 must be offline, but is absent");
  // No block of the range was brought online.
  EXPECT_EQ(world.StateOf(2), "offline");
}

TEST(MemoryHotplugErrorTest, RemoveOfWhatIsNotOffline) {
  HotplugWorld world;
  ASSERT_EQ(world.hotplug.Add(Section(2), 0), absl::OkStatus());
  world.Expect(world.hotplug.Remove(Section(1, 2)),
               absl::StatusCode::kFailedPrecondition,
               "the memory block at pfn 0x10 must be offline, but is online");
  world.Expect(world.hotplug.Remove(Section(2, 2)),
               absl::StatusCode::kFailedPrecondition,
               "the memory block at pfn 0x30 must be offline, but is absent");
  EXPECT_EQ(world.StateOf(2), "offline");
}

TEST(MemoryHotplugErrorTest, OfflineOfWhatIsNotOnline) {
  HotplugWorld world;
  world.Expect(world.hotplug.Offline(Section(1, 2)),
               absl::StatusCode::kFailedPrecondition,
               "memory of pages [0x10, 0x30): pfn 0x20 must be online");
  ASSERT_EQ(world.hotplug.Add(Section(2), 0), absl::OkStatus());
  world.Expect(world.hotplug.Offline(Section(2)),
               absl::StatusCode::kFailedPrecondition,
               "pfn 0x20 must be online");
  EXPECT_EQ(world.StateOf(1), "online");
}

// Linux 5.3, offline_pages: boot memory with a hole cannot be offlined.
TEST(MemoryHotplugErrorTest, OfflineOfABlockWithAHole) {
  HotplugWorld world(
      HotplugOptions({PagesFrom(Pfn(0), 22), PagesFrom(Pfn(24), 40)}));
  world.Expect(world.hotplug.Offline(Section(1)),
               absl::StatusCode::kFailedPrecondition,
               "memory of pages [0x10, 0x20): pfn 0x16 must be online");
  EXPECT_EQ(world.hotplug.Offline(Section(2)), absl::OkStatus());
}

TEST(MemoryHotplugErrorTest, OfflineOfTwoZones) {
  HotplugWorld world;
  world.AddOnline(Section(2), ZoneType::kMovable);
  world.Expect(world.hotplug.Offline(Section(1, 2)),
               absl::StatusCode::kFailedPrecondition,
               "memory of pages [0x10, 0x30): pfn 0x20 must be in the zone of "
               "pfn 0x10");
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
  EXPECT_EQ(world.hotplug.Offline(Section(2)), absl::OkStatus());
}

TEST(MemoryHotplugErrorTest, AnotherOperationIsInProgress) {
  HotplugWorld world;
  Listener listener;
  int wakes = 0;
  listener.on_wake = [&] {
    ++wakes;
    constexpr auto kCode = absl::StatusCode::kUnavailable;
    constexpr const char* kText =
        "another hotplug operation is in progress; try again";
    world.Expect(world.hotplug.Add(Section(5), 0), kCode, kText);
    world.Expect(world.hotplug.Online(Section(5), ZoneType::kNormal), kCode,
                 kText);
    world.Expect(world.hotplug.Offline(Section(0)), kCode, kText);
    world.Expect(world.hotplug.Remove(Section(4)), kCode, kText);
    EXPECT_EQ(world.StateOf(5), "absent");
  };
  ASSERT_EQ(world.hotplug.Add(Section(4), 0), absl::OkStatus());
  world.allocator->SetObserver(&listener);
  EXPECT_EQ(world.hotplug.Online(Section(4), ZoneType::kMovable),
            absl::OkStatus());
  EXPECT_EQ(wakes, 1);
  world.allocator->SetObserver(nullptr);
  // Another operation may start again, also after a failed one.
  EXPECT_FALSE(world.hotplug.Remove(Section(4)).ok());
  EXPECT_EQ(world.hotplug.Add(Section(5), 0), absl::OkStatus());
}

// Zones

// Boot memory is [16 MiB, + 16 pages) and [+ 48, + 64): the hole in between is
// in DMA32's span, although it was absent; memory beyond the span is not.
TEST(MemoryHotplugZoneTest, KernelMemoryGoesToTheZoneWhoseSpanItIsIn) {
  PageAllocatorOptions options =
      HotplugOptions({PagesFrom(Pfn(0), 16), PagesFrom(kDma32Start, 16),
                      PagesFrom(kDma32Start + PageCount(48), 16)});
  options.hotplug_end = kDma32Start + PageCount(128);
  HotplugWorld world(options);
  const auto block = [](uint64_t number) {
    const Pfn start = kDma32Start + PageCount(number * kSectionPages);
    return PfnRange{start, start + PageCount(kSectionPages)};
  };
  const auto zone_of = [&](PfnRange range) {
    return world.allocator->ZoneOf(range.start).type();
  };
  world.AddOnline(block(1), ZoneType::kNormal);
  EXPECT_EQ(zone_of(block(1)), ZoneType::kDma32);
  world.AddOnline(block(2), ZoneType::kMovable);
  EXPECT_EQ(zone_of(block(2)), ZoneType::kMovable);
  world.AddOnline(block(4), ZoneType::kNormal);
  EXPECT_EQ(zone_of(block(4)), ZoneType::kNormal);
  // DMA's span ends at page 16.
  world.AddOnline(Section(4), ZoneType::kNormal);
  EXPECT_EQ(zone_of(Section(4)), ZoneType::kNormal);
}

TEST(MemoryHotplugZoneTest, MemoryGoesToTheNodeItWasAddedTo) {
  HotplugWorld world(
      HotplugOptions({PagesFrom(Pfn(0), 16, 0), PagesFrom(Pfn(16), 16, 1)}));
  world.AddOnline(Section(4), ZoneType::kMovable, 1);
  EXPECT_EQ(world.allocator->ZoneOf(Section(4).start).node(), 1);
  EXPECT_EQ(world.hotplug.Offline(Section(4)), absl::OkStatus());
  // The offline block is still known.
  EXPECT_EQ(world.hotplug.Online(Section(4), ZoneType::kMovable),
            absl::OkStatus());
  EXPECT_EQ(world.allocator->ZoneOf(Section(4).start).node(), 1);
}

TEST(MemoryHotplugZoneTest, OnlineMemoryIsMovableAndInTheLargestBlocks) {
  HotplugWorld world;
  world.AddOnline(Section(4), ZoneType::kMovable);
  Zone& zone = world.allocator->zone(0, ZoneType::kMovable);
  EXPECT_EQ(zone.free_blocks(Order(3)), 2);
  LockHolder hold(zone.lock());
  EXPECT_EQ(zone.PageblocksByType()[static_cast<size_t>(MigrateType::kMovable)],
            4);
}

// 64 pages initially, 2,624 later: watermarks, reserves, per-CPU limits and
// zonelists equal those of a guest booted with that memory.
TEST(MemoryHotplugZoneTest, LimitsFollowTheSizesOfZones) {
  constexpr uint64_t kPages = 16 * 1024;
  const auto options = [](bool all) {
    return PageAllocatorOptions{
        .memory = all ? MemoryMap{PagesFrom(kDma32Start, kPages),
                                  PagesFrom(kNormalStart, kPages)}
                      : MemoryMap{PagesFrom(kDma32Start, kPages)},
        .hotplug_end = kNormalStart + PageCount(kPages),
        .cpus = 2,
        .section_order = Order(10)};
  };
  const auto small = MakeAllocator(options(false));
  const auto large = MakeAllocator(options(true));
  HotplugWorld world(options(false));
  const auto expect_same = [&](const PageAllocator& expected) {
    const PageAllocator& actual = *world.allocator;
    EXPECT_EQ(actual.min_free_kbytes(), expected.min_free_kbytes());
    for (size_t i = 0; i < actual.zones().size(); ++i) {
      const Zone& zone = *actual.zones()[i];
      const Zone& like = *expected.zones()[i];
      SCOPED_TRACE(Name(zone.type()));
      EXPECT_EQ(zone.managed_pages(), like.managed_pages());
      EXPECT_EQ(zone.watermarks(), like.watermarks());
      for (const ZoneType highest : {ZoneType::kDma, ZoneType::kDma32,
                                     ZoneType::kNormal, ZoneType::kMovable}) {
        EXPECT_EQ(zone.lowmem_reserve(highest), like.lowmem_reserve(highest));
      }
      for (int cpu = 0; cpu < 2; ++cpu) {
        EXPECT_EQ(actual.per_cpu_pages(cpu, zone).limits(),
                  expected.per_cpu_pages(cpu, like).limits());
      }
    }
  };
  expect_same(*small);
  EXPECT_LT(world.allocator->Allocate(0, Order(0), kGfpKernel), kNormalStart);

  const PfnRange added = PagesFrom(kNormalStart, kPages).pages();
  world.AddOnline(added, ZoneType::kNormal);
  expect_same(*large);
  // With 64 MiB, the per-CPU batch is more than one page: 16,384 / 1,024 / 4
  // pages, half as much again, rounded down to a power of two, less one.
  EXPECT_EQ(large->per_cpu_pages(0, large->zone(0, ZoneType::kNormal)).limits(),
            (PerCpuLimits{.batch = 3, .high = 18}));
  const auto page = world.allocator->Allocate(0, Order(0), kGfpKernel);
  ASSERT_TRUE(page.has_value());
  EXPECT_GE(*page, kNormalStart);
  world.allocator->Free(0, *page, Order(0));

  EXPECT_EQ(world.hotplug.Offline(added), absl::OkStatus());
  expect_same(*small);
  EXPECT_LT(world.allocator->Allocate(0, Order(0), kGfpKernel), kNormalStart);
}

// Cached pages are returned to the zone when its limits change.
TEST(MemoryHotplugZoneTest, NewPerCpuLimitsLoseNoPage) {
  constexpr uint64_t kPages = 4096;
  HotplugWorld world({.memory = {PagesFrom(kNormalStart, kPages)},
                      .hotplug_end = kNormalStart + PageCount(8 * kPages),
                      .section_order = Order(12),
                      .min_free_kbytes = 0});
  const Zone& zone = world.allocator->zone(0, ZoneType::kNormal);
  ASSERT_EQ(world.allocator->per_cpu_pages(0, zone).limits(),
            (PerCpuLimits{.batch = 1, .high = 0}));
  const PfnRange added = {kNormalStart + PageCount(4 * kPages),
                          kNormalStart + PageCount(8 * kPages)};
  world.AddOnline(added, ZoneType::kNormal);
  ASSERT_EQ(world.allocator->per_cpu_pages(0, zone).limits(),
            (PerCpuLimits{.batch = 3, .high = 18}));
  std::vector<Pfn> pages;
  for (int i = 0; i < 10; ++i) {
    pages.push_back(*world.allocator->Allocate(0, Order(0), kGfpKernel));
  }
  for (const Pfn pfn : pages) world.allocator->Free(0, pfn, Order(0));
  EXPECT_GT(world.allocator->Counts().cached, PageCount(0));
  const bool in_the_added =
      world.allocator->pages().Get(added.start).state == PageState::kFree;
  EXPECT_TRUE(in_the_added);
  EXPECT_EQ(world.hotplug.Offline(added), absl::OkStatus());
  EXPECT_EQ(world.allocator->per_cpu_pages(0, zone).limits(),
            (PerCpuLimits{.batch = 1, .high = 0}));
  EXPECT_EQ(world.allocator->Counts().cached, PageCount(0));
  EXPECT_EQ(world.allocator->Counts().free, PageCount(kPages));
}

// A zone that has become empty is no longer tried; one that has got memory is.
TEST(MemoryHotplugZoneTest, RequestsFindWhatIsOnline) {
  HotplugWorld world;
  TakeAll(*world.allocator, 0, Order(0));
  EXPECT_FALSE(world.allocator->Allocate(0, Order(0)));
  world.AddOnline(Section(4), ZoneType::kMovable);
  const std::vector<Pfn> pages = TakeAll(*world.allocator, 0, Order(0));
  EXPECT_EQ(pages.size(), kSectionPages);
  FreeAll(*world.allocator, 0, pages, Order(0));
  EXPECT_EQ(world.hotplug.Offline(Section(4)), absl::OkStatus());
  EXPECT_FALSE(world.allocator->Allocate(0, Order(0)));
}

// Notifications

TEST(MemoryHotplugObserverTest, IsNotifiedBeforeBlocksAreFreeAndAfterRemoval) {
  HotplugWorld world;
  Listener listener;
  world.allocator->SetObserver(&listener, Order(3));
  EXPECT_THAT(listener.heard, ElementsAre("online [0x0, 0x20) in DMA"));
  listener.heard.clear();
  world.AddOnline(Section(4), ZoneType::kMovable);
  EXPECT_THAT(listener.heard, ElementsAre("online [0x40, 0x50) in Movable",
                                          "free 0x40 of 3 in Movable",
                                          "free 0x48 of 3 in Movable"));
  listener.heard.clear();
  EXPECT_EQ(world.hotplug.Offline(Section(4)), absl::OkStatus());
  EXPECT_THAT(listener.heard, ElementsAre("offline [0x40, 0x50) in Movable"));
  world.allocator->SetObserver(nullptr);
}

// While being offlined it is not reported as absent.
TEST(MemoryHotplugObserverTest, MemoryThatIsLeavingIsOffline) {
  HotplugWorld world;
  Listener listener;
  std::string state;
  listener.on_offline = [&] { state = world.StateOf(1); };
  world.allocator->SetObserver(&listener);
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
  EXPECT_EQ(state, "offline");
  world.allocator->SetObserver(nullptr);
}

TEST(MemoryHotplugObserverTest, ALaterOneIsNotifiedOfAllOnlineMemory) {
  HotplugWorld world;
  world.AddOnline(Section(4), ZoneType::kMovable);
  world.AddOnline(Section(6), ZoneType::kMovable);
  ASSERT_EQ(world.hotplug.Offline(Section(0)), absl::OkStatus());
  Listener listener;
  world.allocator->SetObserver(&listener);
  EXPECT_THAT(listener.heard, ElementsAre("online [0x10, 0x20) in DMA",
                                          "online [0x40, 0x50) in Movable",
                                          "online [0x60, 0x70) in Movable"));
  world.allocator->SetObserver(nullptr);
}

TEST(MemoryHotplugObserverTest, ARefusedOfflineIsNotNotified) {
  HotplugWorld world;
  const Pfn pfn = world.allocator->Allocate(0, Order(0)).value();
  Listener listener;
  world.allocator->SetObserver(&listener);
  listener.heard.clear();
  EXPECT_FALSE(
      world.hotplug.Offline(Section(pfn.value() / kSectionPages)).ok());
  EXPECT_THAT(listener.heard, IsEmpty());
  world.allocator->SetObserver(nullptr);
}

// Wake is called outside all locks: the observer may query states and replace
// itself.
TEST(MemoryHotplugObserverTest, IsWokenWithoutLocks) {
  constexpr uint64_t kPages = 4096;
  HotplugWorld world({.memory = {PagesFrom(kNormalStart, 4 * kPages)},
                      .hotplug_end = kNormalStart + PageCount(16 * kPages),
                      .section_order = Order(12),
                      .min_free_kbytes = 0});
  const PfnRange added = {kNormalStart + PageCount(8 * kPages),
                          kNormalStart + PageCount(16 * kPages)};
  // Cached pages are returned to the zone when its limits change.
  const auto page = world.allocator->Allocate(0, Order(0), kGfpKernel);
  ASSERT_TRUE(page.has_value());
  ASSERT_GT(world.allocator->Counts().cached, PageCount(0));
  ASSERT_EQ(world.hotplug.Add(added, 0), absl::OkStatus());
  Listener listener;
  int wakes = 0;
  listener.on_wake = [&] {
    ++wakes;
    EXPECT_NE(world.hotplug.StateOf(added.start), "absent");
    world.allocator->SetObserver(&listener);
  };
  world.allocator->SetObserver(&listener);
  EXPECT_EQ(world.hotplug.Online(added, ZoneType::kNormal), absl::OkStatus());
  EXPECT_GT(wakes, 0);
  EXPECT_EQ(world.allocator->Counts().cached, PageCount(0));
  world.allocator->SetObserver(nullptr);
}

}  // namespace
}  // namespace guestmm::memory_hotplug_test
