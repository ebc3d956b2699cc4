// Inflation and deflation: how the device handles page numbers.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::inflating_device_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

GpaRange PageAt(uint32_t pfn) { return {ToGpa(Pfn(pfn)), kPageSize}; }

constexpr BalloonQueue kInflate = BalloonQueue::kInflate;
constexpr BalloonQueue kDeflate = BalloonQueue::kDeflate;

// Only inflate and deflate.
constexpr BalloonDeviceOptions kPlain = {.features = 0};

TEST(InflatingDevice, S5_5_6_2_DiscardsBeforeItAcknowledges) {
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
TEST(InflatingDevice, S5_5_6_2_DoesNotTouchDeflatedPages) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10, 0x11});
  const size_t before = balloon.discarded().size();
  balloon.Send(kDeflate, {0x11, 0x10});
  EXPECT_THAT(balloon.discarded(), SizeIs(before));
  EXPECT_EQ(balloon.at(kDeflate).used_idx(), 1);
  EXPECT_EQ(balloon.counters().deflated_pages, 2u);
}
TEST(InflatingDevice, APageMayBeInflatedAgain) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10});
  balloon.Send(kDeflate, {0x10});
  balloon.Send(kInflate, {0x10});
  EXPECT_THAT(balloon.discarded(), ElementsAre(PageAt(0x10), PageAt(0x10)));
  EXPECT_EQ(balloon.counters().inflated_pages, 2u);
  EXPECT_EQ(balloon.counters().repeated_pfns, 0u);
}
TEST(InflatingDevice, SkipsPagesOutsideGuestRam) {
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
TEST(InflatingDevice, DiscardsAPageOnceForEachChain) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10, 0x10});
  EXPECT_THAT(balloon.discarded(), ElementsAre(PageAt(0x10)));
  // It may be other memory by now, plugged in place of the former.
  balloon.Send(kInflate, {0x10});
  EXPECT_THAT(balloon.discarded(), ElementsAre(PageAt(0x10), PageAt(0x10)));
  EXPECT_EQ(balloon.counters().repeated_pfns, 2u);
}
TEST(InflatingDevice, TheNextDriverBeginsWithAnEmptyBalloon) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10});
  balloon.StopQueues();
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kDeflate, {0x10});
  EXPECT_EQ(balloon.counters().deflated_pages, 0u);
  balloon.Send(kInflate, {0x10});
  EXPECT_EQ(balloon.counters().inflated_pages, 2u);
  EXPECT_THAT(balloon.discarded(), ElementsAre(PageAt(0x10), PageAt(0x10)));
}
TEST(InflatingDevice, CountsDeflatedPagesThatWereNotIn) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {0x10});
  balloon.Send(kDeflate, {0x10, 0x10, 0x20});
  EXPECT_EQ(balloon.counters().deflated_pages, 1u);
  EXPECT_EQ(balloon.counters().repeated_pfns, 2u);
}
TEST(InflatingDevice, SkipsBuffersThatAreNotListsOfPages) {
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
// A list need not be aligned, and a chain may contain several.
TEST(InflatingDevice, S2_7_4_1_TakesListsWhereverTheyLie) {
  HostileBalloon balloon(kPlain);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {balloon.Words({0x10}, 0x8001),
                          balloon.Words({0x20, 0x21}, 0x9ffa)});
  EXPECT_THAT(balloon.discarded(),
              ElementsAre(PageAt(0x10), PageAt(0x20), PageAt(0x21)));
}
TEST(InflatingDevice, TakesTheLongestList) {
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

// On huge pages of 2 MiB, which the host can only discard as a whole.
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
  // `count` pages of the second half, from `first` on.
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
TEST_F(HugePagesTest, DoesNotDiscardItWhileAPageIsOut) {
  HostileBalloon balloon({.features = kBalloonFMustTellHost}, MakeHugeRam());
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, Half(0, 256));
  balloon.Send(kDeflate, Half(7, 1));
  balloon.Send(kInflate, Half(256, 256));
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  balloon.Send(kInflate, Half(7, 1));
  EXPECT_THAT(balloon.discarded(), ElementsAre(kHuge));
}
// Once the inflation was acknowledged the guest may reuse pages without telling
// the device first, unless it accepted MUST_TELL_HOST.
TEST_F(HugePagesTest, S5_5_6_2_WithoutMustTellHostLeavesAcknowledgedPages) {
  HostileBalloon balloon(kPlain, MakeHugeRam());
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, Half(0, 256));
  balloon.Send(kInflate, Half(256, 256));
  EXPECT_THAT(balloon.discarded(), IsEmpty());
}
TEST_F(HugePagesTest, S5_5_6_2_WithoutMustTellHostDiscardsAGranuleInOneChain) {
  HostileBalloon balloon(kPlain, MakeHugeRam());
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kInflate, {balloon.Words(Half(0, 256), 0x8000),
                          balloon.Words(Half(256, 256), 0x9000)});
  EXPECT_THAT(balloon.discarded(), ElementsAre(kHuge));
}

}  // namespace
}  // namespace guestmm::inflating_device_test
