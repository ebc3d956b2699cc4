// Page poisoning with real guest RAM: what is written, and what is detected.

#include "guestmm/buddy/page_poison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/buddy/page_allocator.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "guestmm/ram/guest_ram.h"
#include "tests/buddy/page_poison/page_poison_testing.h"

namespace guestmm::page_poison_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::TestWithParam;
using ::testing::Values;

// Writes ---------------------------------------------------------------------

TEST(PagePoisonTest, OffTouchesNothing) {
  PoisonWorld world({});
  EXPECT_EQ(world.ResidentBytes(), 0u);
  world.AllocateEverything();
  const Pfn huge = world.Allocate(kHuge);
  world.Free(huge, kHuge);
  EXPECT_EQ(world.ResidentBytes(), 0u);
  EXPECT_EQ(world.poison().corrupted_pages(), 0u);
}

TEST(PagePoisonTest, OffLeavesContents) {
  PoisonWorld world({});
  const Pfn pfn = world.Allocate(kHuge);
  world.Write(pfn, kHuge, 7);
  world.Free(pfn, kHuge);
  ASSERT_EQ(world.Allocate(kHuge), pfn);
  EXPECT_TRUE(world.Holds(pfn, kHuge, 7));
}

TEST(PagePoisonTest, PoisonIsInEveryPageFromTheStart) {
  PoisonWorld world(kPoisoned);
  EXPECT_EQ(world.ResidentBytes(), world.ram().bytes());
  for (Pfn pfn(0); pfn < Pfn(1024); pfn += PageCount(1)) {
    ASSERT_TRUE(world.Holds(pfn, kPage, kPoison)) << pfn;
  }
  world.AllocateEverything();
  EXPECT_EQ(world.poison().corrupted_pages(), 0u);
}

TEST(PagePoisonTest, FreshMemoryIsZeroWithoutAWrite) {
  PoisonWorld world(kZeroed);
  EXPECT_EQ(world.ResidentBytes(), 0u);
  const Pfn pfn = world.Allocate(kHuge);
  EXPECT_EQ(world.ResidentBytes(), 0u);
  EXPECT_TRUE(world.Holds(pfn, kHuge, 0));
}

TEST(PagePoisonTest, FreeFillsTheBlockAndNothingElse) {
  for (const PagePoisonMode mode :
       {PagePoisonMode::kPoison, PagePoisonMode::kInitOnFree}) {
    for (const Order order : {kPage, Order(3), kHuge}) {
      PoisonWorld world({.mode = mode}, {1024});
      std::vector<Pfn> blocks;
      while (const auto pfn = world.allocator().Allocate(0, order)) {
        blocks.push_back(*pfn);
        world.Write(*pfn, order, 7);
      }
      for (size_t i = 0; i < blocks.size(); i += 2)
        world.Free(blocks[i], order);
      const uint8_t fill = mode == PagePoisonMode::kPoison ? kPoison : 0;
      for (size_t i = 0; i < blocks.size(); ++i) {
        EXPECT_TRUE(world.Holds(blocks[i], order, i % 2 == 0 ? fill : 7))
            << order << ", block " << i;
      }
    }
  }
}

TEST(PagePoisonTest, InitOnFreeChecksNothing) {
  PoisonWorld world(kZeroed);
  const Pfn pfn = world.Allocate(kPage);
  world.Free(pfn, kPage);
  world.At(pfn)[100] = 1;
  ASSERT_EQ(world.Allocate(kPage), pfn);
  EXPECT_EQ(world.poison().corrupted_pages(), 0u);
  EXPECT_EQ(world.At(pfn)[100], 1);
}

TEST(PagePoisonTest, InitOnAllocClearsTheBlock) {
  for (const Order order : {kPage, kHuge}) {
    PoisonWorld world(kCleared);
    const Pfn pfn = world.Allocate(order);
    world.Write(pfn, order, 7);
    world.Free(pfn, order);
    EXPECT_TRUE(world.Holds(pfn, order, 7)) << "freed";
    ASSERT_EQ(world.Allocate(order), pfn);
    EXPECT_TRUE(world.Holds(pfn, order, 0)) << "allocated";
  }
}

TEST(PagePoisonTest, InitOnAllocWithPoisonChecksFirst) {
  PoisonWorld world({.mode = PagePoisonMode::kPoison, .init_on_alloc = true});
  const Pfn pfn = world.Allocate(kPage);
  EXPECT_TRUE(world.Holds(pfn, kPage, 0));
  world.Write(pfn, kPage, 7);
  world.Free(pfn, kPage);
  EXPECT_TRUE(world.Holds(pfn, kPage, kPoison));
  world.At(pfn)[5] = 0;
  ASSERT_EQ(world.Allocate(kPage), pfn);
  EXPECT_TRUE(world.Holds(pfn, kPage, 0));
  EXPECT_THAT(world.poison().corruptions(),
              ElementsAre(PageCorruption{pfn, 5, 5, 0, false}));
}

// Memory that was zeroed when freed is not zeroed again.
TEST(PagePoisonTest, InitOnAllocWithInitOnFreeWritesNothingMore) {
  PoisonWorld world(
      {.mode = PagePoisonMode::kInitOnFree, .init_on_alloc = true});
  const Pfn pfn = world.Allocate(kHuge);
  EXPECT_EQ(world.ResidentBytes(), 0u);
  EXPECT_TRUE(world.Holds(pfn, kHuge, 0));
}

// Detection ------------------------------------------------------------------

class WriteAfterFree : public TestWithParam<int> {
 protected:
  const Order order_{GetParam()};
  PoisonWorld world_{kPoisoned};
};
INSTANTIATE_TEST_SUITE_P(Orders, WriteAfterFree, Values(0, 9));

TEST_P(WriteAfterFree, IsFoundAtEveryPlace) {
  const uint64_t last_page = order_.pages().value() - 1;
  for (const uint64_t page : {uint64_t{0}, last_page / 2, last_page}) {
    PoisonWorld world(kPoisoned);
    const Pfn pfn = world.Allocate(order_);
    const Pfn written = pfn + PageCount(page);
    uint64_t found = 0;
    for (const uint32_t offset : {0u, 1u, 7u, 8u, 9u, 31u, 32u, 63u, 64u, 65u,
                                  2047u, 2048u, 4032u, 4087u, 4088u, 4095u}) {
      world.Free(pfn, order_);
      world.At(written)[offset] = 0x11;
      ASSERT_EQ(world.Allocate(order_), pfn);
      ASSERT_EQ(world.poison().corrupted_pages(), ++found) << offset;
      ASSERT_EQ(world.poison().corruptions().back(),
                (PageCorruption{written, offset, offset, 0x11, false}));
    }
  }
}

TEST_P(WriteAfterFree, OfOneBitIsDistinguished) {
  const Pfn pfn = world_.Allocate(order_);
  for (int bit = 0; bit < 8; ++bit) {
    world_.Free(pfn, order_);
    world_.At(pfn)[9] ^= static_cast<uint8_t>(1 << bit);
    ASSERT_EQ(world_.Allocate(order_), pfn);
    const auto found = static_cast<uint8_t>(kPoison ^ 1 << bit);
    EXPECT_EQ(world_.poison().corruptions().back(),
              (PageCorruption{pfn, 9, 9, found, true}));
  }
  EXPECT_EQ(world_.poison().corrupted_pages(), 8u);
}

TEST_P(WriteAfterFree, OfTwoBitsIsNotASingleBit) {
  const Pfn pfn = world_.Allocate(order_);
  world_.Free(pfn, order_);
  world_.At(pfn)[9] ^= 0x81;
  ASSERT_EQ(world_.Allocate(order_), pfn);
  world_.Free(pfn, order_);
  // One bit in one byte, and another in a distant byte.
  world_.At(pfn)[9] ^= 1;
  world_.At(pfn)[4000] ^= 1;
  ASSERT_EQ(world_.Allocate(order_), pfn);
  EXPECT_THAT(world_.poison().corruptions(),
              ElementsAre(PageCorruption{pfn, 9, 9, 0x2b, false},
                          PageCorruption{pfn, 9, 4000, 0xab, false}));
}

TEST_P(WriteAfterFree, IsLeftToItsNewOwnerAndGoneAfterTheNextFree) {
  const Pfn pfn = world_.Allocate(order_);
  world_.Free(pfn, order_);
  world_.At(pfn)[0] = 1;
  ASSERT_EQ(world_.Allocate(order_), pfn);
  EXPECT_EQ(world_.At(pfn)[0], 1);
  EXPECT_EQ(world_.poison().corrupted_pages(), 1u);
  world_.Free(pfn, order_);
  ASSERT_EQ(world_.Allocate(order_), pfn);
  EXPECT_EQ(world_.poison().corrupted_pages(), 1u);
  EXPECT_EQ(world_.allocator().CheckInvariants(), absl::OkStatus());
}

TEST(PagePoisonTest, EachPageIsOneCorruptionAndTheFirstAreRemembered) {
  PoisonWorld world(kPoisoned);
  const Pfn pfn = world.Allocate(kHuge);
  world.Free(pfn, kHuge);
  for (uint64_t i = 0; i < 100; ++i) {
    std::memset(world.At(pfn + PageCount(3 * i)) + i, 0, 10);
  }
  ASSERT_EQ(world.Allocate(kHuge), pfn);
  EXPECT_EQ(world.poison().corrupted_pages(), 100u);
  const std::vector<PageCorruption> found = world.poison().corruptions();
  ASSERT_EQ(found.size(), PagePoison::kMostRemembered);
  for (uint32_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i],
              (PageCorruption{pfn + PageCount(3 * i), i, i + 9, 0, false}));
  }
}

TEST(PagePoisonTest, ACorruptionReadsAsText) {
  const auto text = [](const PageCorruption& corruption) {
    std::ostringstream os;
    os << corruption;
    return os.str();
  };
  EXPECT_EQ(text({Pfn(0x1f), 4, 9, 0, false}),
            "page poison: memory corruption at pfn 0x1f, bytes 4 to 9: found "
            "0x00 first");
  EXPECT_EQ(text({Pfn(2), 4, 4, 0xab, true}),
            "page poison: single bit error at pfn 0x2, bytes 4 to 4: found "
            "0xab first");
}

// Through the allocator ------------------------------------------------------

TEST(PagePoisonTest, HoldsOnPerCpuListsAndAcrossThem) {
  PoisonWorld world(kPoisoned, {1024},
                    {.cpus = 2,
                     .per_cpu_lists = KernelVersion::kV6_1,
                     .per_cpu_limits = PerCpuLimits{.batch = 4, .high = 4096}});
  for (const Order order : {kPage, Order(2), kHuge}) {
    const Pfn pfn = world.Allocate(order, /*cpu=*/0);
    world.Write(pfn, order, 7);
    world.Free(pfn, order, /*cpu=*/1);
    ASSERT_EQ(world.allocator().pages().Get(pfn).state, PageState::kCached);
    EXPECT_TRUE(world.Holds(pfn, order, kPoison));
    // Corrupted on a per-CPU list, and allocated from there.
    world.At(pfn)[1] = 0;
    ASSERT_EQ(world.Allocate(order, /*cpu=*/1), pfn);
    EXPECT_EQ(world.poison().corruptions().back().pfn, pfn);
    world.Free(pfn, order, /*cpu=*/1);
    world.allocator().DrainPerCpuPages();
    EXPECT_TRUE(world.Holds(pfn, order, kPoison));
  }
  EXPECT_EQ(world.poison().corrupted_pages(), 3u);
  world.AllocateEverything();
  EXPECT_EQ(world.poison().corrupted_pages(), 3u);
}

TEST(PagePoisonTest, APinnedBlockIsFilledWhenItsLastPinGoes) {
  for (const Order order : {kPage, kHuge}) {
    PoisonWorld world(kPoisoned);
    const Pfn pfn = world.Allocate(order);
    world.Write(pfn, order, 7);
    world.allocator().Pin(pfn);
    world.allocator().Pin(pfn);
    world.Free(pfn, order);
    EXPECT_TRUE(world.Holds(pfn, order, 7)) << "freed by its owner";
    world.Write(pfn, order, 8);
    world.allocator().Unpin(/*cpu=*/0, pfn);
    EXPECT_TRUE(world.Holds(pfn, order, 8)) << "one pin left";
    world.allocator().Unpin(/*cpu=*/0, pfn);
    EXPECT_TRUE(world.Holds(pfn, order, kPoison)) << "no pin left";
    ASSERT_EQ(world.Allocate(order), pfn);
    EXPECT_EQ(world.poison().corrupted_pages(), 0u);
  }
}

TEST(PagePoisonTest, ABlockWhosePinsWentFirstIsFilledByItsOwnersFree) {
  PoisonWorld world(kPoisoned);
  const Pfn pfn = world.Allocate(kPage);
  world.allocator().Pin(pfn);
  world.Write(pfn, kPage, 7);
  world.allocator().Unpin(/*cpu=*/0, pfn);
  EXPECT_TRUE(world.Holds(pfn, kPage, 7));
  world.Free(pfn, kPage);
  EXPECT_TRUE(world.Holds(pfn, kPage, kPoison));
}

TEST(PagePoisonTest, SeesBlocksThatReclaimAndTheSlowPathGive) {
  // All memory is below the low watermark, so every request takes the slow
  // path.
  PoisonWorld world(kPoisoned);
  class Cache final : public Reclaimer {
   public:
    Cache(PoisonWorld& world, Pfn pfn) : world_(world), pfn_(pfn) {}
    PageCount Reclaim(int cpu, PageCount) override {
      if (!pfn_) return PageCount(0);
      world_.Free(*std::exchange(pfn_, std::nullopt), kPage, cpu);
      return PageCount(1);
    }

   private:
    PoisonWorld& world_;
    std::optional<Pfn> pfn_;
  };
  std::vector<Pfn> pages;
  while (const auto pfn = world.allocator().Allocate(0, kPage)) {
    world.Write(*pfn, kPage, 7);
    pages.push_back(*pfn);
  }
  Cache cache(world, pages.back());
  world.allocator().AddReclaimer(cache);
  EXPECT_EQ(world.Allocate(kPage), pages.back());
  EXPECT_TRUE(world.Holds(pages.back(), kPage, kPoison));
  EXPECT_EQ(world.poison().corrupted_pages(), 0u);
  world.allocator().RemoveReclaimer(cache);
}

TEST(PagePoisonTest, BlocksReachAcrossRegions) {
  PoisonWorld world(kPoisoned, {3, 600, 421});
  const Pfn first = world.Allocate(kHuge);
  const Pfn second = world.Allocate(kHuge);
  for (const Pfn pfn : {first, second}) {
    world.Write(pfn, kHuge, 7);
    world.Free(pfn, kHuge);
    EXPECT_TRUE(world.Holds(pfn, kHuge, kPoison));
  }
  // The last page of one region and the first of the next.
  for (const uint64_t pfn : {2, 3, 602, 603}) world.At(Pfn(pfn))[0] = 0;
  world.Allocate(Order(10));
  EXPECT_THAT(world.poison().corruptions(),
              ElementsAre(PageCorruption{Pfn(2), 0, 0, 0, false},
                          PageCorruption{Pfn(3), 0, 0, 0, false},
                          PageCorruption{Pfn(602), 0, 0, 0, false},
                          PageCorruption{Pfn(603), 0, 0, 0, false}));
}

// Onlined memory -------------------------------------------------------------

TEST(PagePoisonTest, MemoryThatIsNotInRamIsRefused) {
  const auto ram =
      GuestRam::Create({.regions = {{.gpa = Gpa(0), .bytes = kMiB}}}).value();
  for (const PagePoisonOptions& options : {kPoisoned, kZeroed, kCleared}) {
    PagePoison poison(*ram, options);
    const auto allocator = PageAllocator::Create(
        {.memory = {{Pfn(0), Pfn(257)}}, .poison = &poison});
    EXPECT_EQ(allocator.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(allocator.status().message()),
                HasSubstr("pfn 0x100 must be in the guest RAM"));
  }
}

PageAllocatorOptions WithRoomToGrow() {
  return {.memory = {{Pfn(0), Pfn(1024)}},
          .hotplug_end = Pfn(2048),
          .section_order = kMaxOrder};
}

TEST(PagePoisonTest, MemoryIsFilledEachTimeItIsOnlined) {
  PoisonWorld world(kPoisoned, {2048}, WithRoomToGrow());
  MemoryHotplug hotplug(world.allocator());
  const PfnRange added = {Pfn(1024), Pfn(2048)};
  EXPECT_EQ(world.ResidentBytes(), PageCount(1024).bytes());
  ASSERT_EQ(hotplug.Add(added, /*node=*/0), absl::OkStatus());
  EXPECT_EQ(world.ResidentBytes(), PageCount(1024).bytes());
  ASSERT_EQ(hotplug.Online(added, ZoneType::kMovable), absl::OkStatus());
  EXPECT_EQ(world.ResidentBytes(), PageCount(2048).bytes());
  world.AllocateEverything();

  // Writes to offline memory are not detected.
  ASSERT_EQ(hotplug.Offline(added), absl::OkStatus());
  world.Write(Pfn(1024), Order(10), 7);
  ASSERT_EQ(hotplug.Online(added, ZoneType::kMovable), absl::OkStatus());
  world.AllocateEverything();
  EXPECT_EQ(world.poison().corrupted_pages(), 0u);
}

TEST(PagePoisonTest, MemoryThatIsOnlinedAgainIsZeroWithoutAWrite) {
  PoisonWorld world(kZeroed, {2048}, WithRoomToGrow());
  MemoryHotplug hotplug(world.allocator());
  const PfnRange added = {Pfn(1024), Pfn(2048)};
  ASSERT_EQ(hotplug.Add(added, /*node=*/0), absl::OkStatus());
  ASSERT_EQ(hotplug.Online(added, ZoneType::kMovable), absl::OkStatus());
  EXPECT_EQ(world.ResidentBytes(), 0u);
  const Pfn pfn = world.Allocate(Order(10));
  ASSERT_EQ(pfn, added.start);
  world.Write(pfn, Order(10), 7);
  world.Free(pfn, Order(10));
  ASSERT_EQ(hotplug.Offline(added), absl::OkStatus());
  ASSERT_EQ(hotplug.Online(added, ZoneType::kMovable), absl::OkStatus());
  EXPECT_TRUE(world.Holds(world.Allocate(Order(10)), Order(10), 0));
}

using PagePoisonDeathTest = ::testing::Test;

TEST(PagePoisonDeathTest, OnliningMemoryThatIsNotInRamEndsTheProcess) {
  PoisonWorld world(kPoisoned, {1024}, WithRoomToGrow());
  MemoryHotplug hotplug(world.allocator());
  const PfnRange added = {Pfn(1024), Pfn(2048)};
  ASSERT_EQ(hotplug.Add(added, /*node=*/0), absl::OkStatus());
  EXPECT_DEATH(hotplug.Online(added, ZoneType::kMovable).IgnoreError(),
               "pfn 0x400 must be in the guest RAM");
}

TEST(PagePoisonDeathTest, ADoubleFreeEndsTheProcessAndIsNotFilled) {
  PoisonWorld world(kPoisoned);
  const Pfn pfn = world.Allocate(kHuge);
  EXPECT_DEATH(
      {
        world.Free(pfn, kHuge);
        world.Free(pfn, kHuge);
      },
      "free of");
  EXPECT_DEATH(world.Free(pfn, kPage), "free of");
}

}  // namespace
}  // namespace guestmm::page_poison_test
