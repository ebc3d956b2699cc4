// Inflation and deflation: how the driver reaches the host's target.

#include "src/virtio/driver/balloon_inflation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <vector>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_inflation_test {
namespace {

using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

GpaRange PageAt(uint32_t pfn) { return {ToGpa(Pfn(pfn)), kPageSize}; }

// Only inflate and deflate.
constexpr BalloonDeviceOptions kPlain = {.features = 0};

// The queues' indexes, whatever else is offered.
constexpr uint16_t kInflateIndex = 0;
constexpr uint16_t kDeflateIndex = 1;

BalloonDeviceOptions With(uint64_t features) { return {.features = features}; }

TEST(InflatingDriver, S5_5_6_1_ReachesTheTargetUpAndDown) {
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
TEST(InflatingDriver, StartsWithATargetSetBefore) {
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
// Of 4 KiB each, whatever the guest's page size: the host loses exactly the
// pages that the guest gives up.
TEST(InflatingDriver, TheHostGetsExactlyTheInflatedPages) {
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
  // Neither an allocation nor a new target frees them.
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
TEST(InflatingDriver, S5_5_6_1_SendsDeflatedPages) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(3);
  guest.time().RunUntilIdle();
  const std::vector<uint32_t> in = guest.LastWords(kInflateIndex);
  guest.device().SetTarget(1);
  guest.time().RunUntilIdle();
  // Last in, first out.
  EXPECT_THAT(guest.LastWords(kDeflateIndex), ElementsAre(in[1], in[2]));
}
// With or without MUST_TELL_HOST: pages deflated because of the host's target
// are not urgent.
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
  guest.TakeAllPages();
  EXPECT_EQ(guest.held_pages(), 0u);
  EXPECT_EQ(guest.Offered(kDeflateIndex), 2) << "256 pages, then the others";
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.device().actual(), 0u);
}
// With or without MUST_TELL_HOST, as the kernel does.
TEST(InflatingDriver, S5_5_6_1_AnAllocationWaitsForTheHost) {
  for (const uint64_t features : {uint64_t{0}, kBalloonFMustTellHost}) {
    BalloonGuest guest(With(features | kBalloonFDeflateOnOom));
    ASSERT_TRUE(guest.Start().ok());
    guest.device().SetTarget(50);
    guest.time().RunUntilIdle();
    guest.slow().Hold(kDeflateIndex);
    guest.TakeAllPages();
    EXPECT_EQ(guest.Offered(kDeflateIndex), 1);
    EXPECT_EQ(guest.held_pages(), 50u) << "used before the acknowledgement";
    guest.slow().LetGo(kDeflateIndex);
    EXPECT_EQ(guest.TakeAllPages(), 50u);
    EXPECT_EQ(guest.held_pages(), 0u);
  }
}
TEST(InflatingDriver, ReinflatesAfterReclaimOnlyForANewTarget) {
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
// The balloon was empty, so the allocation took nothing: memory that becomes
// free still goes to the host.
TEST(InflatingDriver, AFailedAllocationDoesNotStopInflation) {
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
TEST(InflatingDriver, RetriesWhenThereIsNoMemory) {
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
TEST(InflatingDriver, StopsBeforeTheGuestRunsOutOfMemory) {
  BalloonGuest guest(kPlain);
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(5000);
  guest.time().RunFor(std::chrono::seconds(10));
  const PageCount pages = guest.driver().balloon_pages();
  EXPECT_GT(pages, PageCount(500));
  // Trying again in vain is no reason to run.
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.driver().balloon_pages(), pages);
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
  // The deflate queue is idle, but the driver still checks it.
  const VirtqueueMemory memory =
      guest.slow().QueueMemory(guest.ram(), kDeflateIndex);
  memory.used_idx().store(77);
  guest.device().SetTarget(301);
  guest.time().RunUntilIdle();
  EXPECT_TRUE(guest.driver().is_down());
  EXPECT_EQ(guest.allocator().Counts().allocated(), PageCount(0));
}

// A page that returns from the balloon may have any contents; here it is zero,
// as a new host page. Its neighbors keep theirs.
TEST(InflatingDriver, OnlyPagesOfTheBalloonAreDiscarded) {
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
  // The pages of queues were partly zeroed by the driver.
  EXPECT_THAT(lost, Ge(9));
  EXPECT_LE(lost, 9 + static_cast<int>(driver->queue_pages().value()));
}

}  // namespace
}  // namespace guestmm::balloon_inflation_test
