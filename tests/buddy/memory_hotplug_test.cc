#include "guestmm/buddy/memory_hotplug.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/random.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/free_block_observer.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Memory blocks of 16 pages: two blocks of the largest order, four pageblocks.
constexpr Order kSection(4);
constexpr uint64_t kSectionPages = 16;

PfnRange Section(uint64_t number, uint64_t count = 1) {
  const Pfn start(number * kSectionPages);
  return {start, start + PageCount(count * kSectionPages)};
}

PageAllocatorOptions Options(std::vector<MemoryRange> memory) {
  return {.memory = std::move(memory),
          .hotplug_end = Pfn(8 * kSectionPages),
          .max_order = Order(3),
          .pageblock_order = Order(2),
          .section_order = kSection,
          .min_free_kbytes = 0,
          .per_cpu_limits = kNoCache};
}

// Memory blocks 0 and 1 of 8 at boot, as DMA.
struct World {
  explicit World(PageAllocatorOptions options =
                     Options({PagesFrom(Pfn(0), 2 * kSectionPages)}),
                 Workqueue* reporting = nullptr)
      : allocator(MakeAllocator(options)),
        hotplug(*allocator, nullptr, reporting) {}
  ~World() { ExpectInvariants(*allocator); }

  std::string StateOf(uint64_t section) const {
    return std::string(hotplug.StateOf(Section(section).start));
  }
  void Expect(const absl::Status& status, absl::StatusCode code,
              const std::string& text) const {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    ExpectInvariants(*allocator);
  }
  void AddOnline(PfnRange range, ZoneType type, int node = 0) {
    ASSERT_EQ(hotplug.Add(range, node), absl::OkStatus());
    ASSERT_EQ(hotplug.Online(range, type), absl::OkStatus());
  }

  std::unique_ptr<PageAllocator> allocator;
  MemoryHotplug hotplug;
};

// States
// -----------------------------------------------------------------------------

TEST(MemoryHotplugTest, WhatIsThereAtBootIsOnlineAndTheRestAbsent) {
  const World world;
  EXPECT_EQ(world.StateOf(0), "online");
  EXPECT_EQ(world.StateOf(1), "online");
  EXPECT_EQ(world.StateOf(2), "absent");
  EXPECT_EQ(world.StateOf(1000), "absent");
  // Of any page in it.
  EXPECT_EQ(world.hotplug.StateOf(Pfn(31)), "online");
}

TEST(MemoryHotplugTest, ItGoesRoundAllStates) {
  World world;
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

TEST(MemoryHotplugTest, WhatWasThereAtBootGoesOfflineAndComesBack) {
  World world;
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
  EXPECT_EQ(world.StateOf(1), "offline");
  EXPECT_EQ(world.allocator->zone(0, ZoneType::kDma).span(), Section(0));
  EXPECT_EQ(world.hotplug.Online(Section(1), ZoneType::kMovable),
            absl::OkStatus());
  EXPECT_EQ(world.allocator->zone(0, ZoneType::kMovable).span(), Section(1));
}

TEST(MemoryHotplugTest, OfflineMemoryIsOnlinedToAnotherZone) {
  World world;
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
  World world;
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

// What is refused
// ----------------------------------------------------------------------

TEST(MemoryHotplugErrorTest, RangesThatAreNotWholeMemoryBlocks) {
  World world;
  constexpr const char* kText = ": not in whole memory blocks of 64.00 KiB";
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
  World world;
  world.Expect(world.hotplug.Add(Section(7, 2), 0),
               absl::StatusCode::kInvalidArgument,
               "memory of pages [0x70, 0x90): beyond hotplug_end, pfn 0x80");
  EXPECT_EQ(world.StateOf(7), "absent");
}

TEST(MemoryHotplugErrorTest, AddToANodeThatIsNotThere) {
  World world;
  for (const int node : {-1, 1}) {
    world.Expect(world.hotplug.Add(Section(4), node),
                 absl::StatusCode::kInvalidArgument,
                 absl::StrCat("memory of pages [0x40, 0x50): node ", node,
                              "; there are 1 nodes"));
  }
}

TEST(MemoryHotplugErrorTest, AddWhereThereIsSome) {
  World world;
  world.Expect(world.hotplug.Add(Section(1, 2), 0),
               absl::StatusCode::kAlreadyExists,
               "memory of pages [0x10, 0x30): there is memory in the memory "
               "block at pfn 0x10");
  EXPECT_EQ(world.StateOf(2), "absent");
  ASSERT_EQ(world.hotplug.Add(Section(4), 0), absl::OkStatus());
  world.Expect(world.hotplug.Add(Section(3, 2), 0),
               absl::StatusCode::kAlreadyExists, "at pfn 0x40");
  EXPECT_EQ(world.StateOf(3), "absent");
}

TEST(MemoryHotplugErrorTest, AddWhereAPartOfABlockIsThereAtBoot) {
  World world(Options({PagesFrom(Pfn(0), 20)}));
  EXPECT_EQ(world.StateOf(1), "online");
  world.Expect(world.hotplug.Add(Section(1), 0),
               absl::StatusCode::kAlreadyExists, "at pfn 0x10");
}

TEST(MemoryHotplugErrorTest, OnlineToAZoneOfAddresses) {
  World world;
  ASSERT_EQ(world.hotplug.Add(Section(4), 0), absl::OkStatus());
  for (const ZoneType type : {ZoneType::kDma, ZoneType::kDma32}) {
    world.Expect(world.hotplug.Online(Section(4), type),
                 absl::StatusCode::kInvalidArgument,
                 absl::StrCat("memory of pages [0x40, 0x50): zone ",
                              std::string(Name(type)),
                              "; Normal or Movable is allowed"));
  }
}

TEST(MemoryHotplugErrorTest, OnlineOfWhatIsNotOffline) {
  World world;
  ASSERT_EQ(world.hotplug.Add(Section(2), 0), absl::OkStatus());
  world.Expect(world.hotplug.Online(Section(1, 2), ZoneType::kMovable),
               absl::StatusCode::kFailedPrecondition,
               "memory of pages [0x10, 0x30): the memory block at pfn 0x10 is "
               "online");
  world.Expect(world.hotplug.Online(Section(2, 2), ZoneType::kMovable),
               absl::StatusCode::kFailedPrecondition,
               "the memory block at pfn 0x30 is absent");
  // None of it was.
  EXPECT_EQ(world.StateOf(2), "offline");
}

TEST(MemoryHotplugErrorTest, RemoveOfWhatIsNotOffline) {
  World world;
  ASSERT_EQ(world.hotplug.Add(Section(2), 0), absl::OkStatus());
  world.Expect(world.hotplug.Remove(Section(1, 2)),
               absl::StatusCode::kFailedPrecondition,
               "the memory block at pfn 0x10 is online");
  world.Expect(world.hotplug.Remove(Section(2, 2)),
               absl::StatusCode::kFailedPrecondition,
               "the memory block at pfn 0x30 is absent");
  EXPECT_EQ(world.StateOf(2), "offline");
}

TEST(MemoryHotplugErrorTest, OfflineOfWhatIsNotOnline) {
  World world;
  world.Expect(world.hotplug.Offline(Section(1, 2)),
               absl::StatusCode::kFailedPrecondition,
               "memory of pages [0x10, 0x30): pfn 0x20 is not online");
  ASSERT_EQ(world.hotplug.Add(Section(2), 0), absl::OkStatus());
  world.Expect(world.hotplug.Offline(Section(2)),
               absl::StatusCode::kFailedPrecondition, "pfn 0x20 is not online");
  EXPECT_EQ(world.StateOf(1), "online");
}

// Linux 5.3, offline_pages: boot memory with a hole cannot go.
TEST(MemoryHotplugErrorTest, OfflineOfABlockWithAHole) {
  World world(Options({PagesFrom(Pfn(0), 22), PagesFrom(Pfn(24), 40)}));
  world.Expect(world.hotplug.Offline(Section(1)),
               absl::StatusCode::kFailedPrecondition,
               "memory of pages [0x10, 0x20): pfn 0x16 is not online");
  EXPECT_EQ(world.hotplug.Offline(Section(2)), absl::OkStatus());
}

TEST(MemoryHotplugErrorTest, OfflineOfTwoZones) {
  World world;
  world.AddOnline(Section(2), ZoneType::kMovable);
  world.Expect(world.hotplug.Offline(Section(1, 2)),
               absl::StatusCode::kFailedPrecondition,
               "memory of pages [0x10, 0x30): pfn 0x20 is in another zone than "
               "pfn 0x10");
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
  EXPECT_EQ(world.hotplug.Offline(Section(2)), absl::OkStatus());
}

// An observer that does what the test says, and tells what it heard.
class Listener final : public FreeBlockObserver {
 public:
  bool OnBlockFreed(Zone& zone, Pfn pfn, Order order) override {
    heard.push_back(absl::StrFormat("free 0x%x of %d in %s", pfn.value(),
                                    order.value(),
                                    std::string(Name(zone.type()))));
    return true;
  }
  void OnMemoryOnline(Zone& zone, PfnRange range) override {
    Heard("online", zone, range);
  }
  void OnMemoryOffline(Zone& zone, PfnRange range) override {
    Heard("offline", zone, range);
    if (on_offline) on_offline();
  }
  void Wake() override {
    if (on_wake) on_wake();
  }

  std::vector<std::string> heard;
  std::function<void()> on_wake;
  std::function<void()> on_offline;

 private:
  void Heard(const char* what, const Zone& zone, PfnRange range) {
    heard.push_back(absl::StrFormat("%s [0x%x, 0x%x) in %s", what,
                                    range.start.value(), range.end.value(),
                                    std::string(Name(zone.type()))));
  }
};

TEST(MemoryHotplugErrorTest, AnotherOperationIsUnderWay) {
  World world;
  Listener listener;
  int wakes = 0;
  listener.on_wake = [&] {
    ++wakes;
    constexpr auto kCode = absl::StatusCode::kUnavailable;
    constexpr const char* kText =
        "another hotplug operation is under way; try again";
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
  // The place is free again, after a failure too.
  EXPECT_FALSE(world.hotplug.Remove(Section(4)).ok());
  EXPECT_EQ(world.hotplug.Add(Section(5), 0), absl::OkStatus());
}

// Zones
// ----------------------------------------------------------------------------------

// Boot memory [16 MiB, + 16 pages) and [+ 48, + 64): the hole between is
// DMA32's, although nothing of it was there, and what is behind the span is
// not.
TEST(MemoryHotplugZoneTest, KernelMemoryGoesToTheZoneWhoseSpanItIsIn) {
  PageAllocatorOptions options =
      Options({PagesFrom(Pfn(0), 16), PagesFrom(kDma32Start, 16),
               PagesFrom(kDma32Start + PageCount(48), 16)});
  options.hotplug_end = kDma32Start + PageCount(128);
  World world(options);
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
  // DMA's span ends at 16 pages.
  world.AddOnline(Section(4), ZoneType::kNormal);
  EXPECT_EQ(zone_of(Section(4)), ZoneType::kNormal);
}

TEST(MemoryHotplugZoneTest, MemoryGoesToTheNodeItWasAddedTo) {
  World world(Options({PagesFrom(Pfn(0), 16, 0), PagesFrom(Pfn(16), 16, 1)}));
  world.AddOnline(Section(4), ZoneType::kMovable, 1);
  EXPECT_EQ(world.allocator->ZoneOf(Section(4).start).node(), 1);
  EXPECT_EQ(world.hotplug.Offline(Section(4)), absl::OkStatus());
  // It is not forgotten offline.
  EXPECT_EQ(world.hotplug.Online(Section(4), ZoneType::kMovable),
            absl::OkStatus());
  EXPECT_EQ(world.allocator->ZoneOf(Section(4).start).node(), 1);
}

TEST(MemoryHotplugZoneTest, OnlineMemoryIsMovableAndInTheLargestBlocks) {
  World world;
  world.AddOnline(Section(4), ZoneType::kMovable);
  Zone& zone = world.allocator->zone(0, ZoneType::kMovable);
  EXPECT_EQ(zone.free_blocks(Order(3)), 2);
  LockHolder hold(zone.lock());
  EXPECT_EQ(zone.PageblocksByType()[static_cast<size_t>(MigrateType::kMovable)],
            4);
}

// 64 pages at first, 2,624 later: watermarks, reserves, per-CPU limits and
// zonelists are those of a guest that was made so.
TEST(MemoryHotplugZoneTest, WhatDependsOnSizesFollows) {
  constexpr uint64_t kPages = 16 * 1024;
  const auto options = [](bool all) {
    return PageAllocatorOptions{
        .memory =
            all ? std::vector<MemoryRange>{PagesFrom(kDma32Start, kPages),
                                           PagesFrom(kNormalStart, kPages)}
                : std::vector<MemoryRange>{PagesFrom(kDma32Start, kPages)},
        .hotplug_end = kNormalStart + PageCount(kPages),
        .cpus = 2,
        .section_order = Order(10)};
  };
  const auto small = MakeAllocator(options(false));
  const auto large = MakeAllocator(options(true));
  World world(options(false));
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
  // 64 MiB are of a per-CPU batch of more than one page: 16,384 / 1,024 / 4
  // pages, half as much again, down to a power of two, less one.
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

// What is cached when a zone's limits change goes back to the zone.
TEST(MemoryHotplugZoneTest, NewPerCpuLimitsLoseNoPage) {
  constexpr uint64_t kPages = 4096;
  World world({.memory = {PagesFrom(kNormalStart, kPages)},
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

// A zone that is empty again is asked no more, one that has come is.
TEST(MemoryHotplugZoneTest, RequestsFindWhatIsOnline) {
  World world;
  TakeAll(*world.allocator, 0, Order(0));
  EXPECT_FALSE(world.allocator->Allocate(0, Order(0)));
  world.AddOnline(Section(4), ZoneType::kMovable);
  const std::vector<Pfn> pages = TakeAll(*world.allocator, 0, Order(0));
  EXPECT_EQ(pages.size(), kSectionPages);
  FreeAll(*world.allocator, 0, pages, Order(0));
  EXPECT_EQ(world.hotplug.Offline(Section(4)), absl::OkStatus());
  EXPECT_FALSE(world.allocator->Allocate(0, Order(0)));
}

// What observers hear
// ---------------------------------------------------------------------

TEST(MemoryHotplugObserverTest, HearsOfMemoryBeforeItsBlocksAndAfterItLeft) {
  World world;
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

// While it goes offline it does not look absent.
TEST(MemoryHotplugObserverTest, MemoryThatIsLeavingIsOffline) {
  World world;
  Listener listener;
  std::string state;
  listener.on_offline = [&] { state = world.StateOf(1); };
  world.allocator->SetObserver(&listener);
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
  EXPECT_EQ(state, "offline");
  world.allocator->SetObserver(nullptr);
}

TEST(MemoryHotplugObserverTest, ALaterOneHearsOfAllThatIsOnline) {
  World world;
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

TEST(MemoryHotplugObserverTest, ARefusedOfflineIsNotHeardOf) {
  World world;
  const Pfn pfn = world.allocator->Allocate(0, Order(0)).value();
  Listener listener;
  world.allocator->SetObserver(&listener);
  listener.heard.clear();
  EXPECT_FALSE(
      world.hotplug.Offline(Section(pfn.value() / kSectionPages)).ok());
  EXPECT_THAT(listener.heard, IsEmpty());
  world.allocator->SetObserver(nullptr);
}

// Wake comes without any lock: whoever is woken may look at states and change
// the observer.
TEST(MemoryHotplugObserverTest, IsWokenWithoutLocks) {
  constexpr uint64_t kPages = 4096;
  World world({.memory = {PagesFrom(kNormalStart, 4 * kPages)},
               .hotplug_end = kNormalStart + PageCount(16 * kPages),
               .section_order = Order(12),
               .min_free_kbytes = 0});
  const PfnRange added = {kNormalStart + PageCount(8 * kPages),
                          kNormalStart + PageCount(16 * kPages)};
  // Cached pages, which go to the zone when its limits change.
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

// Offline
// ------------------------------------------------------------------------------------

// What a refusal must leave as it was.
struct Snapshot {
  PageCounts counts;
  std::array<uint64_t, kMigrateTypes> pageblocks;
  std::vector<uint64_t> free_blocks;

  explicit Snapshot(Zone& zone, const PageAllocator& allocator)
      : counts(allocator.Counts()) {
    LockHolder hold(zone.lock());
    pageblocks = zone.PageblocksByType();
    for (int order = 0; order <= 3; ++order) {
      for (int type = 0; type < kMigrateTypes; ++type) {
        uint64_t blocks = 0;
        zone.ForEachFreeBlock(Order(order), static_cast<MigrateType>(type),
                              [&](Pfn) { ++blocks; });
        free_blocks.push_back(blocks);
      }
    }
  }
  void ExpectSame(const Snapshot& now) const {
    EXPECT_EQ(now.counts.managed, counts.managed);
    EXPECT_EQ(now.counts.free, counts.free);
    EXPECT_EQ(now.counts.offlining, counts.offlining);
    EXPECT_EQ(now.counts.isolated, counts.isolated);
    EXPECT_EQ(now.pageblocks, pageblocks);
    EXPECT_EQ(now.free_blocks, free_blocks);
  }
};

// Pageblocks of several types, and one page in use in the middle.
TEST(MemoryHotplugOfflineTest, APageInUseIsNamedAndAllIsPutBack) {
  World world;
  PageAllocator& allocator = *world.allocator;
  Zone& zone = allocator.zone(0, ZoneType::kDma);
  const std::vector<Pfn> all = TakeAll(allocator, 0, Order(0), kGfpDma);
  ASSERT_EQ(all.size(), 32);
  FreeAll(allocator, 0, all, Order(0));
  const Pfn kernel = *allocator.Allocate(0, Order(0), kGfpDma);
  const Pfn cache = *allocator.Allocate(0, Order(0), kGfpReclaimable);
  const Pfn user = *allocator.Allocate(0, Order(0), kGfpUser);
  const Pfn first = std::min({kernel, cache, user});
  const Snapshot before(zone, allocator);

  world.Expect(world.hotplug.Offline(Section(0, 2)),
               absl::StatusCode::kFailedPrecondition,
               absl::StrFormat("memory of pages [0x0, 0x20): pfn 0x%x is in "
                               "use: allocated",
                               first.value()));
  EXPECT_EQ(world.StateOf(0), "online");
  before.ExpectSame(Snapshot(zone, allocator));

  // The free lists and per-CPU lists work on.
  const std::vector<Pfn> rest = TakeAll(allocator, 0, Order(0), kGfpDma);
  EXPECT_EQ(rest.size(), 29);
  FreeAll(allocator, 0, rest, Order(0));
  for (const Pfn pfn : {kernel, cache, user}) allocator.Free(0, pfn, Order(0));
  EXPECT_EQ(world.hotplug.Offline(Section(0, 2)), absl::OkStatus());
}

TEST(MemoryHotplugOfflineTest, APinnedPageIsInUseUntilItIsUnpinned) {
  World world;
  const Pfn pfn = *world.allocator->Allocate(0, Order(2));
  world.allocator->Pin(pfn);
  world.allocator->Free(0, pfn, Order(2));
  const PfnRange section = {pfn.AlignDown(kSection),
                            pfn.AlignDown(kSection) + kSection.pages()};
  world.Expect(world.hotplug.Offline(section),
               absl::StatusCode::kFailedPrecondition, "is in use");
  world.allocator->Unpin(0, pfn);
  EXPECT_EQ(world.hotplug.Offline(section), absl::OkStatus());
}

TEST(MemoryHotplugOfflineTest, CachedPagesAreDrained) {
  for (const Linux lists : {Linux::k53, Linux::k61}) {
    PageAllocatorOptions options = Options({PagesFrom(Pfn(0), 32)});
    options.cpus = 2;
    options.per_cpu_lists = lists;
    options.per_cpu_limits = PerCpuLimits{.batch = 8, .high = 32};
    World world(options);
    for (int cpu = 0; cpu < 2; ++cpu) {
      const Pfn pfn = *world.allocator->Allocate(cpu, Order(0));
      world.allocator->Free(cpu, pfn, Order(0));
    }
    ASSERT_EQ(world.allocator->Counts().cached, PageCount(16));
    EXPECT_EQ(world.hotplug.Offline(Section(0, 2)), absl::OkStatus());
    EXPECT_EQ(world.allocator->Counts().cached, PageCount(0));
    EXPECT_EQ(world.allocator->Counts().managed, PageCount(0));
  }
}

TEST(MemoryHotplugOfflineTest, PerCpuListsWorkOnAfterARefusal) {
  PageAllocatorOptions options = Options({PagesFrom(Pfn(0), 32)});
  options.per_cpu_limits = PerCpuLimits{.batch = 4, .high = 8};
  World world(options);
  const Pfn pfn = *world.allocator->Allocate(0, Order(0));
  ASSERT_EQ(world.allocator->Counts().cached, PageCount(3));
  EXPECT_FALSE(world.hotplug.Offline(Section(pfn.value() / 16)).ok());
  EXPECT_EQ(world.allocator->Counts().cached, PageCount(0));
  world.allocator->Free(0, pfn, Order(0));
  EXPECT_EQ(world.allocator->Counts().cached, PageCount(1));
  EXPECT_EQ(world.allocator->Allocate(0, Order(0)), pfn);
  EXPECT_EQ(TakeAll(*world.allocator, 0, Order(0)).size(), 31);
}

// While the drain runs, the page in use is freed: it does not go to a per-CPU
// list, and is not to be had any more.
TEST(MemoryHotplugOfflineTest, WhatIsFreedMeanwhileStaysIsolated) {
  PageAllocatorOptions options = Options({PagesFrom(Pfn(0), 32)});
  options.per_cpu_limits = PerCpuLimits{.batch = 4, .high = 8};
  World world(options);
  PageAllocator& allocator = *world.allocator;
  Listener listener;
  const Pfn pfn = *allocator.Allocate(0, Order(0));
  const Pfn block = *allocator.Allocate(0, Order(2));
  ASSERT_EQ(allocator.Counts().cached, PageCount(3));
  bool freed = false;
  listener.on_wake = [&] {
    if (std::exchange(freed, true)) return;
    allocator.Free(0, pfn, Order(0));
    allocator.Free(0, block, Order(2));
    EXPECT_EQ(allocator.Counts().cached, PageCount(0));
    EXPECT_EQ(allocator.Counts().offlining, PageCount(32));
    EXPECT_EQ(allocator.Counts().free, PageCount(0));
    EXPECT_FALSE(allocator.Allocate(0, Order(0)));
    EXPECT_FALSE(allocator.Allocate(0, Order(3), kGfpAtomic));
    ExpectInvariants(allocator);
  };
  allocator.SetObserver(&listener);
  EXPECT_EQ(world.hotplug.Offline(Section(0, 2)), absl::OkStatus());
  EXPECT_TRUE(freed);
  allocator.SetObserver(nullptr);
}

TEST(MemoryHotplugOfflineTest, OtherMemoryIsToBeHadMeanwhile) {
  PageAllocatorOptions options = Options({PagesFrom(Pfn(0), 32)});
  VirtualTime time(1);
  World world(options, &time);
  PageAllocator& allocator = *world.allocator;
  std::optional<IsolatedBlock> block(Isolate(allocator, Pfn(0)));
  Work work([&] {
    EXPECT_EQ(allocator.Counts().offlining, PageCount(8));
    EXPECT_EQ(TakeAll(allocator, 0, Order(0)).size(), 16);
    Return(*std::move(block));
    EXPECT_EQ(allocator.Counts().offlining, PageCount(16));
  });
  time.Queue(work, Nanoseconds(10));
  EXPECT_EQ(world.hotplug.Offline(Section(0)), absl::OkStatus());
  EXPECT_EQ(allocator.Counts().allocated(), PageCount(16));
}

TEST(MemoryHotplugOfflineTest, BlocksInFlightAreWaitedFor) {
  VirtualTime time(1);
  World world(Options({PagesFrom(Pfn(0), 32)}), &time);
  std::optional<IsolatedBlock> first(Isolate(*world.allocator, Pfn(16)));
  std::optional<IsolatedBlock> second(Isolate(*world.allocator, Pfn(24)));
  Work return_first([&] { Return(*std::move(first)); });
  Work return_second([&] { Return(*std::move(second)); });
  time.Queue(return_first, Nanoseconds(10));
  time.Queue(return_second, Nanoseconds(20));
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
  EXPECT_EQ(time.Now(), Nanoseconds(20));
  EXPECT_EQ(world.allocator->Counts().managed, PageCount(16));
}

// Nothing that goes offline is sent to the host any more.
TEST(MemoryHotplugOfflineTest, NoBlockOnItsWayOfflineIsIsolated) {
  VirtualTime time(1);
  World world(Options({PagesFrom(Pfn(0), 32)}), &time);
  Zone& zone = world.allocator->zone(0, ZoneType::kDma);
  std::optional<IsolatedBlock> block(Isolate(*world.allocator, Pfn(16)));
  Work work([&] {
    {
      LockHolder hold(zone.lock());
      EXPECT_EQ(zone.FreeBlockAt(Pfn(24)), Order(3));
      EXPECT_FALSE(zone.Isolate(Pfn(24)).has_value());
    }
    Return(*std::move(block));
  });
  time.Queue(work);
  EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
}

TEST(MemoryHotplugOfflineTest, ABlockThatDoesNotComeBackIsNamed) {
  VirtualTime time(1);
  for (Workqueue* const queue :
       {static_cast<Workqueue*>(nullptr), static_cast<Workqueue*>(&time)}) {
    World world(Options({PagesFrom(Pfn(0), 32)}), queue);
    Zone& zone = world.allocator->zone(0, ZoneType::kDma);
    IsolatedBlock block = Isolate(*world.allocator, Pfn(24));
    const Snapshot before(zone, *world.allocator);
    world.Expect(world.hotplug.Offline(Section(1)),
                 absl::StatusCode::kFailedPrecondition,
                 "memory of pages [0x10, 0x20): pfn 0x18 is isolated for the "
                 "host, which does not return it");
    before.ExpectSame(Snapshot(zone, *world.allocator));
    Return(std::move(block));
    EXPECT_EQ(world.allocator->Counts().free, PageCount(32));
    EXPECT_EQ(world.hotplug.Offline(Section(1)), absl::OkStatus());
  }
}

TEST(MemoryHotplugOfflineTest, AllOfTheMemoryMayGo) {
  World world;
  EXPECT_EQ(world.hotplug.Offline(Section(0, 2)), absl::OkStatus());
  EXPECT_EQ(world.allocator->Counts().managed, PageCount(0));
  EXPECT_FALSE(world.allocator->Allocate(0, Order(0)));
  EXPECT_FALSE(world.allocator->Allocate(0, Order(0), kGfpAtomic));
  EXPECT_EQ(world.allocator->vmstat().alloc_failed, 2);
  EXPECT_EQ(world.hotplug.Online(Section(0, 2), ZoneType::kNormal),
            absl::OkStatus());
  // DMA has no span any more.
  EXPECT_EQ(world.allocator->zone(0, ZoneType::kNormal).managed_pages(),
            PageCount(32));
  EXPECT_TRUE(world.allocator->Allocate(0, Order(0)));
}

// Any program
// -------------------------------------------------------------------------------

// Eight memory blocks above 4 GiB, on two nodes, of them two at boot.
class RandomProgram {
 public:
  explicit RandomProgram(uint64_t seed)
      : random_(seed),
        allocator_(MakeAllocator(
            {.memory = {{Start(0), Start(1), 0}, {Start(1), Start(2), 1}},
             .hotplug_end = Start(kSections),
             .cpus = 2,
             .max_order = Order(3),
             .pageblock_order = Order(2),
             .section_order = kSection,
             .min_free_kbytes = 0,
             .per_cpu_lists = seed % 2 == 0 ? Linux::k53 : Linux::k61,
             .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}})),
        hotplug_(*allocator_) {
    sections_[0] = {.state = "online", .zone = "0 Normal", .node = 0};
    sections_[1] = {.state = "online", .zone = "1 Normal", .node = 1};
  }
  ~RandomProgram() {
    for (IsolatedBlock& block : isolated_) Return(std::move(block));
  }

  void Step() {
    const int cpu = static_cast<int>(random_.Below(2));
    switch (random_.Below(12)) {
      case 0:
        return Add();
      case 1:
        return Online();
      case 2:
      case 3:
        return Offline();
      case 4:
        return Remove();
      case 5:
      case 6:
      case 7:
        return Allocate(cpu);
      case 8:
      case 9:
        return Free(cpu);
      case 10:
        return IsolateOrReturn();
      default:
        allocator_->DrainPerCpuPages();
    }
  }

  void Check() const {
    ASSERT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
    PageCount managed;
    PageCount isolated;
    PageCount allocated;
    for (uint64_t i = 0; i < kSections; ++i) {
      ASSERT_EQ(hotplug_.StateOf(Start(i)), sections_[i].state) << i;
      if (sections_[i].state != "online") continue;
      managed += kSection.pages();
      ASSERT_EQ(ZoneName(Start(i)), sections_[i].zone);
    }
    for (const IsolatedBlock& block : isolated_) {
      isolated += block.order().pages();
    }
    for (const auto& [pfn, order] : live_) {
      allocated += order.pages();
      ASSERT_EQ(allocator_->pages().Get(pfn),
                (PageInfo{PageState::kAllocated, order}));
    }
    const PageCounts counts = allocator_->Counts();
    ASSERT_EQ(counts.managed, managed);
    ASSERT_EQ(counts.isolated, isolated);
    ASSERT_EQ(counts.allocated(), allocated);
    ASSERT_EQ(counts.offlining, PageCount(0));
  }

  uint64_t offlined() const { return offlined_; }

 private:
  static constexpr uint64_t kSections = 8;
  struct Block {
    std::string state = "absent";
    std::string zone = {};
    int node = 0;
  };

  static Pfn Start(uint64_t section) {
    return kNormalStart + PageCount(section * kSectionPages);
  }
  std::string ZoneName(Pfn pfn) const {
    const Zone& zone = allocator_->ZoneOf(pfn);
    return absl::StrCat(zone.node(), " ", std::string(Name(zone.type())));
  }

  // One memory block or two.
  void Choose() {
    first_ = random_.Below(kSections);
    count_ = std::min(random_.Between(1, 2), kSections - first_);
  }
  PfnRange range() const { return {Start(first_), Start(first_ + count_)}; }
  bool AllAre(const std::string& state) const {
    for (uint64_t i = first_; i < first_ + count_; ++i) {
      if (sections_[i].state != state) return false;
    }
    return true;
  }
  template <typename Change>
  void ChangeAll(Change change) {
    for (uint64_t i = first_; i < first_ + count_; ++i) change(sections_[i]);
  }

  void Add() {
    Choose();
    const int node = static_cast<int>(random_.Below(2));
    const bool may = AllAre("absent");
    ASSERT_EQ(hotplug_.Add(range(), node).ok(), may);
    if (may)
      ChangeAll([&](Block& b) { b = {.state = "offline", .node = node}; });
  }
  void Online() {
    Choose();
    const ZoneType type =
        random_.OneIn(2) ? ZoneType::kMovable : ZoneType::kNormal;
    const bool may = AllAre("offline");
    ASSERT_EQ(hotplug_.Online(range(), type).ok(), may);
    if (!may) return;
    ChangeAll([&](Block& b) {
      b.state = "online";
      b.zone = absl::StrCat(b.node, " ", std::string(Name(type)));
    });
  }
  void Offline() {
    Choose();
    bool may = AllAre("online") &&
               sections_[first_].zone == sections_[first_ + count_ - 1].zone;
    for (const auto& [pfn, order] : live_) may &= !range().Contains(pfn);
    for (const IsolatedBlock& b : isolated_) may &= !range().Contains(b.pfn());
    const absl::Status status = hotplug_.Offline(range());
    ASSERT_EQ(status.ok(), may) << status;
    if (!may) return;
    ++offlined_;
    ChangeAll([&](Block& b) { b.state = "offline"; });
  }
  void Remove() {
    Choose();
    const bool may = AllAre("offline");
    ASSERT_EQ(hotplug_.Remove(range()).ok(), may);
    if (may) ChangeAll([&](Block& b) { b = {}; });
  }
  void Allocate(int cpu) {
    constexpr Gfp kKinds[] = {kGfpUser, kGfpUser, kGfpKernel, kGfpReclaimable};
    const Order order(random_.OneIn(2) ? 0
                                       : static_cast<int>(random_.Below(4)));
    const auto pfn = allocator_->Allocate(cpu, order, kKinds[random_.Below(4)]);
    if (!pfn) return;
    ASSERT_FALSE(live_.contains(*pfn));
    live_[*pfn] = order;
  }
  void Free(int cpu) {
    if (live_.empty()) return;
    const auto at = std::next(
        live_.begin(), static_cast<ptrdiff_t>(random_.Below(live_.size())));
    allocator_->Free(cpu, at->first, at->second);
    live_.erase(at);
  }
  void IsolateOrReturn() {
    if (!isolated_.empty()) {
      guestmm::Return(std::move(isolated_.back()));
      isolated_.pop_back();
      return;
    }
    Zone& zone =
        *allocator_->zones()[random_.Below(allocator_->zones().size())];
    LockHolder hold(zone.lock());
    std::optional<Pfn> free;
    zone.ForEachFreeBlock(Order(static_cast<int>(random_.Below(4))),
                          MigrateType::kMovable, [&](Pfn pfn) { free = pfn; });
    if (!free) return;
    if (auto block = zone.Isolate(*free))
      isolated_.push_back(*std::move(block));
  }

  Random random_;
  std::unique_ptr<PageAllocator> allocator_;
  MemoryHotplug hotplug_;
  std::array<Block, kSections> sections_;
  std::map<Pfn, Order> live_;
  std::vector<IsolatedBlock> isolated_;
  uint64_t first_ = 0;
  uint64_t count_ = 0;
  uint64_t offlined_ = 0;
};

TEST(MemoryHotplugTest, AnyProgramDoesAsANaiveModelSays) {
  uint64_t offlined = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomProgram program(seed);
    for (int step = 0; step < 400; ++step) {
      SCOPED_TRACE(testing::Message() << "step " << step);
      program.Step();
      program.Check();
      if (HasFatalFailure()) return;
    }
    offlined += program.offlined();
  }
  // The programs are about something.
  EXPECT_GT(offlined, 60);
}

}  // namespace
}  // namespace guestmm
