// Inflation and deflation: what the device makes of page numbers, and how the
// driver gets the balloon to the size that the host wants.

#include "src/virtio/driver/balloon_inflation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <vector>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "src/virtio/device/ballooned_pages.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_inflation_test {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

GpaRange PageAt(uint32_t pfn) { return {ToGpa(Pfn(pfn)), kPageSize}; }

// --- Which pages are in, as the device keeps it.

TEST(BalloonedPages, EachPageGoesInAndComesOutOnce) {
  BalloonedPages pages;
  EXPECT_FALSE(pages.Erase(Pfn(5)));
  EXPECT_TRUE(pages.Insert(Pfn(5)));
  EXPECT_FALSE(pages.Insert(Pfn(5)));
  EXPECT_FALSE(pages.Erase(Pfn(6)));
  EXPECT_TRUE(pages.Erase(Pfn(5)));
  EXPECT_FALSE(pages.Erase(Pfn(5)));
}
TEST(BalloonedPages, HoldsTheLastPageOfAChunkAndTheFirstOfTheNext) {
  BalloonedPages pages;
  EXPECT_TRUE(pages.Insert(Pfn(511)));
  EXPECT_TRUE(pages.Insert(Pfn(512)));
  EXPECT_TRUE(pages.Insert(Pfn(0xffffffff)));
  EXPECT_TRUE(pages.Erase(Pfn(511)));
  EXPECT_TRUE(pages.Erase(Pfn(512)));
  EXPECT_TRUE(pages.Erase(Pfn(0xffffffff)));
}
TEST(BalloonedPages, ClearTakesAllOut) {
  BalloonedPages pages;
  pages.Insert(Pfn(5));
  pages.Insert(Pfn(5000));
  pages.Clear();
  EXPECT_FALSE(pages.Erase(Pfn(5)));
  EXPECT_FALSE(pages.Erase(Pfn(5000)));
}
// Granules of 1 page, a few, a word of the bitmap, several, a chunk; the last
// of each to go in makes it whole, wherever it is.
TEST(BalloonedPages, AGranuleIsWholeWithItsLastPage) {
  for (const uint64_t granule : {1, 2, 32, 64, 128, 512}) {
    for (const uint64_t last : {uint64_t{0}, granule / 2, granule - 1}) {
      BalloonedPages pages;
      const uint64_t start = 1024 + granule * (granule < 512 ? 3 : 0);
      for (uint64_t page = 0; page < granule; ++page) {
        if (page != last) pages.Insert(Pfn(start + page));
      }
      EXPECT_EQ(pages.WholeRange(Pfn(start), granule).bytes, 0u);
      pages.Insert(Pfn(start + last));
      EXPECT_EQ(pages.WholeRange(Pfn(start + last), granule),
                (GpaRange{ToGpa(Pfn(start)), granule * kPageSize}));
      EXPECT_EQ(pages.WholeRange(Pfn(start + granule), granule).bytes, 0u);
    }
  }
}

// --- The device.

constexpr BalloonQueue kInflate = BalloonQueue::kInflate;
constexpr BalloonQueue kDeflate = BalloonQueue::kDeflate;

// Nothing else than inflate and deflate.
constexpr BalloonDeviceOptions kPlain = {.features = 0};

TEST(InflatingDevice, S5_5_6_2_DiscardsWhatIsGivenBeforeItAcknowledges) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  uint16_t used_during = 99;
  balloon.OnDiscard([&] { used_during = balloon.at(kInflate).used_idx(); });
  balloon.Send(kInflate, {0x30, 0x10, 0x31});
  EXPECT_THAT(balloon.discarded(),
              ElementsAre(PageAt(0x10), PageAt(0x30), PageAt(0x31)));
  EXPECT_EQ(used_during, 0);
  EXPECT_EQ(balloon.at(kInflate).used_idx(), 1);
  EXPECT_EQ(balloon.at(kInflate).used(0).len, 0u) << "nothing was written";
  EXPECT_EQ(balloon.counters().inflated_pages, 3u);
}
TEST(InflatingDevice, S5_5_6_2_TouchesNoPageThatComesBack) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10, 0x11});
  const size_t before = balloon.discarded().size();
  balloon.Send(kDeflate, {0x11, 0x10});
  EXPECT_THAT(balloon.discarded(), SizeIs(before));
  EXPECT_EQ(balloon.at(kDeflate).used_idx(), 1);
  EXPECT_EQ(balloon.counters().deflated_pages, 2u);
}
TEST(InflatingDevice, APageMayGoInAgain) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10});
  balloon.Send(kDeflate, {0x10});
  balloon.Send(kInflate, {0x10});
  EXPECT_THAT(balloon.discarded(), ElementsAre(PageAt(0x10), PageAt(0x10)));
  EXPECT_EQ(balloon.counters().inflated_pages, 2u);
  EXPECT_EQ(balloon.counters().repeated_pfns, 0u);
}
TEST(InflatingDevice, SkipsPagesThatGuestRamHasNot) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x200, 0x4ff, 0x500, 0x5ff, 0x600, 0xffffffff});
  EXPECT_THAT(balloon.discarded(), ElementsAre(PageAt(0x500), PageAt(0x5ff)));
  EXPECT_EQ(balloon.counters().bad_pfns, 4u);
  balloon.Send(kDeflate, {0x200, 0xffffffff});
  EXPECT_EQ(balloon.counters().bad_pfns, 6u);
  EXPECT_EQ(balloon.at(kInflate).used_idx(), 1);
  EXPECT_EQ(balloon.at(kDeflate).used_idx(), 1);
}
TEST(InflatingDevice, DiscardsAPageThatIsInAlreadyNotAgain) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10, 0x10});
  balloon.Send(kInflate, {0x10});
  EXPECT_THAT(balloon.discarded(), ElementsAre(PageAt(0x10)));
  EXPECT_EQ(balloon.counters().repeated_pfns, 2u);
}
TEST(InflatingDevice, CountsWhatComesOutAndWasNotIn) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10});
  balloon.Send(kDeflate, {0x10, 0x10, 0x20});
  EXPECT_EQ(balloon.counters().deflated_pages, 1u);
  EXPECT_EQ(balloon.counters().repeated_pfns, 2u);
}
TEST(InflatingDevice, SkipsBuffersThatAreNoListOfPages) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  const VirtqDesc good = balloon.Words({0x10});
  VirtqDesc writable = good;
  writable.flags = kVirtqDescWrite;
  VirtqDesc indirect = good;
  indirect.flags = kVirtqDescIndirect;
  VirtqDesc odd = good;
  odd.len = 6;
  VirtqDesc empty = good;
  empty.len = 0;
  VirtqDesc outside = good;
  outside.addr = 3 * kMiB;
  VirtqDesc across = good;
  across.addr = kMiB - 4;
  across.len = 8;
  VirtqDesc too_long = good;
  too_long.len = 1028;
  for (const VirtqDesc& bad :
       {writable, indirect, odd, empty, outside, across, too_long}) {
    balloon.Send(kInflate, {bad});
  }
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  EXPECT_EQ(balloon.at(kInflate).used_idx(), 7) << "all are acknowledged";
  const BalloonDeviceCounters counters = balloon.counters();
  EXPECT_EQ(counters.skipped_writable, 1u);
  EXPECT_EQ(counters.skipped_indirect, 1u);
  EXPECT_EQ(counters.skipped_unaligned, 1u);
  EXPECT_EQ(counters.skipped_empty, 1u);
  EXPECT_EQ(counters.skipped_outside_ram, 1u);
  EXPECT_EQ(counters.skipped_across_region, 1u);
  EXPECT_EQ(counters.skipped_too_long, 1u);
  EXPECT_EQ(counters.skipped(), 7u);
  EXPECT_EQ(counters.inflated_pages, 0u);
}
// A list need not be aligned, and a chain may be several.
TEST(InflatingDevice, S2_7_4_1_TakesListsWhereverTheyLie) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {balloon.Words({0x10}, 0x8001),
                          balloon.Words({0x20, 0x21}, 0x9ffa)});
  EXPECT_THAT(balloon.discarded(),
              ElementsAre(PageAt(0x10), PageAt(0x20), PageAt(0x21)));
}
TEST(InflatingDevice, TakesTheLongestListThereIs) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  std::vector<uint32_t> all(256);
  for (uint32_t i = 0; i < 256; ++i) all[i] = 0x100 + (i * 7) % 256;
  balloon.Send(kInflate, all);
  EXPECT_EQ(balloon.counters().inflated_pages, 256u);
  EXPECT_THAT(balloon.discarded(), SizeIs(256));
}
TEST(InflatingDevice, AResetEmptiesTheBalloon) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10});
  ASSERT_TRUE(WriteWord(balloon.device(), 4, 1).ok());
  EXPECT_EQ(balloon.device().actual(), 1u);
  balloon.device().SetStatus(0);
  EXPECT_EQ(balloon.device().actual(), 0u);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10});
  EXPECT_EQ(balloon.counters().repeated_pfns, 0u);
}
TEST(InflatingDevice, S5_5_3_2_RefusesADriverThatDoesNotTakeMustTellHost) {
  HostileBalloon balloon({.features = kBalloonFMustTellHost});
  EXPECT_FALSE(balloon.Start(/*refused=*/kBalloonFMustTellHost));
  EXPECT_EQ(balloon.device().status(), kUntilFeatures);
  balloon.device().SetStatus(0);
  EXPECT_TRUE(balloon.Start());
}

// Over huge pages of 2 MiB, of which the host takes back whole ones only.
class HugePagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pool = HugePagePool::Reserve(2);
    if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
    pool_ = *std::move(pool);
  }
  static std::unique_ptr<GuestRam> MakeHugeRam() {
    return GuestRam::Create({.regions = {{Gpa(0), 4 * kMiB}},
                             .source = MemorySource::kHugetlb})
        .value();
  }
  // The pages of the second half, `count` from `first` on.
  static std::vector<uint32_t> Half(uint32_t first, uint32_t count) {
    std::vector<uint32_t> pages;
    for (uint32_t i = 0; i < count; ++i) pages.push_back(512 + first + i);
    return pages;
  }
  static constexpr GpaRange kHuge = {Gpa(2 * kMiB), 2 * kMiB};

  std::unique_ptr<HugePagePool> pool_;
};

TEST_F(HugePagesTest, DiscardsAHugePageWhenAllOfItIsIn) {
  HostileBalloon balloon({.features = kBalloonFMustTellHost}, MakeHugeRam());
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, Half(256, 256));
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  balloon.Send(kInflate, Half(0, 255));
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  balloon.Send(kInflate, Half(255, 1));
  EXPECT_THAT(balloon.discarded(), ElementsAre(kHuge));
  EXPECT_EQ(balloon.counters().inflated_pages, 512u);
}
TEST_F(HugePagesTest, DiscardsItNotWhileAPageIsOut) {
  HostileBalloon balloon({.features = kBalloonFMustTellHost}, MakeHugeRam());
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, Half(0, 256));
  balloon.Send(kDeflate, Half(7, 1));
  balloon.Send(kInflate, Half(256, 256));
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  balloon.Send(kInflate, Half(7, 1));
  EXPECT_THAT(balloon.discarded(), ElementsAre(kHuge));
}
// Of pages whose inflation was acknowledged the guest may use some again before
// the device hears of it, unless it agreed not to.
TEST_F(HugePagesTest, S5_5_6_2_WithoutMustTellHostLeavesWhatItAcknowledged) {
  HostileBalloon balloon(kPlain, MakeHugeRam());
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, Half(0, 256));
  balloon.Send(kInflate, Half(256, 256));
  EXPECT_THAT(balloon.discarded(), IsEmpty());
}
TEST_F(HugePagesTest, S5_5_6_2_WithoutMustTellHostOneChainMayHoldAllOfIt) {
  HostileBalloon balloon(kPlain, MakeHugeRam());
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {balloon.Words(Half(0, 256), 0x8000),
                          balloon.Words(Half(256, 256), 0x9000)});
  EXPECT_THAT(balloon.discarded(), ElementsAre(kHuge));
}

// --- The driver.

// The queue of each, whatever else is offered.
constexpr uint16_t kInflateIndex = 0;
constexpr uint16_t kDeflateIndex = 1;

BalloonDeviceOptions With(uint64_t features) { return {.features = features}; }

TEST(InflatingDriver, S5_5_6_1_ReachesWhatTheHostWantsUpAndDown) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  for (const uint32_t target : {1, 300, 299, 700, 0, 5}) {
    guest.device().SetTarget(target);
    guest.time().RunUntilIdle();
    EXPECT_EQ(guest.driver().balloon_pages(), PageCount(target));
    EXPECT_EQ(guest.held_pages(), target);
    EXPECT_EQ(guest.device().actual(), target);
    EXPECT_EQ(guest.device().counters().inflated_pages -
                  guest.device().counters().deflated_pages,
              target);
  }
  EXPECT_EQ(guest.device().counters().skipped(), 0u);
  EXPECT_EQ(guest.device().counters().bad_pfns, 0u);
  EXPECT_EQ(guest.device().counters().repeated_pfns, 0u);
  EXPECT_TRUE(guest.allocator().CheckInvariants().ok());
}
TEST(InflatingDriver, BeginsWithWhatTheHostWantedBefore) {
  BalloonGuest guest(kPlain);
  guest.device().SetTarget(10);
  ASSERT_TRUE(guest.Start().ok());
  EXPECT_EQ(guest.driver().balloon_pages(), PageCount(10));
}
TEST(InflatingDriver, S5_5_6_1_UpdatesActualAfterEachChange) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start({.queue_features = {}}).ok());
  guest.slow().Forget();
  guest.device().SetTarget(300);
  guest.time().RunUntilIdle();
  EXPECT_THAT(guest.slow().calls(), ElementsAre("kick 0", "write 4: 0x100",
                                                "kick 0", "write 4: 0x12c"));
  guest.slow().Forget();
  guest.device().SetTarget(0);
  guest.time().RunUntilIdle();
  EXPECT_THAT(guest.slow().calls(),
              ElementsAre("kick 1", "write 4: 0x2c", "kick 1", "write 4: 0x0"));
}
TEST(InflatingDriver, ABufferHoldsAtMost256PagesEachOnce) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  guest.slow().Hold(kInflateIndex);
  guest.device().SetTarget(600);
  std::set<uint32_t> pages;
  std::vector<size_t> sizes;
  for (int i = 0; i < 3; ++i) {
    guest.time().RunUntilIdle();
    const std::vector<uint32_t> words = guest.LastWords(kInflateIndex);
    sizes.push_back(words.size());
    pages.insert(words.begin(), words.end());
    guest.slow().LetGo(kInflateIndex);
    if (i < 2) {
      guest.slow().Hold(kInflateIndex);
    }
  }
  EXPECT_THAT(sizes, ElementsAre(256, 256, 88));
  EXPECT_THAT(pages, SizeIs(600));
}
TEST(InflatingDriver, DoesOneStepAtATime) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  guest.slow().Hold(kInflateIndex);
  for (const uint32_t target : {300, 500, 700}) {
    guest.device().SetTarget(target);
    guest.time().RunUntilIdle();
    EXPECT_EQ(guest.Offered(kInflateIndex), 1);
    EXPECT_EQ(guest.held_pages(), 256u);
  }
}
// Of 4 KiB, whatever pages the guest has: those that it gives are the ones that
// the host loses.
TEST(InflatingDriver, WhatItGivesIsWhatTheHostGets) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  guest.slow().Hold(kInflateIndex);
  guest.device().SetTarget(2);
  guest.time().RunUntilIdle();
  const std::vector<uint32_t> words = guest.LastWords(kInflateIndex);
  ASSERT_THAT(words, SizeIs(2));
  guest.slow().LetGo(kInflateIndex);
  guest.time().RunUntilIdle();
  std::vector<GpaRange> discarded;
  for (const auto& batch : guest.hypervisor().batches()) {
    discarded.insert(discarded.end(), batch.begin(), batch.end());
  }
  EXPECT_THAT(discarded,
              UnorderedElementsAre(PageAt(words[0]), PageAt(words[1])));
}

TEST(InflatingDriver, S5_5_6_1_UsesNoPageBetweenInflateAndItsAcknowledgement) {
  BalloonGuest guest(With(kBalloonFDeflateOnOom));
  ASSERT_TRUE(guest.Start().ok());
  guest.slow().Hold(kInflateIndex);
  guest.device().SetTarget(50);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.held_pages(), 50u);
  EXPECT_EQ(guest.driver().balloon_pages(), PageCount(0));
  EXPECT_EQ(guest.device().actual(), 0u);
  // Neither an allocation in need nor the host's change of mind gets at them.
  guest.TakeAllPages();
  guest.device().SetTarget(0);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.held_pages(), 50u);
}
TEST(InflatingDriver, S5_5_6_1_DoesNotDeflateBeforeTheInflateIsAcknowledged) {
  BalloonGuest guest(With(kBalloonFDeflateOnOom));
  ASSERT_TRUE(guest.Start().ok());
  guest.slow().Hold(kInflateIndex);
  guest.device().SetTarget(50);
  guest.time().RunUntilIdle();
  guest.device().SetTarget(0);
  guest.TakeAllPages();
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.Offered(kDeflateIndex), 0);
  guest.slow().LetGo(kInflateIndex);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.Offered(kDeflateIndex), 1);
  EXPECT_EQ(guest.held_pages(), 0u);
}
TEST(InflatingDriver, S5_5_6_1_TellsOfPagesThatItWantsBack) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(3);
  guest.time().RunUntilIdle();
  const std::vector<uint32_t> in = guest.LastWords(kInflateIndex);
  guest.device().SetTarget(1);
  guest.time().RunUntilIdle();
  // The last in is the first out.
  EXPECT_THAT(guest.LastWords(kDeflateIndex), ElementsAre(in[1], in[2]));
}
// Whether or not the host insists: a page that the guest wants back because the
// host does not need it is no hurry.
TEST(InflatingDriver, S5_5_6_1_UsesNoPageBeforeTheDeflateIsAcknowledged) {
  for (const uint64_t features : {uint64_t{0}, kBalloonFMustTellHost}) {
    BalloonGuest guest(With(features));
    ASSERT_TRUE(guest.Start().ok());
    guest.device().SetTarget(50);
    guest.time().RunUntilIdle();
    guest.slow().Hold(kDeflateIndex);
    guest.device().SetTarget(10);
    guest.time().RunUntilIdle();
    EXPECT_EQ(guest.Offered(kDeflateIndex), 1);
    EXPECT_EQ(guest.held_pages(), 50u);
    guest.slow().LetGo(kDeflateIndex);
    guest.time().RunUntilIdle();
    EXPECT_EQ(guest.held_pages(), 10u);
    EXPECT_EQ(guest.device().actual(), 10u);
  }
}
TEST(InflatingDriver, S5_5_6_1_WithoutDeflateOnOomUsesNoPageOfTheBalloon) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(50);
  guest.time().RunUntilIdle();
  guest.TakeAllPages();
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.driver().balloon_pages(), PageCount(50));
  EXPECT_EQ(guest.Offered(kDeflateIndex), 0);
  EXPECT_EQ(guest.held_pages(), 50u);
}
TEST(InflatingDriver, S5_5_6_1_WithDeflateOnOomAnAllocationGetsPages) {
  BalloonGuest guest(With(kBalloonFDeflateOnOom));
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(300);
  guest.time().RunUntilIdle();
  // All of them, as long as the deflate queue has room.
  guest.slow().Hold(kDeflateIndex);
  guest.TakeAllPages();
  EXPECT_EQ(guest.driver().balloon_pages().value(), guest.held_pages());
  EXPECT_LT(guest.held_pages(), 300u);
  EXPECT_GT(guest.Offered(kDeflateIndex), 0) << "the host is told all the same";
  guest.slow().LetGo(kDeflateIndex);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.device().actual(), guest.driver().balloon_pages().value());
}
TEST(InflatingDriver, S5_5_6_1_WithMustTellHostAnAllocationWaitsForTheHost) {
  BalloonGuest guest(With(kBalloonFDeflateOnOom | kBalloonFMustTellHost));
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(50);
  guest.time().RunUntilIdle();
  guest.slow().Hold(kDeflateIndex);
  guest.TakeAllPages();
  EXPECT_GT(guest.Offered(kDeflateIndex), 0);
  EXPECT_EQ(guest.held_pages(), 50u) << "used before the acknowledgement";
  guest.slow().LetGo(kDeflateIndex);
  guest.time().RunUntilIdle();
  EXPECT_LT(guest.held_pages(), 50u);
  EXPECT_GT(guest.TakeAllPages(), 0u);
}
TEST(InflatingDriver, PutsWhatAnAllocationGotBackWhenTheHostSaysSo) {
  BalloonGuest guest(With(kBalloonFDeflateOnOom));
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(50);
  guest.time().RunUntilIdle();
  guest.TakeAllPages();
  guest.time().RunUntilIdle();
  const PageCount left = guest.driver().balloon_pages();
  ASSERT_LT(left, PageCount(50));
  guest.FreePages(500);
  guest.time().RunFor(std::chrono::seconds(10));
  EXPECT_EQ(guest.driver().balloon_pages(), left) << "took them right back";
  guest.device().SetTarget(50);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.driver().balloon_pages(), left) << "no news";
  guest.device().SetTarget(51);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.driver().balloon_pages(), PageCount(51));
}
// There was nothing to get: whoever has memory after all gives it to the host.
TEST(InflatingDriver, AnAllocationThatGotNothingDoesNotStopTheInflation) {
  BalloonGuest guest(With(kBalloonFDeflateOnOom));
  ASSERT_TRUE(guest.Start().ok());
  guest.TakeAllPages();
  guest.device().SetTarget(50);
  guest.time().RunFor(std::chrono::milliseconds(1));
  EXPECT_EQ(guest.TakeAllPages(), 0u);
  guest.FreePages(500);
  guest.time().RunFor(std::chrono::seconds(1));
  EXPECT_EQ(guest.driver().balloon_pages(), PageCount(50));
}
TEST(InflatingDriver, WaitsWhileThereIsNoMemoryAndGoesOn) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  guest.TakeAllPages();
  guest.device().SetTarget(50);
  guest.time().RunFor(std::chrono::milliseconds(199));
  EXPECT_EQ(guest.Offered(kInflateIndex), 0);
  guest.FreePages(500);
  guest.time().RunFor(std::chrono::nanoseconds(1));
  EXPECT_EQ(guest.Offered(kInflateIndex), 0) << "before 200 ms";
  guest.time().RunFor(std::chrono::milliseconds(1));
  EXPECT_EQ(guest.driver().balloon_pages(), PageCount(50));
}
TEST(InflatingDriver, StopsWhereTheGuestNeedsTheRest) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(5000);
  guest.time().RunFor(std::chrono::seconds(10));
  EXPECT_GT(guest.driver().balloon_pages(), PageCount(500));
  EXPECT_GT(guest.allocator().Counts().free, PageCount(0))
      << "dipped into the reserves";
  EXPECT_TRUE(guest.allocator().CheckInvariants().ok());
}
TEST(InflatingDriver, AResetReturnsEveryPage) {
  for (const uint16_t held : {kInflateIndex, kDeflateIndex, uint16_t{9}}) {
    BalloonGuest guest(With(kBalloonFDeflateOnOom));
    ASSERT_TRUE(guest.Start().ok());
    guest.device().SetTarget(300);
    guest.time().RunUntilIdle();
    guest.slow().Hold(held);
    guest.device().SetTarget(held == kInflateIndex ? 600 : 100);
    guest.time().RunUntilIdle();
    guest.Stop();
    EXPECT_EQ(guest.allocator().Counts().allocated(), PageCount(0));
    EXPECT_EQ(guest.device().actual(), 0u);
    EXPECT_TRUE(guest.allocator().CheckInvariants().ok());
  }
}
TEST(InflatingDriver, ABrokenRingReturnsEveryPage) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(300);
  guest.time().RunUntilIdle();
  // The deflate queue rests; the driver looks at it all the same.
  const VirtqueueMemory memory =
      guest.slow().QueueMemory(guest.ram(), kDeflateIndex);
  memory.used_idx().store(77);
  guest.device().SetTarget(301);
  guest.time().RunUntilIdle();
  EXPECT_TRUE(guest.driver().is_down());
  EXPECT_EQ(guest.allocator().Counts().allocated(), PageCount(0));
}

// What the guest reads in a page that came back may be anything; here, what a
// fresh page of the host's has. Its neighbours keep theirs.
TEST(InflatingDriver, ThePagesOfTheBalloonAreLostAndNoOthers) {
  const auto ram = MakeRam({{Gpa(0), 8 * kMiB}});
  DiscardingHypervisor madvise(*ram);
  VirtualTime time(1);
  BalloonDevice device(*ram, madvise, time, kPlain);
  SlowDevice slow(device);
  const auto allocator = PageAllocator::Create({.memory = {{Pfn(0), Pfn(1024)}},
                                                .cpus = 1,
                                                .max_order = Order(4),
                                                .min_free_kbytes = 64,
                                                .per_cpu_limits = {}})
                             .value();
  const std::span<std::byte> bytes =
      ram->Translate({Gpa(0), 4 * kMiB})->bytes();
  std::fill(bytes.begin(), bytes.end(), std::byte{0x5a});
  const auto driver =
      BalloonDriver::Create(slow, *ram, *allocator, time).value();
  device.SetTarget(9);
  time.RunUntilIdle();
  int lost = 0;
  for (uint64_t page = 0; page < 1024; ++page) {
    const std::span<std::byte> of_page =
        bytes.subspan(page * kPageSize + kPageSize / 2, 8);
    lost += std::all_of(of_page.begin(), of_page.end(),
                        [](std::byte b) { return b == std::byte{0}; });
  }
  // The queues' pages were zeroed in part, by their owner.
  EXPECT_THAT(lost, Ge(9));
  EXPECT_LE(lost, 9 + static_cast<int>(driver->queue_pages().value()));
}

}  // namespace
}  // namespace guestmm::balloon_inflation_test
