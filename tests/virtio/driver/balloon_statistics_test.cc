// Guest statistics: the device requests them by returning the one buffer.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_statistics_test {
namespace {

using ::testing::ElementsAre;

constexpr BalloonQueue kStats = BalloonQueue::kStats;
constexpr uint16_t kStatsIndex = 2;
constexpr BalloonDeviceOptions kWithStats = {.features = kBalloonFStatsVq};

// A buffer as a driver writes it: for each entry a tag of two bytes and a value
// of eight.
std::vector<std::byte> Entries(
    const std::vector<std::pair<uint16_t, uint64_t>>& entries) {
  std::vector<std::byte> bytes(entries.size() * 10);
  std::byte* to = bytes.data();
  for (const auto& [tag, value] : entries) {
    std::memcpy(to, &tag, 2);
    std::memcpy(to + 2, &value, 8);
    to += 10;
  }
  return bytes;
}

// --- The device.

TEST(StatisticsDevice, S5_5_6_3_2_TakesEntriesInAnyOrder) {
  HostileBalloon balloon(kWithStats);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kStats,
               {balloon.Bytes(Entries({{6, 600}, {0, 1}, {15, 1500}}))});
  BalloonStatistics expected;
  expected[BalloonStat::kAvailable] = 600;
  expected[BalloonStat::kSwapIn] = 1;
  expected[BalloonStat::kDirectReclaim] = 1500;
  EXPECT_EQ(balloon.device().statistics(), expected);
}
TEST(StatisticsDevice, S5_5_6_3_2_IgnoresTagsItDoesNotKnow) {
  HostileBalloon balloon(kWithStats);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(
      kStats,
      {balloon.Bytes(Entries({{16, 1}, {4, 400}, {0xffff, 2}, {0x0100, 3}}))});
  BalloonStatistics expected;
  expected[BalloonStat::kFree] = 400;
  EXPECT_EQ(balloon.device().statistics(), expected);
  EXPECT_EQ(balloon.counters().skipped(), 0u);
}
TEST(StatisticsDevice, TheLastValueOfARepeatedTagCounts) {
  HostileBalloon balloon(kWithStats);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kStats, {balloon.Bytes(Entries({{4, 1}, {4, 2}}))});
  EXPECT_EQ(balloon.device().statistics()[BalloonStat::kFree], 2u);
}
TEST(StatisticsDevice, EachUpdateReplacesTheLast) {
  HostileBalloon balloon(kWithStats);
  ASSERT_TRUE(balloon.Start());
  EXPECT_EQ(balloon.device().statistics(), BalloonStatistics());
  balloon.Send(kStats, {balloon.Bytes(Entries({{4, 1}}))});
  ASSERT_TRUE(balloon.device().RequestStatistics().ok());
  balloon.time().RunUntilIdle();
  balloon.Send(kStats, {balloon.Bytes(Entries({{5, 2}}))});
  EXPECT_EQ(balloon.device().statistics()[BalloonStat::kFree], std::nullopt);
  EXPECT_EQ(balloon.device().statistics()[BalloonStat::kTotal], 2u);
  EXPECT_EQ(balloon.counters().stats_updates, 2u);
}
TEST(StatisticsDevice, KeepsTheBufferUntilARequest) {
  HostileBalloon balloon(kWithStats);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kStats, {balloon.Bytes(Entries({{4, 1}}))});
  EXPECT_EQ(balloon.at(kStats).used_idx(), 0);
  EXPECT_EQ(balloon.used_notifications(), 0);
  ASSERT_TRUE(balloon.device().RequestStatistics().ok());
  balloon.time().RunUntilIdle();
  EXPECT_EQ(balloon.at(kStats).used_idx(), 1);
  EXPECT_EQ(balloon.used_notifications(), 1);
}
// If requested twice, or before there is a buffer, the guest is asked once.
TEST(StatisticsDevice, SendsOneRequestAtATime) {
  HostileBalloon balloon(kWithStats);
  ASSERT_TRUE(balloon.Start());
  ASSERT_TRUE(balloon.device().RequestStatistics().ok());
  balloon.time().RunUntilIdle();
  balloon.Send(kStats, {balloon.Bytes(Entries({{4, 1}}))});
  EXPECT_EQ(balloon.at(kStats).used_idx(), 0) << "they have come already";
  ASSERT_TRUE(balloon.device().RequestStatistics().ok());
  ASSERT_TRUE(balloon.device().RequestStatistics().ok());
  balloon.time().RunUntilIdle();
  ASSERT_TRUE(balloon.device().RequestStatistics().ok());
  balloon.time().RunUntilIdle();
  EXPECT_EQ(balloon.at(kStats).used_idx(), 1);
}
// A driver may have one buffer with the device. Given two, the device returns
// the first, so that none is lost.
TEST(StatisticsDevice, GivesTheFirstOfTwoBuffersBack) {
  HostileBalloon balloon(kWithStats);
  ASSERT_TRUE(balloon.Start());
  HostileDriver& driver = balloon.at(kStats);
  driver.Describe(0, balloon.Bytes(Entries({{4, 1}}), 0x8000));
  driver.Describe(1, balloon.Bytes(Entries({{4, 2}}), 0x9000));
  driver.Offer(0);
  driver.Offer(1);
  balloon.Kick(kStats);
  balloon.time().RunUntilIdle();
  EXPECT_EQ(driver.used_idx(), 1);
  EXPECT_EQ(driver.used(0).id, 0u);
  EXPECT_EQ(balloon.device().statistics()[BalloonStat::kFree], 2u);
}
TEST(StatisticsDevice, SkipsBuffersThatAreNotStatistics) {
  HostileBalloon balloon(kWithStats);
  ASSERT_TRUE(balloon.Start());
  const VirtqDesc good = balloon.Bytes(Entries({{4, 1}, {5, 2}}));
  VirtqDesc writable = good;
  writable.flags = kVirtqDescWrite;
  VirtqDesc odd = good;
  odd.len = 12;
  VirtqDesc too_long = good;
  too_long.len = 1030;
  HostileDriver& driver = balloon.at(kStats);
  uint16_t index = 0;
  for (const VirtqDesc& bad : {writable, odd, too_long}) {
    driver.Describe(index, bad);
    driver.Offer(index++);
    balloon.Kick(kStats);
    balloon.time().RunUntilIdle();
    EXPECT_EQ(balloon.device().statistics(), BalloonStatistics());
  }
  EXPECT_EQ(balloon.counters().skipped_writable, 1u);
  EXPECT_EQ(balloon.counters().skipped_unaligned, 1u);
  EXPECT_EQ(balloon.counters().skipped_too_long, 1u);
  EXPECT_EQ(driver.used_idx(), 2) << "all but the last";
}
TEST(StatisticsDevice, RefusesToAskADriverWithoutTheFeature) {
  HostileBalloon balloon(kWithStats);
  EXPECT_TRUE(absl::IsFailedPrecondition(balloon.device().RequestStatistics()));
  ASSERT_TRUE(balloon.Start(/*refused=*/kBalloonFStatsVq));
  EXPECT_EQ(Message(balloon.device().RequestStatistics()),
            "statistics requested of a driver that did not accept STATS_VQ");
}
TEST(StatisticsDevice, AResetForgetsThem) {
  HostileBalloon balloon(kWithStats);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kStats, {balloon.Bytes(Entries({{4, 1}}))});
  ASSERT_TRUE(balloon.device().RequestStatistics().ok());
  balloon.device().SetStatus(0);
  EXPECT_EQ(balloon.device().statistics(), BalloonStatistics());
  ASSERT_TRUE(balloon.Start());
  balloon.Send(kStats, {balloon.Bytes(Entries({{4, 2}}))});
  EXPECT_EQ(balloon.at(kStats).used_idx(), 0)
      << "the last driver's buffer, or a request to it, was kept";
}

// --- The driver.

TEST(StatisticsDriver, S5_5_6_3_1_OffersABufferWhenItIsReady) {
  BalloonGuest guest(kWithStats);
  ASSERT_TRUE(guest.Start().ok());
  EXPECT_EQ(guest.Offered(kStatsIndex), 1);
  EXPECT_EQ(guest.device().counters().stats_updates, 1u);
}
TEST(StatisticsDriver, S5_5_6_3_1_OffersAnotherAfterEachUse) {
  BalloonGuest guest(kWithStats);
  ASSERT_TRUE(guest.Start().ok());
  for (uint16_t i = 2; i < 300; ++i) {
    ASSERT_TRUE(guest.device().RequestStatistics().ok());
    guest.time().RunUntilIdle();
    ASSERT_EQ(guest.Offered(kStatsIndex), i);
    ASSERT_EQ(guest.device().counters().stats_updates, i);
  }
}
TEST(StatisticsDriver, S5_5_6_3_1_OffersAtMostOneBuffer) {
  BalloonGuest guest(kWithStats);
  ASSERT_TRUE(guest.Start().ok());
  const VirtqueueMemory memory =
      guest.slow().QueueMemory(guest.ram(), kStatsIndex);
  // At each event the device has one, except while the driver has it.
  guest.device().SetTarget(100);
  ASSERT_TRUE(guest.device().RequestStatistics().ok());
  guest.time().WaitUntil(
      [&] {
        const auto out = static_cast<uint16_t>(memory.available_idx().load() -
                                               memory.used_idx().load());
        EXPECT_LE(out, 1);
        return false;
      },
      std::chrono::seconds(1));
  EXPECT_EQ(memory.available_idx().load(), 2);
}
// The specification wants a multiple of 6 bytes, but an entry has 10, so a
// buffer is a multiple of 10.
TEST(StatisticsDriver, S5_5_6_3_1_SendsTheSameStatisticsEachTime) {
  BalloonGuest guest(kWithStats);
  ASSERT_TRUE(guest.Start().ok());
  const VirtqueueMemory memory =
      guest.slow().QueueMemory(guest.ram(), kStatsIndex);
  for (int i = 0; i < 3; ++i) {
    const auto last = static_cast<uint16_t>(memory.available_idx().load() - 1);
    const VirtqDesc buffer =
        memory.LoadDescriptor(memory.available_ring(memory.slot(last)).load());
    EXPECT_EQ(buffer.flags, 0) << "device-readable, alone";
    ASSERT_EQ(buffer.len, 50u);
    std::vector<uint16_t> tags;
    for (uint64_t at = 0; at < buffer.len; at += 10) {
      uint16_t tag = 0;
      std::memcpy(&tag, guest.Bytes(Gpa(buffer.addr + at), 2).data(), 2);
      tags.push_back(tag);
    }
    EXPECT_THAT(tags, ElementsAre(4, 5, 6, 11, 15));
    guest.TakeAllPages();
    ASSERT_TRUE(guest.device().RequestStatistics().ok());
    guest.time().RunUntilIdle();
  }
}
TEST(StatisticsDriver, S5_5_6_3_1_SendsCurrentValues) {
  BalloonGuest guest(kWithStats);
  ASSERT_TRUE(guest.Start().ok());
  const auto sent = [&](BalloonStat stat) {
    return guest.device().statistics()[stat].value();
  };
  const uint64_t free = sent(BalloonStat::kFree);
  EXPECT_EQ(sent(BalloonStat::kTotal), 4 * kMiB);
  EXPECT_EQ(free, 4 * kMiB - guest.driver().queue_pages().value() * kPageSize);
  EXPECT_LT(sent(BalloonStat::kAvailable), free);
  EXPECT_EQ(sent(BalloonStat::kAllocStall), 0u);

  const size_t taken = guest.TakeAllPages();
  EXPECT_EQ(sent(BalloonStat::kFree), free) << "not requested yet";
  ASSERT_TRUE(guest.device().RequestStatistics().ok());
  guest.time().RunUntilIdle();
  EXPECT_EQ(sent(BalloonStat::kFree), free - taken * kPageSize);
  EXPECT_GT(sent(BalloonStat::kAllocStall), 0u);
}
// MEMFREE is what the guest could allocate, wherever it is.
TEST(StatisticsDriver, PagesOnTheListsOfVcpusAreFree) {
  BalloonGuest guest(kWithStats, PagePoisonMode::kOff, nullptr,
                     PerCpuLimits{.batch = 1, .high = 4});
  ASSERT_TRUE(guest.Start().ok());
  const uint64_t free = guest.device().statistics()[BalloonStat::kFree].value();
  ASSERT_EQ(guest.allocator().Counts().cached, PageCount(0));
  const auto pfn = guest.allocator().Allocate(0, Order(0), kGfpUser);
  ASSERT_TRUE(pfn.has_value());
  guest.allocator().Free(0, *pfn, Order(0));
  ASSERT_GT(guest.allocator().Counts().cached, PageCount(0));
  ASSERT_TRUE(guest.device().RequestStatistics().ok());
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.device().statistics()[BalloonStat::kFree], free);
}
TEST(StatisticsDriver, WithoutTheFeatureThereIsNoBuffer) {
  BalloonGuest guest(kWithStats);
  ASSERT_TRUE(guest.Start({.features = 0}).ok());
  EXPECT_EQ(guest.device().counters().stats_updates, 0u);
}

}  // namespace
}  // namespace guestmm::balloon_statistics_test
