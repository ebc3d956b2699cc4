// Chains that the device takes later: discards that are held or limited.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "guestmm/virtio/device/balloon_device.h"
#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::postponing_device_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr BalloonQueue kInflate = BalloonQueue::kInflate;
constexpr BalloonQueue kDeflate = BalloonQueue::kDeflate;
constexpr BalloonQueue kStats = BalloonQueue::kStats;
constexpr BalloonQueue kFreePage = BalloonQueue::kFreePage;
constexpr BalloonQueue kReporting = BalloonQueue::kReporting;

constexpr BalloonDeviceOptions kAll = {.features = kBalloonFeatures};

class PostponingDeviceTest : public ::testing::Test {
 protected:
  explicit PostponingDeviceTest(const BalloonDeviceOptions& options = kAll)
      : balloon_(options) {}
  void SetUp() override {
    ASSERT_TRUE(balloon_.Start());
    // The times at which the hypervisor is called.
    balloon_.OnDiscard([this] { times_.push_back(balloon_.time().Now()); });
  }
  // Offers `count` reports of a page each at once.
  void OfferReports(uint16_t count) {
    for (uint16_t i = 0; i < count; ++i) {
      balloon_.at(kReporting)
          .Describe(i, HostileBalloon::Pages(0x10000 + i * kPageSize));
      balloon_.at(kReporting).Offer(i);
    }
    balloon_.Kick(kReporting);
  }
  BalloonDevice& device() { return balloon_.device(); }

  HostileBalloon balloon_;
  std::vector<Nanoseconds> times_;
};

TEST_F(PostponingDeviceTest, AHeldDeviceTakesNoChainThatDiscards) {
  device().HoldDiscards(true);
  ASSERT_TRUE(device().StartHinting().ok());
  const uint32_t run = balloon_.config().free_page_hint_cmd_id;
  balloon_.Send(kInflate, {0x10});
  balloon_.Send(kFreePage, {balloon_.Words({run}, 0x9000),
                            HostileBalloon::Pages(0x20000)});
  balloon_.Send(kReporting, {HostileBalloon::Pages(0x30000)});
  balloon_.time().RunFor(std::chrono::hours(1));
  EXPECT_THAT(balloon_.discarded(), IsEmpty());
  EXPECT_EQ(balloon_.counters().reports, 0u) << "not taken";
  EXPECT_EQ(balloon_.used_notifications(), 0);
  for (const BalloonQueue queue : {kInflate, kFreePage, kReporting}) {
    EXPECT_EQ(balloon_.at(queue).used_idx(), 0);
  }
  // The others go on.
  balloon_.Send(kDeflate, {balloon_.Words({0x10}, 0xa000)});
  EXPECT_EQ(balloon_.at(kDeflate).used_idx(), 1);
  balloon_.Send(kStats, {VirtqDesc(balloon_.Words({}, 0xb000))});
  EXPECT_EQ(balloon_.counters().stats_updates, 1u);

  device().HoldDiscards(false);
  balloon_.time().RunUntilIdle();
  EXPECT_THAT(balloon_.discarded(), SizeIs(3));
  for (const BalloonQueue queue : {kInflate, kFreePage, kReporting}) {
    EXPECT_EQ(balloon_.at(queue).used_idx(), 1);
  }
}

TEST_F(PostponingDeviceTest, GoesOnWithTheFirstChainThatWasNotTaken) {
  balloon_.OnDiscard([this] { device().HoldDiscards(true); });
  OfferReports(3);
  for (uint16_t done = 1; done <= 3; ++done) {
    balloon_.time().RunUntilIdle();
    EXPECT_EQ(balloon_.at(kReporting).used_idx(), done)
        << "the chain in hand is acknowledged";
    device().HoldDiscards(false);
  }
  EXPECT_THAT(balloon_.discarded(),
              ElementsAre(GpaRange{Gpa(0x10000), kPageSize},
                          GpaRange{Gpa(0x11000), kPageSize},
                          GpaRange{Gpa(0x12000), kPageSize}));
}

TEST_F(PostponingDeviceTest, AHeldQueueCanBeStoppedAndResumed) {
  device().HoldDiscards(true);
  OfferReports(2);
  balloon_.time().RunUntilIdle();
  constexpr uint16_t kReportingIndex = 4;
  EXPECT_EQ(device().StopQueue(kReportingIndex).value(), 0);
  CountingNotifier used;
  const auto kick = device().ResumeQueue(
      kReportingIndex, LayOutVirtqueue(Gpa(5 * kPageSize), 4), used, 0);
  ASSERT_TRUE(kick.ok()) << kick.status();
  device().HoldDiscards(false);
  (*kick)->Notify();
  balloon_.time().RunUntilIdle();
  EXPECT_THAT(balloon_.discarded(), SizeIs(2));
  EXPECT_EQ(used.count(), 2);
}

TEST_F(PostponingDeviceTest, AResetOfAHeldDeviceForgetsItsChains) {
  device().HoldDiscards(true);
  OfferReports(1);
  balloon_.time().RunUntilIdle();
  device().SetStatus(0);
  EXPECT_EQ(device().status(), 0);
  device().HoldDiscards(false);
  balloon_.time().RunUntilIdle();
  EXPECT_THAT(balloon_.discarded(), IsEmpty());
}

// What the host wants holds for the next driver too.
TEST_F(PostponingDeviceTest, AResetDoesNotEndTheHold) {
  device().HoldDiscards(true);
  device().SetStatus(0);
  ASSERT_TRUE(balloon_.Start());
  OfferReports(1);
  balloon_.time().RunUntilIdle();
  EXPECT_THAT(balloon_.discarded(), IsEmpty());
}

// Four pages per second.
class LimitedDeviceTest : public PostponingDeviceTest {
 protected:
  static constexpr uint64_t kRate = 4 * kPageSize;
  LimitedDeviceTest()
      : PostponingDeviceTest(
            {.features = kBalloonFeatures, .max_discard_rate = kRate}) {}
};

TEST_F(LimitedDeviceTest, RestsAfterEachChain) {
  OfferReports(4);
  balloon_.time().RunUntilIdle();
  EXPECT_THAT(times_, ElementsAre(milliseconds(0), milliseconds(250),
                                  milliseconds(500), milliseconds(750)));
  EXPECT_EQ(balloon_.at(kReporting).used_idx(), 4);
}

TEST_F(LimitedDeviceTest, AChainIsAcknowledgedBeforeTheRest) {
  balloon_.at(kReporting)
      .OfferChain({HostileBalloon::Pages(0x10000, 100 * kPageSize)});
  balloon_.Kick(kReporting);
  balloon_.time().RunFor(Nanoseconds(0));
  EXPECT_EQ(balloon_.at(kReporting).used_idx(), 1);
  // It takes 25 s; also for another queue that discards.
  balloon_.at(kInflate).OfferChain({balloon_.Words({0x100})});
  balloon_.Kick(kInflate);
  balloon_.at(kDeflate).OfferChain({balloon_.Words({0x300}, 0x9000)});
  balloon_.Kick(kDeflate);
  balloon_.time().RunFor(seconds(25) - Nanoseconds(1));
  EXPECT_THAT(times_, SizeIs(1));
  EXPECT_EQ(balloon_.at(kDeflate).used_idx(), 1);
  balloon_.time().RunUntilIdle();
  EXPECT_THAT(times_, ElementsAre(seconds(0), seconds(25)));
}

// The time that the guest itself waits counts.
TEST_F(LimitedDeviceTest, DoesNotRestLongerThanTheRateDemands) {
  for (int i = 0; i < 3; ++i) {
    OfferReports(1);
    balloon_.time().RunFor(seconds(2));
  }
  EXPECT_THAT(times_, ElementsAre(seconds(0), seconds(2), seconds(4)));
}

TEST_F(LimitedDeviceTest, AResetDoesNotEndTheRest) {
  balloon_.Send(kReporting, {HostileBalloon::Pages(0x10000)});
  device().SetStatus(0);
  ASSERT_TRUE(balloon_.Start());
  balloon_.Send(kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_THAT(times_, ElementsAre(milliseconds(0), milliseconds(250)));
}

TEST_F(LimitedDeviceTest, TheRateCanBeChangedAtAnyTime) {
  OfferReports(4);
  balloon_.time().RunFor(milliseconds(100));
  device().SetMaxDiscardRate(2 * kPageSize);  // the rest ends
  balloon_.time().RunFor(milliseconds(700));
  device().SetMaxDiscardRate(0);
  balloon_.time().RunUntilIdle();
  EXPECT_THAT(times_, ElementsAre(milliseconds(0), milliseconds(100),
                                  milliseconds(600), milliseconds(800)));
}

TEST_F(LimitedDeviceTest, AHigherRateCountsAtOnce) {
  OfferReports(4);
  balloon_.time().RunFor(milliseconds(100));
  device().SetMaxDiscardRate(100 * kPageSize);
  balloon_.time().RunUntilIdle();
  EXPECT_THAT(times_, ElementsAre(milliseconds(0), milliseconds(100),
                                  milliseconds(110), milliseconds(120)));
}

TEST_F(LimitedDeviceTest, CanBeDestroyedDuringARest) {
  OfferReports(2);
  balloon_.time().RunFor(milliseconds(100));
  EXPECT_THAT(times_, SizeIs(1));
}

TEST_F(LimitedDeviceTest, TheLongestRestIsADay) {
  device().SetMaxDiscardRate(1);
  balloon_.at(kReporting)
      .OfferChain({HostileBalloon::Pages(kMiB, kMiB),
                   HostileBalloon::Pages(5 * kMiB, kMiB)});
  balloon_.Kick(kReporting);
  balloon_.time().RunFor(Nanoseconds(0));
  OfferReports(1);
  balloon_.time().RunUntilIdle();
  EXPECT_THAT(times_, ElementsAre(seconds(0), std::chrono::hours(24)));
}

}  // namespace
}  // namespace guestmm::postponing_device_test
